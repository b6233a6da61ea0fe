"""The data of an image, read by a thread that is ahead of who writes it into the store.

Reading costs less than writing, so both at once take the time of the one.  From time to time the
thread calls ``begin_write_back`` as well: else all of the image would be in memory when it is
committed, and the commit would wait for the disk while nothing else is to be done.

The thread has a few buffers and waits when all are full.  What it touches is its own: its
descriptor, which it closes, and buffers that are not given out.  So whoever stops taking says so
(``stop``) and need not wait, however long a disk, or a server far away, takes over the last read.
"""

import errno
import mmap
import os
from collections.abc import Callable
from queue import SimpleQueue

from engine.superblock import BLOCK_BYTES
from service.steps import Started

BUFFER_BYTES = 1 << 20  # what others wait for while it is written into the store
BUFFERS = 8
WRITE_BACK_BUFFERS = 64
Piece = tuple[int, memoryview]  # (offset, bytes)


class ImageReader:
    """Buffers of pieces in order of their offsets: holes are left out.

    ``take`` and ``stop`` are called by one thread at a time, with nothing of the last buffer used
    after the next ``take``.
    """

    def __init__(self, fd: int, begin_write_back: Callable[[], object]) -> None:
        self._fd = os.dup(fd)
        self._begin_write_back = begin_write_back
        self._free: SimpleQueue[mmap.mmap | None] = SimpleQueue()
        self._full: SimpleQueue[tuple[mmap.mmap, list[Piece]] | None] = SimpleQueue()
        self._taken: mmap.mmap | None = None
        self._stopped = False
        for _ in range(BUFFERS):
            self._free.put(mmap.mmap(-1, BUFFER_BYTES))  # of whole pages: copied at twice the rate
        self._thread = Started(self._run)

    @property
    def ready(self) -> bool:
        """Whether ``take`` waits for nothing."""
        return not self._full.empty()

    def take(self) -> list[Piece]:
        """The next pieces; none at the end.  Raises what reading them raised."""
        if self._taken is not None:
            self._free.put(self._taken)
            self._taken = None
        found = self._full.get()
        if found is None:
            self._thread.result()
            return []
        self._taken, pieces = found
        return pieces

    def stop(self) -> None:
        """No more is taken."""
        self._stopped = True
        self._free.put(None)

    def _run(self) -> None:
        at: int | None = 0
        read = 0
        try:
            while at is not None:
                buffer = self._free.get()
                if buffer is None or self._stopped:
                    return
                pieces, at = read_pieces(self._fd, at, memoryview(buffer))
                if pieces:
                    self._full.put((buffer, pieces))
                    read += 1
                    if read % WRITE_BACK_BUFFERS == 0:
                        self._begin_write_back()
        finally:
            os.close(self._fd)
            self._full.put(None)


def read_pieces(fd: int, at: int, buffer: memoryview) -> tuple[list[Piece], int | None]:
    """Data of a file at or after ``at``, as much as the buffer holds; and where to go on.

    All but the last piece of a range of data end with a block, so that none is written twice.
    """
    pieces: list[Piece] = []
    used = 0
    while used < len(buffer):
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # else: only a hole is left
                raise
            return pieces, None
        size = min(os.lseek(fd, at, os.SEEK_HOLE) - at, len(buffer) - used - at % BLOCK_BYTES)
        if size <= 0:
            break
        done = os.preadv(fd, [buffer[used : used + size]], at)
        if not done:  # truncated meanwhile
            return pieces, None
        pieces.append((at, buffer[used : used + done]))
        at += done
        used += -(-done // BLOCK_BYTES) * BLOCK_BYTES
    return pieces, at
