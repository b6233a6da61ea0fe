"""Peers that are a file system: on a loop device of their own, or in a directory that is given."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from bench.disks import file_system
from bench.harness.peer import File, TreePeer, fsync, write_files
from bench.peers.commands import kernel_knows, missing, not_root, quietly, version
from bench.peers.exported import ByGanesha

FICLONE = 0x40049409  # linux/fs.h
LIBC = ctypes.CDLL(None, use_errno=True)
SIZE_BYTES = 2 << 40  # sparse: what is written takes space, and images of 1 TiB fit


class FileSystemPeer(ByGanesha, TreePeer):
    """``FICLONE`` of whole files: what ``cp --reflink`` does, without a process to start."""

    kind: ClassVar[str]  # of mkfs and of /proc/filesystems
    package: ClassVar[str]
    make_options: ClassVar[tuple[str, ...]] = ()

    def detect(self) -> str | None:
        if self.given is not None:
            found = quietly("stat", "-f", "-c", "%T", self.given).strip()
            return None if found == self.kind else f"{self.given} is {found}, not {self.kind}"
        if not kernel_knows(self.kind) and shutil.which("modprobe") is None:
            return f"this kernel has no {self.kind}"
        return missing(f"mkfs.{self.kind}", package=self.package) or not_root()

    def start(self, undo: contextlib.ExitStack) -> None:
        if self.given is not None:
            self.root = Path(tempfile.mkdtemp(prefix="ramet-bench-", dir=self.given))
            undo.callback(shutil.rmtree, self.root, ignore_errors=True)
            self.settings["where"] = f"{self.given}, as it was mounted"
        else:
            made = file_system(self.folder, self.kind, SIZE_BYTES, *self.make_options)
            self.root = undo.enter_context(made)
            options = " ".join(self.make_options) or "no options"
            self.settings["where"] = f"loop device, mkfs.{self.kind} with {options}; mount defaults"
        self.settings["clone"] = "ioctl FICLONE, as cp --reflink=always"
        self.settings["durable"] = "fsync of the clone and its directory; of many: one syncfs"
        self.settings["version"] = version(f"mkfs.{self.kind}", "-V")

    def clone(self, source: str, target: str) -> None:
        from_fd = os.open(self.path(source), os.O_RDONLY)
        try:
            to_fd = os.open(self.path(target), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                fcntl.ioctl(to_fd, FICLONE, from_fd)
            finally:
                os.close(to_fd)
        finally:
            os.close(from_fd)

    def clone_command(self, source: str, target: str) -> list[str] | None:
        return ["cp", "--reflink=always", str(self.path(source)), str(self.path(target))]

    def sync(self, names: Sequence[str]) -> None:
        if len(names) == 1:
            fsync(self.path(names[0]))
            fsync(self.path(names[0]).parent)
        else:
            syncfs(self.root)

    def make_tree(self, name: str, files: Iterable[File]) -> None:
        (self.root / name).mkdir()
        write_files(self.root / name, files)
        syncfs(self.root)

    def clone_tree(self, source: str, target: str) -> None:
        quietly(*self.clone_tree_command(source, target))

    def clone_tree_command(self, source: str, target: str) -> list[str]:
        return ["cp", "-a", "--reflink=always", str(self.root / source), str(self.root / target)]

    def sync_tree(self, name: str) -> None:
        syncfs(self.root)

    def reclaim(self) -> None:
        syncfs(self.root)

    def used_bytes(self) -> int:
        syncfs(self.root)
        told = os.statvfs(self.root)
        return (told.f_blocks - told.f_bfree) * told.f_frsize


def syncfs(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    try:
        if LIBC.syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(fd)
