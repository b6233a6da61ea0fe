"""Other ways to make VMs of a VM: virt-clone, and bare defines as the yardstick."""

import contextlib
import shutil
import uuid
from pathlib import Path

import libvirt

from bench.harness.peer import VmPeer
from bench.peers.commands import missing, quietly, taken_bytes, version
from bench.peers.xfs import Xfs

URI = "qemu:///system"


class VirtClone(VmPeer):
    """One command for each VM, as its users script it; disks are copied in full."""

    name = "virt-clone"
    title = "virt-clone"
    role = "vms"
    options: tuple[str, ...] = ()

    def detect(self) -> str | None:
        return missing("virt-clone", package="virtinst")

    def start(self, undo: contextlib.ExitStack) -> None:
        self.root = self.folder
        self._note()

    def _note(self) -> None:
        words = " ".join(["virt-clone", *self.options])
        self.settings["clone"] = f"{words} --original BASE --name VM --file DISK, one after another"
        self.settings["version"] = version("virt-clone", "--version")

    def add_base(self, disk: Path, xml: str, prefix: str) -> None:
        self._prefix = f"{prefix}-{self.name}"
        own = self.root / f"{self._prefix}.raw"
        shutil.copyfile(disk, own)
        connection = libvirt.open(URI)
        connection.defineXML(xml.format(name=self._prefix, uuid=uuid.uuid4(), disk=own))
        connection.close()

    def clone(self, source: str, target: str) -> None:
        quietly("virt-clone", "-q", "--connect", URI, "--original", source, "--name", target,
                "--file", self.root / f"{target}.raw", *self.options)  # fmt: skip

    def clone_vms(self, name: str, count: int) -> None:
        for n in range(count):
            self.clone(self._prefix, f"{self._prefix}-{name}-{n}")

    def used_bytes(self) -> int:
        return taken_bytes(self.root)


class VirtCloneReflink(VirtClone):
    """The same with reflinks, on an XFS of its own."""

    name = "virt-clone-reflink"
    title = "virt-clone --reflink on XFS"
    options = ("--reflink",)

    def detect(self) -> str | None:
        return super().detect() or Xfs(self.given).detect()

    def start(self, undo: contextlib.ExitStack) -> None:
        disk = Xfs(self.given)
        disk.folder = self.folder
        disk.start(undo)
        self.root = disk.root
        self._note()
        self.settings["where"] = disk.settings["where"]


class Define(VmPeer):
    """``virDomainDefineXML`` on an open connection and nothing else: no disk, no identity."""

    name = "define"
    title = "bare virDomainDefineXML"
    role = "vms"

    def detect(self) -> str | None:
        return None

    def start(self, undo: contextlib.ExitStack) -> None:
        self._connection = libvirt.open(URI)
        undo.callback(self._connection.close)
        self.settings["clone"] = "virDomainDefineXML of the base's XML with another name and UUID"

    def add_base(self, disk: Path, xml: str, prefix: str) -> None:
        self._xml, self._disk, self._prefix = xml, disk, f"{prefix}-{self.name}"

    def clone(self, source: str, target: str) -> None:
        self._connection.defineXML(
            self._xml.format(name=target, uuid=uuid.uuid4(), disk=self._disk)
        )

    def clone_vms(self, name: str, count: int) -> None:
        for n in range(count):
            self.clone("", f"{self._prefix}-{name}-{n}")

    def used_bytes(self) -> int:
        return 0
