"""Who may do what: the server's checks, which for a mount the kernel makes (default_permissions).

They follow POSIX and what Linux' knfsd does: the owner may always read and write the contents (a
client checks when a file is opened, and its mode may change afterwards), execution is a reason to
read, root may all but execute what nobody may.
"""

import stat
from typing import NamedTuple

from engine import Inode, errors
from nfsgw.exports import Right
from nfsgw.rpc import Credential

NOBODY = 65_534
NO_ID = (1 << 32) - 1  # no user or group: chown(2)'s -1
READ, WRITE, EXECUTE = 4, 2, 1


class AccessDenied(errors.RametError):
    """Permission denied (EACCES)."""


class Who(NamedTuple):
    """Whose rights count, after squashing."""

    uid: int
    gid: int
    gids: frozenset[int]
    writes: bool  # the export lets this client write

    @property
    def root(self) -> bool:
        return self.uid == 0


def who_is(credential: Credential | None, right: Right) -> Who:
    """AUTH_NONE is nobody; so is root, unless the export trusts this client."""
    writes = right >= Right.WRITE
    if credential is None:
        return Who(NOBODY, NOBODY, frozenset(), writes)
    uid, gid, *gids = (
        NOBODY if each == NO_ID else each
        for each in (credential.uid, credential.gid, *credential.gids)
    )
    if right < Right.ROOT:
        uid, gid = uid or NOBODY, gid or NOBODY
        gids = [each or NOBODY for each in gids]
    return Who(uid, gid, frozenset(gids), writes)


def may(inode: Inode, who: Who, wanted: int) -> bool:
    """Whether the mode gives all of ``wanted`` (READ, WRITE, EXECUTE together)."""
    mode = inode.mode
    if who.uid == 0:
        return not wanted & EXECUTE or inode.is_dir or bool(mode & 0o111)
    if who.uid == inode.uid:
        mode >>= 6
    elif inode.gid == who.gid or inode.gid in who.gids:
        mode >>= 3
    return mode & wanted == wanted


def check(inode: Inode, who: Who, wanted: int) -> None:
    """AccessDenied unless the mode gives it."""
    if not may(inode, who, wanted):
        raise AccessDenied("permission denied")


def check_writes(who: Who) -> None:
    """ReadOnly when the export lets this client only read."""
    if not who.writes:
        raise errors.ReadOnly("this client may only read here")


def check_contents(inode: Inode, who: Who, wanted: int) -> None:
    """As ``check``, for what an open file allows: the owner always, execution for reading."""
    if who.uid == inode.uid or may(inode, who, wanted):
        return
    if wanted != READ or not may(inode, who, EXECUTE):
        raise AccessDenied("permission denied")


def check_removal(directory: Inode, inode: Inode, who: Who) -> None:
    """AccessDenied unless a name may be taken out of a directory; sticky ones keep their owners."""
    check(directory, who, WRITE | EXECUTE)
    if directory.mode & stat.S_ISVTX and who.uid not in (0, inode.uid, directory.uid):
        raise AccessDenied("the directory is sticky: only its owner or the file's may do this")
