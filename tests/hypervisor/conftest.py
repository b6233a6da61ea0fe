"""A real libvirtd, and a store mounted where it can see it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirtd
import pytest
from command import Ramet
from fleet import Fleet

from bench.guest import build

BASE_XML = Path(__file__).parents[1] / "guest" / "golden.xml"


@pytest.fixture(scope="session")
def uri() -> Iterator[str]:
    with libvirtd.running() as found:
        yield found


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(tmp_path_factory.mktemp("guest"), Path(".venv/guest-cache"))


class Lab:
    """A mounted store with a base VM whose disk is random bytes."""

    def __init__(self, root: Path, uri: str) -> None:
        self.root, self.uri = root, uri
        self.ramet = Ramet(root / "store")
        self.mount = root / "mnt"
        self.disk = os.urandom(1 << 20)
        self.libvirt = libvirt.open(uri)
        self.mount.mkdir()
        self.ramet.run("init", self.ramet.store)
        self.ramet.run("mount", self.mount)
        self.ramet.run("volume", "create", "lab")
        (root / "golden.raw").write_bytes(self.disk)
        self.ramet.run("import", "-p", root / "golden.raw", "lab:/golden/golden.raw")
        self.ramet.run("vm", "add", "lab:/golden", "--xml", BASE_XML)

    def domains(self) -> list[str]:
        """Those with a file of this lab; others may use the same libvirtd."""
        return sorted(self._ours(self.libvirt.listAllDomains()))

    def pools(self) -> list[str]:
        return sorted(self._ours(self.libvirt.listAllStoragePools()))

    def _ours(self, found: Any) -> Iterator[str]:
        for each in found:
            with contextlib.suppress(libvirt.libvirtError):  # gone since the list was made
                if f"{self.root}/" in each.XMLDesc():
                    yield each.name()

    def names(self) -> list[str]:
        return sorted(os.listdir(self.mount / "lab"))

    def close(self) -> None:
        for vm in self.ramet.json("vm", "ls"):
            self.ramet.run("vm", "rm", "--force", vm["address"])
        self.ramet.run("umount")
        assert (self.domains(), self.pools()) == ([], [])
        self.libvirt.close()


@pytest.fixture
def lab(uri: str) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="ramet-lab-", dir="/var/tmp") as name:
        root = Path(name)
        root.chmod(0o711)  # QEMU runs as a user of its own
        made = Lab(root, uri)
        yield made
        made.close()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """A mounted store of its own with a base VM, and no domain or pool left at the end."""
    with (
        libvirtd.running() as uri,
        tempfile.TemporaryDirectory(prefix="ramet-fleet-", dir="/var/tmp") as name,
    ):
        Path(name).chmod(0o711)
        made = Fleet(Path(name), uri)
        yield made
        made.close()
