"""A served store that presents."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import client
import libvirtd
import pytest
from presented import Presented, presented


@pytest.fixture
def shared() -> Iterator[Presented]:
    with tempfile.TemporaryDirectory(prefix="ramet-shares-", dir="/var/tmp") as name:
        Path(name).chmod(0o711)  # QEMU runs as a user of its own
        with presented(Path(name)) as made:
            yield made


@pytest.fixture(scope="session")
def linux(tmp_path_factory: pytest.TempPathFactory) -> client.Client:
    return client.make(tmp_path_factory.mktemp("client") / "made", Path(".venv/guest-cache"))


@pytest.fixture(scope="session")
def uri() -> Iterator[str]:
    with libvirtd.running() as found:
        yield found
