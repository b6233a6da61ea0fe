"""The one table from the engine's errors to the statuses of NFSv4."""

from engine import errors
from nfsgw.access import AccessDenied
from nfsgw.handles import BadHandle
from nfsgw.v4.protocol import Failed, Status

_STATUS: dict[type[Exception], Status] = {
    errors.NotFound: Status.NOENT,
    errors.AlreadyExists: Status.EXIST,
    errors.NotADirectory: Status.NOTDIR,
    errors.IsADirectory: Status.ISDIR,
    errors.NotEmpty: Status.NOTEMPTY,
    errors.NameTooLong: Status.NAMETOOLONG,
    errors.InvalidArgument: Status.INVAL,
    errors.NotPermitted: Status.PERM,
    errors.CrossVolume: Status.XDEV,
    errors.ReadOnly: Status.ROFS,
    errors.NoSpace: Status.NOSPC,
    errors.QuotaExceeded: Status.DQUOT,
    errors.TooLarge: Status.FBIG,
    errors.TooManyLinks: Status.MLINK,
    errors.NoAttribute: Status.NOXATTR,
    errors.Stale: Status.STALE,
    errors.Busy: Status.FILE_OPEN,
    errors.Corrupt: Status.IO,
    errors.StoreFailed: Status.IO,
    AccessDenied: Status.ACCESS,
    BadHandle: Status.BADHANDLE,
    OSError: Status.IO,
    MemoryError: Status.DELAY,
}
ANSWERED: tuple[type[Exception], ...] = (Failed, *_STATUS)


def status_of(error: Exception) -> Status:
    """What a client is told; what nobody has foreseen is SERVERFAULT."""
    if isinstance(error, Failed):
        return error.status
    if isinstance(error, OSError) and error.errno in errors.DISK_FULL:
        return Status.NOSPC
    for kind in type(error).__mro__:
        found = _STATUS.get(kind)
        if found is not None:
            return found
    return Status.SERVERFAULT
