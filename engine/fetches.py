"""Cold reads whose answer threads of C write by themselves, to a descriptor, without Python.

The other way to finish a read that would have to wait (cold.py): there whoever asked goes on when a
thread has what he asked for, here the thread hands it to him (native/fetchers.c), and the engine
thread only begins and ends such reads.  What is promised is the same: the slots are pinned from the
instant the read began until its thread has done with them, whatever becomes of the file meanwhile,
and a block that fails its check reaches nobody: ``ended`` tells that, counted and named.

A front end has one of these, and stops it before its descriptor and its store go.
"""

import contextlib
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


class _Read(NamedTuple, Generic[Asker]):
    asker: Asker
    volume: Volume
    inode: Inode
    offset: int


class Fetches(Generic[Asker]):
    """All on the engine thread but ``stop``."""

    def __init__(self, store: Store) -> None:
        self._store, self._pool = store, store.pool
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._fetchers = native.Fetchers(
            threads=THREADS_MAX, jobs=READS_MAX, wake_fd=self.wake_fd
        )  # fmt: skip
        self._under_way: dict[int, _Read[Asker]] = {}  # by pin

    def begin(
        self, volume: Volume, ino: int, offset: int, size: int, fd: int,
        head: Callable[[int], bytes], asker: Asker,
    ) -> bool:  # fmt: skip
        """Read up to ``size`` bytes, short at the end of the file, and write them to ``fd`` behind
        ``head(how many)``.  False: nothing was begun, ask in another way.  Stale, IsADirectory."""
        inode = volume.file(ino)
        length = min(size, inode.size - offset)
        if length <= 0 or offset < 0:
            return False
        pin = self._pool.pin()
        self._under_way[pin] = _Read(asker, volume, inode, offset)
        begun = False
        try:
            tree = inode.tree or volume.data_tree(inode)
            begun = self._fetchers.begin(
                self._pool.core, tree, offset, length, head(length), fd, pin
            )  # fmt: skip
        finally:
            if not begun:
                del self._under_way[pin]
                self._pool.unpin(pin)
        return begun

    def ended(self) -> list[tuple[Asker, Exception | None]]:
        """The reads that have ended since the last call.  With Corrupt or OSError: nobody has been
        told yet."""
        tags, failed = self._fetchers.take()
        if not tags:
            return []
        reads = {pin: self._under_way.pop(pin) for pin in tags}
        for pin in tags:
            self._pool.unpin(pin)
        self._store.release_freed()
        errors = {each.tag: _told(reads[each.tag], each.error) for each in failed}
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


def _told(read: _Read[Asker], error: native.CorruptBlock | OSError) -> Exception:
    return read.volume.read_error(read.inode, read.offset, error)
