"""btrfs: reflinks of files, and snapshots of subvolumes, which are whole datastores."""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.harness.peer import File, write_files
from bench.peers.commands import quietly
from bench.peers.file_system import FileSystemPeer, syncfs

NAMES_MAX = 500  # in one command
SNAP_CREATE = 0x50009401  # linux/btrfs.h


def batched(names: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), count):
        yield names[first : first + count]


class Btrfs(FileSystemPeer):
    name = "btrfs"
    title = "btrfs reflink"
    kind = "btrfs"
    package = "btrfs-progs"


class BtrfsSnapshot(Btrfs):
    """Each image is alone in a subvolume, of which a clone is a snapshot."""

    name = "btrfs-snapshot"
    title = "btrfs subvolume snapshot"
    data_path_of = "btrfs"

    def start(self, undo: contextlib.ExitStack) -> None:
        super().start(undo)
        self.settings["clone"] = "ioctl SNAP_CREATE, as btrfs subvolume snapshot; one image in each"

    def path(self, name: str) -> Path:
        return self.root / name / "image"

    def make(self, name: str, size_bytes: int) -> None:
        quietly("btrfs", "subvolume", "create", self.root / name)
        super().make(name, size_bytes)

    def clone(self, source: str, target: str) -> None:
        self.clone_tree(source, target)

    def clone_command(self, source: str, target: str) -> list[str] | None:
        return self.clone_tree_command(source, target)

    def sync(self, names: Sequence[str]) -> None:
        syncfs(self.root)

    def delete(self, names: Sequence[str]) -> None:
        for some in batched(names, NAMES_MAX):
            quietly("btrfs", "subvolume", "delete", *(self.root / name for name in some))

    def make_tree(self, name: str, files: Iterable[File]) -> None:
        quietly("btrfs", "subvolume", "create", self.root / name)
        write_files(self.root / name, files)
        syncfs(self.root)

    def clone_tree(self, source: str, target: str) -> None:
        fd, into = os.open(self.root / source, os.O_RDONLY), os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(into, SNAP_CREATE, bytearray(struct.pack("<q4088s", fd, target.encode())))
        finally:
            os.close(fd)
            os.close(into)

    def clone_tree_command(self, source: str, target: str) -> list[str]:
        words = [str(self.root / source), str(self.root / target)]
        return ["btrfs", "subvolume", "snapshot", *words]
