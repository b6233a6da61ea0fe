"""copy_file_range, fallocate and lseek for pyfuse3, which binds none of them, and arguments that
it drops.

Importing this module loads ``extra_ops.so`` in front of libfuse; it must come before the first
import of pyfuse3, and ``fusefs/__init__.py`` sees to that.

The requests come inside a task of pyfuse3 that cannot wait for us.  lseek changes nothing and is
answered there and then, unless it meets what is not in memory.  copy_file_range and fallocate wait
for room among the dirty nodes like every change, and until what they need is in memory: each goes
on in a task of its own and is answered from there, and so does that lseek.  The file handles stay
valid meanwhile, because the kernel releases a file only after its requests were answered.
"""

import contextlib
import ctypes
import errno
import sys
from collections.abc import Awaitable, Callable

import trio

from engine.errors import RametError
from fusefs.build import LIBRARY

_COPY = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_uint64] * 5)
_ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_uint64] * 4)
_SEEK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_uint64] * 3)
LATER = -(1 << 63)  # not answered yet

if "pyfuse3" in sys.modules:
    raise ImportError("fusefs stands in front of libfuse: import it before pyfuse3")
library = ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)
_answer_copy = library.ramet_answer_copy
_answer_allocate = library.ramet_answer_allocate
_answer_seek = library.ramet_answer_seek
for _answer in (_answer_copy, _answer_allocate, _answer_seek):
    _answer.argtypes, _answer.restype = [ctypes.c_void_p, ctypes.c_int64], None
_writer = ctypes.c_uint32.in_dll(library, "ramet_writer")
_direct = ctypes.c_uint64.in_dll(library, "ramet_direct")
_drop_pages = library.ramet_drop_pages
_drop_pages.argtypes, _drop_pages.restype = [ctypes.c_uint64] * 5, None
_answer_error = library.ramet_answer_error
_answer_error.argtypes, _answer_error.restype = [ctypes.c_uint64, ctypes.c_int], None
_kept: list[object] = []

device: Callable[[], int] = library.ramet_device
"""The descriptor that the mount there is answers requests by."""
library.ramet_device.argtypes, library.ramet_device.restype = [], ctypes.c_int
statfs_inode: Callable[[], int] = library.ramet_statfs_inode
library.ramet_statfs_inode.argtypes = library.ramet_setxattr_flags.argtypes = []
library.ramet_statfs_inode.restype = ctypes.c_uint64
setxattr_flags: Callable[[], int] = library.ramet_setxattr_flags
"""Of the request whose handler is about to begin; another's after its first ``await``."""


def writer() -> int:
    """The user who sent the request to write whose handler begins; ask before any ``await``."""
    return _writer.value


def direct() -> bool:
    """Whether the request to read or write whose handler begins goes past the kernel's pages; ask
    before any ``await``."""
    return bool(_direct.value)


def drop_pages(inode: int, offset: int, length: int, request: int, done: int) -> None:
    """Have the kernel drop its pages of a range (of no bytes: none); then answer ``request`` to
    write, if it is not 0, with ``done``.  Waits for pages that are being read: not on the loop."""
    _drop_pages(inode, offset, length, request, done)


def answer_error(request: int, error: int) -> None:
    """Answer a request that nobody else answers with an errno."""
    _answer_error(request, error)


Answer = Callable[[int, int], None]
Before = Callable[..., Awaitable[None]]


class Calls:
    """Who answers the three requests of a mount.

    All return their result or a negative errno and raise nothing.  ``copy`` and ``allocate`` are
    told last which user asks, and run after ``admit`` and what comes ``before`` them, in
    ``nursery``, which the mount opens and cancels at its end; ``seek`` runs there when
    ``seek_now`` says LATER, after what comes before it.
    """

    def __init__(
        self,
        admit: Callable[[], Awaitable[None]],
        copy: Callable[..., int],
        allocate: Callable[..., int],
        seek: Callable[..., int],
        seek_now: Callable[..., int],
        before: tuple[Before, Before, Before],
    ) -> None:
        self._admit = admit
        self.nursery: trio.Nursery | None = None
        calls = (
            _COPY(self._later(copy, before[0], _answer_copy)),
            _ALLOCATE(self._later(allocate, before[1], _answer_allocate)),
            _SEEK(self._now_or_later(seek_now, seek, before[2])),
        )
        _kept[:] = calls
        library.ramet_set_calls(*calls)

    def _later(
        self, call: Callable[..., int], before: Before, answer: Answer
    ) -> Callable[..., int]:  # fmt: skip
        def start(request: int, *arguments: int) -> int:
            try:
                assert self.nursery is not None
                asked = (*arguments, writer())
                self.nursery.start_soon(self._finish, call, before, asked, answer, request)
            except Exception:  # the mount ends; nothing may be raised into C
                return -errno.EIO
            return 0

        return start

    def _now_or_later(
        self, now: Callable[..., int], seek: Callable[..., int], before: Before
    ) -> Callable[..., int]:  # fmt: skip
        def start(request: int, *arguments: int) -> int:
            found = now(*arguments)
            if found == LATER:
                try:
                    assert self.nursery is not None
                    self.nursery.start_soon(self._finish_seek, seek, before, arguments, request)
                except Exception:  # as above
                    return -errno.EIO
            return found

        return start

    async def _finish_seek(
        self, seek: Callable[..., int], before: Before, arguments: tuple[int, ...], request: int
    ) -> None:  # fmt: skip
        result = -errno.EIO
        try:
            with contextlib.suppress(RametError, OSError, ValueError):
                await before(*arguments)
            result = seek(*arguments)
        finally:
            _answer_seek(request, result)

    async def _finish(
        self, call: Callable[..., int], before: Before, arguments: tuple[int, ...],
        answer: Answer, request: int,
    ) -> None:  # fmt: skip
        result = -errno.EIO  # told to end while it waits
        try:
            await self._admit()
            # What is wrong the call itself says.
            with contextlib.suppress(RametError, OSError, ValueError):
                await before(*arguments[:-1])
            result = call(*arguments)
        finally:
            answer(request, result)
