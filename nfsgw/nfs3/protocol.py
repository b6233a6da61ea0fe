"""The numbers of NFSv3 (RFC 1813), and the one table from the engine's errors to its status."""

import struct
from enum import IntEnum

from engine import errors
from nfsgw.access import AccessDenied
from nfsgw.handles import BadHandle

PROGRAM = 100_003
VERSION = 3
HANDLE_BYTES_MAX = 64
IO_BYTES_MAX = 1 << 20  # of one READ or WRITE: rtmax and wtmax
LISTING_BYTES_MAX = 1 << 16  # of one READDIR or READDIRPLUS: what others wait for is some 300 files
NAME_MAX = 255
LINKS_MAX = 65_000


class Procedure(IntEnum):
    """RFC 1813, 3.3."""

    NULL = 0
    GETATTR = 1
    SETATTR = 2
    LOOKUP = 3
    ACCESS = 4
    READLINK = 5
    READ = 6
    WRITE = 7
    CREATE = 8
    MKDIR = 9
    SYMLINK = 10
    MKNOD = 11
    REMOVE = 12
    RMDIR = 13
    RENAME = 14
    LINK = 15
    READDIR = 16
    READDIRPLUS = 17
    FSSTAT = 18
    FSINFO = 19
    PATHCONF = 20
    COMMIT = 21


class Status(IntEnum):
    """nfsstat3 (RFC 1813, 2.6)."""

    OK = 0
    PERM = 1
    NOENT = 2
    IO = 5
    NXIO = 6
    ACCES = 13
    EXIST = 17
    XDEV = 18
    NODEV = 19
    NOTDIR = 20
    ISDIR = 21
    INVAL = 22
    FBIG = 27
    NOSPC = 28
    ROFS = 30
    MLINK = 31
    NAMETOOLONG = 63
    NOTEMPTY = 66
    DQUOT = 69
    STALE = 70
    REMOTE = 71
    BADHANDLE = 10001
    NOT_SYNC = 10002
    BAD_COOKIE = 10003
    NOTSUPP = 10004
    TOOSMALL = 10005
    SERVERFAULT = 10006
    BADTYPE = 10007
    JUKEBOX = 10008


class FileType(IntEnum):
    """ftype3."""

    REG = 1
    DIR = 2
    BLK = 3
    CHR = 4
    LNK = 5
    SOCK = 6
    FIFO = 7


class Stable(IntEnum):
    """stable_how: what a WRITE promises when it is answered."""

    UNSTABLE = 0
    DATA_SYNC = 1
    FILE_SYNC = 2


class CreateMode(IntEnum):
    """createmode3: what CREATE does about a file that is there."""

    UNCHECKED = 0
    GUARDED = 1
    EXCLUSIVE = 2


class Failed(errors.RametError):
    """What only NFS has a word for."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


# Busy (a LUN's file): version 3 has no word for it, and JUKEBOX would have clients wait for ever.
STATUS: dict[type[errors.RametError], Status] = {
    AccessDenied: Status.ACCES,
    BadHandle: Status.BADHANDLE,
    errors.AlreadyExists: Status.EXIST,
    errors.Busy: Status.ACCES,
    errors.Corrupt: Status.IO,
    errors.CrossVolume: Status.XDEV,
    errors.InvalidArgument: Status.INVAL,
    errors.IsADirectory: Status.ISDIR,
    errors.NameTooLong: Status.NAMETOOLONG,
    errors.NoAttribute: Status.NOENT,
    errors.NoSpace: Status.NOSPC,
    errors.NotADirectory: Status.NOTDIR,
    errors.NotEmpty: Status.NOTEMPTY,
    errors.NotFound: Status.NOENT,
    errors.NotPermitted: Status.PERM,
    errors.QuotaExceeded: Status.DQUOT,
    errors.ReadOnly: Status.ROFS,
    errors.Stale: Status.STALE,
    errors.StoreFailed: Status.IO,
    errors.TooLarge: Status.FBIG,
    errors.TooManyLinks: Status.MLINK,
    errors.Unsupported: Status.NOTSUPP,
}

FAILURES = (errors.RametError, OSError, MemoryError)  # what becomes a status; the rest is a bug

_U32 = struct.Struct(">I")
OK = _U32.pack(Status.OK)


def status_of(error: Exception) -> Status:
    """The status of one of FAILURES; what was not foreseen is IO."""
    if isinstance(error, Failed):
        return error.status
    if isinstance(error, MemoryError):
        return Status.SERVERFAULT
    return STATUS.get(type(error), Status.IO)  # type: ignore[arg-type]
