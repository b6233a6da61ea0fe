"""Threads of C that fetch blocks and hand them on: the facade of ``fetchers.c``.

All but ``stop`` runs on the engine thread.  Nothing is freed by itself: a process that was forked
from one with threads has the object, but not the threads.
"""

import mmap
from typing import Any, NamedTuple

from native._core import ffi, lib
from native.errors import CorruptBlock
from native.extents import ExtentMaps, Tree

TAKEN_MAX = 64
FETCH_BYTES_MAX: int = lib.RMT_FETCH_LARGE


class Note(NamedTuple):
    """A job that failed, so that nothing was handed on; without an error, one that had nothing to
    wait for."""

    tag: int
    error: CorruptBlock | OSError | None


class Fetchers:
    """Some threads and what they fetch into.  ``wake_fd``, an eventfd that does not block, becomes
    readable when there is something to be taken soon."""

    def __init__(self, *, threads: int, jobs: int, wake_fd: int) -> None:
        self._c: Any = lib.rmt_fetchers_new(threads, jobs, wake_fd)
        if self._c == ffi.NULL:
            raise MemoryError("no memory for the buffers of cold reads")
        self._tags = ffi.new("uint64_t[]", TAKEN_MAX)
        self._noted = ffi.new("rmt_fetched[]", TAKEN_MAX)
        self._notes = ffi.new("uint32_t *")

    def begin(
        self, core: ExtentMaps, tree: Tree, offset: int, length: int, prefix: bytes, fd: int,
        tag: int,
    ) -> bool:  # fmt: skip
        """Have a range fetched, and written to ``fd`` behind the prefix.  False: nothing was begun,
        for there are too many, or a node of the map is not in memory, or damaged.

        The slots stay pinned, and ``fd`` open, until ``take`` has told the tag.
        """
        status = lib.rmt_fetch_begin(
            self._c, core.pointer, tree.c, offset, length, prefix, len(prefix), fd, tag
        )
        return bool(status == lib.RMT_OK)

    def take(self) -> tuple[list[int], list[Note]]:
        """The tags of jobs that have ended since the last call, and what is to be said of some."""
        tags: list[int] = []
        notes: list[Note] = []
        count = TAKEN_MAX
        while count == TAKEN_MAX:
            count = lib.rmt_fetch_take(self._c, self._tags, TAKEN_MAX, self._noted, self._notes)
            tags += ffi.unpack(self._tags, count)
            if self._notes[0]:
                notes += [Note(job.tag, _error(job)) for job in self._noted[0 : self._notes[0]]]
        return tags, notes

    def stop(self) -> None:
        """Take on no more, and wait for what is under way; any thread."""
        lib.rmt_fetchers_stop(self._c)

    def close(self) -> None:
        """After ``stop``, when all has been taken."""
        if self._c is not None:
            lib.rmt_fetchers_free(self._c)
            self._c = None


def _error(job: Any) -> CorruptBlock | OSError | None:
    if job.status == lib.RMT_OK:
        return None
    if job.status == lib.RMT_CORRUPT_BLOCK:
        return CorruptBlock(job.failure.block, job.failure.address)
    return OSError(job.failure.error, "reading a slab failed")


def buffer_of_c(memory: mmap.mmap) -> Any:
    """What ``Core.read_now`` fills, for as long as somebody has it."""
    return ffi.from_buffer("uint8_t[]", memory, require_writable=True)
