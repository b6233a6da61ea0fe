"""The one table from the engine's errors to errno."""

import errno
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import pyfuse3

from engine import errors

ERRNO: dict[type[errors.RametError], int] = {
    errors.NotFound: errno.ENOENT,
    errors.AlreadyExists: errno.EEXIST,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.InvalidArgument: errno.EINVAL,
    errors.NotPermitted: errno.EPERM,
    errors.CrossVolume: errno.EXDEV,
    errors.ReadOnly: errno.EROFS,
    errors.NoSpace: errno.ENOSPC,
    errors.QuotaExceeded: errno.EDQUOT,
    errors.TooLarge: errno.EFBIG,
    errors.TooManyLinks: errno.EMLINK,
    errors.NoAttribute: errno.ENODATA,
    errors.Stale: errno.ESTALE,
    errors.Busy: errno.EBUSY,
    errors.Corrupt: errno.EIO,
    errors.StoreFailed: errno.EIO,
    errors.Unsupported: errno.EOPNOTSUPP,
}

FAILURES = (errors.RametError, OSError, MemoryError)  # what a request may end with

P = ParamSpec("P")
R = TypeVar("R")


def errno_of(error: Exception) -> int:
    """What the kernel is told; anything unforeseen is EIO."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return ERRNO.get(type(error), errno.EIO)  # type: ignore[arg-type]


def refusal(error: Exception) -> pyfuse3.FUSEError:
    """What a request that ended with one of FAILURES raises."""
    return pyfuse3.FUSEError(errno_of(error))


def mapped(request: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """A pyfuse3 handler whose engine errors become FUSEError."""

    @wraps(request)
    async def handler(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await request(*args, **kwargs)
        except FAILURES as error:
            raise refusal(error) from error

    return handler


def plain(call: Callable[..., int]) -> Callable[..., int]:
    """A callback from C: errors become negative errnos, and nothing is ever raised."""

    @wraps(call)
    def guarded(*args: int) -> int:
        try:
            return call(*args)
        except Exception as error:
            return -errno_of(error)

    return guarded
