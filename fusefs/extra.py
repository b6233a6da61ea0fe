"""copy_file_range, fallocate and lseek for pyfuse3, which binds none of them.

Importing this module loads ``extra_ops.so`` in front of libfuse; it must come before the first
import of pyfuse3, and ``fusefs/__init__.py`` sees to that.
"""

import ctypes
from collections.abc import Callable

from fusefs.build import LIBRARY

_COPY = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_uint64] * 5)
_ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_uint64] * 4)
_SEEK = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_uint64] * 3)

_library = ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)
_kept: list[object] = []


def set_calls(
    copy: Callable[[int, int, int, int, int], int],
    allocate: Callable[[int, int, int, int], int],
    seek: Callable[[int, int, int], int],
) -> None:
    """Who answers the three requests; each returns its result or a negative errno."""
    calls = (_COPY(copy), _ALLOCATE(allocate), _SEEK(seek))
    _kept[:] = calls
    _library.ramet_set_calls(*calls)
