"""What the kernel has of a file in memory, and how to be rid of it."""

import ctypes
import mmap
import os
import time

PAGE = 4096
DEADLINE_S = 60


def drop(fd: int, at: int = 0) -> None:
    """No page from a byte on is in memory, nor a dirty one.

    A page that the kernel is busy with stays, so it is asked again.
    """
    os.fsync(fd)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        os.posix_fadvise(fd, at, 0, os.POSIX_FADV_DONTNEED)
        if not in_memory(fd, at):
            return
        assert time.monotonic() < deadline, "the kernel keeps what it was told to drop"


def in_memory(fd: int, at: int = 0) -> bool:
    """Whether any page from a byte on is; to read them to find out would begin to bring them in."""
    first = at // PAGE * PAGE
    length = os.fstat(fd).st_size - first
    if length <= 0:
        return False
    told = (ctypes.c_ubyte * -(-length // PAGE))()
    with mmap.mmap(fd, length, mmap.MAP_PRIVATE, offset=first) as pages:
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        assert not ctypes.CDLL(None).mincore(ctypes.c_void_p(address), length, told)
    return bool(bytes(told).translate(_LOWEST_BIT).strip(b"\0"))


_LOWEST_BIT = bytes(each & 1 for each in range(256))
