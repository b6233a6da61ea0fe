"""Slab files: where the blocks are.  The only code that knows blocks live in local files.

A pool on RADOS or S3 would take this module's place.  A slab is allocated on disk when it is made,
as long as the host has room to spare, so that writes into it are sequential and cannot meet a full
disk.  A slab made when room is short is sparse: then a write may meet a full disk, and changes
nothing.

A new slab's directory entry becomes durable in ``sync``, with the commit that first refers to it:
so every fsync of the store is one of a commit, and one that fails is never repeated.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import native
from engine import errors

SPARE_BYTES = 64 << 20  # a slab is allocated whole only if this and three more slabs stay free


class SlabPool:
    """The open slab files of one store."""

    def __init__(self, path: Path, slab_bytes: int, *, read_only: bool = False) -> None:
        self._path = path
        self._slab_bytes = slab_bytes
        self._read_only = read_only
        self._fds: dict[int, int] = {}
        self._new_names = False

    @property
    def pattern(self) -> str:
        """Where a slab's file is, as a printf format for its number."""
        return str(self._path).replace("%", "%%") + "/%08d.slab"

    def file(self, slab: int) -> Path:
        return Path(self.pattern % slab)

    def open(self, slab: int) -> int:
        """Open an existing slab; Corrupt when its file is missing."""
        flags = os.O_RDONLY if self._read_only else os.O_RDWR
        try:
            self._fds[slab] = os.open(self.file(slab), flags | os.O_CLOEXEC)
        except FileNotFoundError:
            raise errors.Corrupt(f"slab file {self.file(slab)} is missing; restore it") from None
        return self._fds[slab]

    def create(self, slab: int) -> int:
        """Make a slab; NoSpace when the host has not even room for an empty file."""
        try:
            fd = os.open(self.file(slab), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno in errors.DISK_FULL:
                raise errors.NoSpace(errors.HOST_IS_FULL) from error
            raise
        try:
            self._allocate(fd)
        except OSError:
            os.close(fd)
            raise
        self._fds[slab] = fd
        self._new_names = True
        return fd

    def _allocate(self, fd: int) -> None:
        host = os.fstatvfs(fd)
        if host.f_bavail * host.f_frsize < SPARE_BYTES + 4 * self._slab_bytes:
            return
        try:
            native.allocate(fd, 0, self._slab_bytes)
        except OSError as error:
            if error.errno in errors.DISK_FULL:
                os.ftruncate(fd, 0)  # others took the room meanwhile: then it is sparse
            elif error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise

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

    def begin_write_back(self) -> None:
        """What was written is on its way to the disk, so that ``sync`` finds little left: for who
        writes much and then waits for it.  Any thread; nothing is durable by it, and no error is
        taken from ``sync``."""
        for fd in list(self._fds.values()):
            native.begin_write_back(fd)

    def sync(self, slabs: Iterable[int]) -> None:
        """Make what was written to these slabs, and the names of new ones, durable."""
        new_names, self._new_names = self._new_names, False
        for slab in slabs:
            os.fdatasync(self._fds[slab])
        if new_names:
            self._sync_names()

    def _sync_names(self) -> None:
        directory = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
