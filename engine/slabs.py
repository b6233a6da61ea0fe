"""Slab files: where the blocks are.  The only code that knows blocks live in local files.

A pool on RADOS or S3 would take this module's place.  A slab is allocated on disk when it is made,
as long as the host has room to spare, so that writes into it are sequential and cannot meet a full
disk.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from engine import errors

HOST_RESERVE_BYTES = 64 << 20  # left free for metadata, so that deleting and gc always work


class SlabPool:
    """The open slab files of one store."""

    def __init__(self, path: Path, slab_bytes: int, *, read_only: bool = False) -> None:
        self._path = path
        self._slab_bytes = slab_bytes
        self._read_only = read_only
        self._fds: dict[int, int] = {}

    def file(self, slab: int) -> Path:
        return self._path / f"{slab:08d}.slab"

    def open(self, slab: int) -> int:
        """Open an existing slab; Corrupt when its file is missing."""
        flags = os.O_RDONLY if self._read_only else os.O_RDWR
        try:
            self._fds[slab] = os.open(self.file(slab), flags | os.O_CLOEXEC)
        except FileNotFoundError:
            raise errors.Corrupt(f"slab file {self.file(slab)} is missing; restore it") from None
        return self._fds[slab]

    def create(self, slab: int) -> int:
        """Make a slab (durably: its directory is synced); NoSpace when the host is full."""
        host = os.statvfs(self._path)
        free = host.f_bavail * host.f_frsize
        if free < HOST_RESERVE_BYTES + min(self._slab_bytes, 16 << 20):
            raise errors.NoSpace("the host file system is full; delete files and run `ramet gc`")
        fd = os.open(self.file(slab), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if free >= HOST_RESERVE_BYTES + 4 * self._slab_bytes:
                os.posix_fallocate(fd, 0, self._slab_bytes)
            directory = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError:
            os.close(fd)
            raise
        self._fds[slab] = fd
        return fd

    def open_unbuffered(self, slab: int) -> int:
        """A descriptor that reads the medium, past the page cache; the caller closes it."""
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            return os.open(self.file(slab), flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:  # else: a file system without O_DIRECT
                raise
        return os.open(self.file(slab), flags)

    def fd(self, slab: int) -> int:
        return self._fds[slab]

    def backed_bytes(self) -> int:
        """Space that the slabs take on the host's file system."""
        return sum(os.fstat(fd).st_blocks * 512 for fd in self._fds.values())

    def sync(self, slabs: Iterable[int]) -> None:
        """Make what was written to these slabs durable."""
        for slab in slabs:
            os.fdatasync(self._fds[slab])

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
