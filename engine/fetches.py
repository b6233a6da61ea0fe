"""Reads whose answer threads of C write by themselves, to a descriptor, when they have to wait.

The other way to finish a cold read (cold.py): there whoever asked goes on when a thread has what he
asked for, here the thread hands it to him (native/fetchers.c), and the engine thread only begins
and ends such reads.  What is promised is the same: the slots are pinned from the instant the read
began until its thread has done with them, whatever becomes of the file meanwhile, and a block that
fails its check reaches nobody: ``ended`` tells that, counted and named.

A file that was cold at the last look is not looked at again, for it is the look that sends the
request to the disk: a thread does both, until one finds that it had nothing to wait for.

A front end has one of these, and stops it before its descriptor and its store go.
"""

import contextlib
import mmap
import os
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import native
from engine.inode import Inode
from engine.store import Store
from engine.volume import Volume

Asker = TypeVar("Asker")

THREADS_MAX = 32  # as many as a fast disk needs to be busy
READS_MAX = 128  # under way, of up to 128 KiB each; and a quarter as many of up to BYTES_MAX
BYTES_MAX = native.FETCH_BYTES_MAX
FILES_MAX = 4096  # that are known to be cold

BEGUN, REFUSED = -1, -2


class _Read(NamedTuple, Generic[Asker]):
    asker: Asker
    file: int
    volume: Volume
    inode: Inode
    offset: int


class Fetches(Generic[Asker]):
    """All on the engine thread but ``stop``.  What need not wait is read into ``output``."""

    def __init__(self, store: Store, output: mmap.mmap) -> None:
        self._store, self._pool = store, store.pool
        self._output = native.buffer_of_c(output)
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._fetchers = native.Fetchers(
            threads=THREADS_MAX, jobs=READS_MAX, wake_fd=self.wake_fd
        )  # fmt: skip
        self._under_way: dict[int, _Read[Asker]] = {}  # by pin
        self._cold: set[int] = set()

    def read(
        self, file: int, volume: Volume, ino: int, offset: int, size: int, fd: int,
        head: Callable[[int], bytes], asker: Asker,
    ) -> int:  # fmt: skip
        """Up to ``size`` bytes (BYTES_MAX at most), short at the end of the file: how many were
        read at once, or BEGUN when they will be written to ``fd`` behind ``head(how many)``, or
        REFUSED, when another way has to be gone.  ``file`` is any number for what is read.  Stale,
        IsADirectory, InvalidArgument."""
        inode = volume.file(ino)
        length = min(size, inode.size - offset)
        if length <= 0:
            return 0
        tree = inode.tree or volume.data_tree(inode)
        core = self._pool.core
        if file not in self._cold:
            done = core.read_now(tree, offset, self._output, length)
            if done:
                return length
            if done is None:
                return REFUSED
            self._found_cold(file)
        pin = self._pool.pin()
        self._under_way[pin] = _Read(asker, file, volume, inode, offset)
        begun = False
        try:
            begun = self._fetchers.begin(core, tree, offset, length, head(length), fd, pin)
        finally:
            if not begun:
                del self._under_way[pin]
                self._pool.unpin(pin)
        return BEGUN if begun else REFUSED

    def _found_cold(self, file: int) -> None:
        if len(self._cold) >= FILES_MAX:
            self._cold.clear()
        self._cold.add(file)

    def ended(self) -> list[tuple[Asker, Exception | None]]:
        """The reads that have ended since the last call.  With Corrupt or OSError: nobody has been
        told yet."""
        tags, notes = self._fetchers.take()
        if not tags:
            return []
        reads = {pin: self._under_way.pop(pin) for pin in tags}
        for pin in tags:
            self._pool.unpin(pin)
        self._store.release_freed()
        errors: dict[int, Exception] = {}
        for pin, error in notes:
            read = reads[pin]
            if error is None:
                self._cold.discard(read.file)
            else:
                errors[pin] = _said(read, error)
        return [(read.asker, errors.get(pin)) for pin, read in reads.items()]

    def woken(self) -> None:
        """``wake_fd`` is not readable until there is something new.  Before ``ended``."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)

    def stop(self) -> None:
        """Begin no more, and wait for those under way; any thread.  They are to be ``ended``."""
        self._fetchers.stop()

    def close(self) -> None:
        assert not self._under_way, "its reads have not been ended"
        self._fetchers.close()
        os.close(self.wake_fd)


def _said(read: _Read[Asker], error: native.CorruptBlock | OSError) -> Exception:
    """What the asker is told; whatever else goes wrong on the way, it is told something."""
    try:
        return read.volume.read_error(read.inode, read.offset, error)
    except Exception as worse:
        return worse
