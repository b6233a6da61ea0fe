"""One error tree for what the world does to us; our own mistakes are assertions.

Each message is one line that says what to do next.  Front ends map the classes to errno, NFS
status or exit code, once, in one table of their own.
"""

import errno

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
HOST_IS_FULL = "the host file system is full; delete files and run `ramet gc`, or add space"


class RametError(Exception):
    """Base of every error a caller of the engine is expected to handle."""


class NotFound(RametError):
    """No such file, volume or snapshot.  Check the name with ``ramet ls``."""


class AlreadyExists(RametError):
    """The name is taken.  Choose another or remove the old one first."""


class NotADirectory(RametError):
    """A path component is not a directory."""


class IsADirectory(RametError):
    """The operation needs a file and was given a directory."""


class NotEmpty(RametError):
    """The directory still has entries."""


class NameTooLong(RametError):
    """A name is longer than 255 bytes or a symlink target than 4,095."""


class InvalidArgument(RametError):
    """An argument makes no sense here; the message names it."""


class NotPermitted(RametError):
    """The operation is not allowed on this kind of object."""


class CrossVolume(RametError):
    """Rename and link do not cross volumes; clone the file instead."""


class PartlyDone(RametError):
    """It failed, and what was done could not all be undone; the message says what is left."""


class ReadOnly(RametError):
    """The volume is a snapshot or the store was opened read-only."""


class NoSpace(RametError):
    """The host file system is full.  Delete something, run ``ramet gc``, or add space."""


class QuotaExceeded(RametError):
    """The volume references as many bytes as its quota allows.  Delete files or raise the quota."""


class TooLarge(RametError):
    """The size is past the limit the format sets."""


class TooManyLinks(RametError):
    """The inode has as many links as its counter can hold."""


class NoAttribute(RametError):
    """The file has no such extended attribute."""


class Stale(RametError):
    """The inode is gone: deleted, or replaced by a restore.  Look the name up again."""


class Busy(RametError):
    """The object is in use.  Close what uses it, or force."""


class Cancelled(RametError):
    """The job was cancelled; what it had made is undone."""


class Corrupt(RametError):
    """Stored data failed its check.  No wrong byte was returned; restore it from a good copy."""


class StoreFailed(RametError):
    """A write to the store's own disk failed; the store takes no writes until it is reopened."""


class NoSuchStore(RametError):
    """The directory is no store.  Make one with ``ramet init``."""


class StoreInUse(RametError):
    """Another process owns the store.  Talk to it, or stop it first."""


class Unsupported(RametError):
    """The operation, or the store's format, is not supported by this version."""
