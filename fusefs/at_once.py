"""Reads and writes that need not wait, answered the moment they come from the device (device.c).

Each is one step of the engine on the loop's thread, as it is by the ordinary way (operations.py),
where one goes that has to wait: for room among the dirty nodes, or for what is not in memory.  A
read that only has to wait for slots is fetched, and answered, by a thread (cold_answers.py), as
long as there are not too many of them.
"""

import ctypes
import mmap
from collections.abc import Callable

from engine.cold import Cold
from engine.fetches import BEGUN, BYTES_MAX
from fusefs.cold_answers import Reads
from fusefs.errnos import FAILURES, errno_of
from fusefs.extra import LATER, library
from fusefs.operations import Operations

TAKEN = LATER + 1
HEADER_BYTES_MAX = 1 << 16  # what the kernel may send beside the data of a write

_READ = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_uint64] * 5)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_uint64] * 4, ctypes.c_uint32)
_set = library.ramet_answer_at_once
_set.argtypes = [_READ, _WRITE, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_set.restype = None
_kept: list[object] = []  # what C has pointers to, of the mount that there is


def begin(operations: Operations, full: Callable[[], bool]) -> Reads:
    """For the mount that there is; ``full`` says whether a change must wait for room.  Returns what
    has to be run meanwhile, and closed at the end."""
    opened, used, drop = operations.opened, operations.used, operations.drop
    number_of = operations.number_of
    # On a page's start: the kernel copies into it, and out of it again, in half the time.
    out, into = mmap.mmap(-1, BYTES_MAX), mmap.mmap(-1, BYTES_MAX + HEADER_BYTES_MAX)
    data = memoryview(into)
    reads = Reads(operations.store, operations.known, out)

    def read(fh: int, offset: int, size: int, direct: int, request: int) -> int:
        if size > BYTES_MAX:  # a short answer would be the end of the file
            return LATER
        try:
            volume, ino = opened(fh)
            if not direct:
                used(fh, offset, size)
            kept_by = 0 if direct else number_of(fh)
            done = reads.read(fh, volume, ino, offset, size, (request, kept_by))
        except FAILURES as error:
            return -errno_of(error)
        except BaseException:  # into C it would be an answer of no bytes; it is raised again there
            return LATER
        return done if done >= 0 else TAKEN if done == BEGUN else LATER

    def write(fh: int, offset: int, size: int, direct: int, uid: int) -> int:
        try:
            if full():
                return LATER
            volume, ino = opened(fh)
            if uid:
                operations.strip(volume, ino, uid)
            if not direct:
                used(fh, offset, size)
            done = volume.write(ino, offset, data[:size], wait=False)
        except Cold:
            return LATER
        except FAILURES as error:
            return -errno_of(error)
        except BaseException:
            return LATER
        operations.writes += 1
        return TAKEN if direct and drop(fh, offset, done, direct) else done

    calls = _READ(read), _WRITE(write)
    addresses = [
        ctypes.addressof(ctypes.c_char.from_buffer(memory)) for memory in (out, into)
    ]  # fmt: skip
    _kept[:] = [calls, out, into]
    _set(*calls, *addresses, len(into))
    return reads


def end() -> None:
    """Before the session goes."""
    _set(_READ(), _WRITE(), None, None, 0)
    _kept.clear()
