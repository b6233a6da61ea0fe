"""Each test gets a mount of its own, or shares its module's (``shared``) where it can."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounted import Mount, serve

from engine import Store


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with served(tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with served(tmp_path_factory.mktemp("shared")) as one:
        yield one


@contextmanager
def served(folder: Path) -> Iterator[Mount]:
    """Volumes lab and other, an empty snapshot of lab."""
    store, root = folder / "store", folder / "mnt"
    root.mkdir()
    Store.create(store)
    with Store.open(store) as opened:
        opened.create_volume("lab")
        opened.create_volume("other")
        opened.create_snapshot(opened.volume("lab"), "empty")
    one = serve(store, root)
    yield one
    if one.process.poll() is None:
        one.stop()
    assert not os.path.ismount(root)
