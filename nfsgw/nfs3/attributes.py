"""Attributes on the wire: fattr3, post-op and weak cache consistency data, sattr3, times.

RFC 1813, 2.5 and 2.6. Times are unsigned seconds there: what lies before 1970 or after 2106 is
shown as the nearest that can be. ``used`` is what the file has mapped, so a client sees its holes.
"""

import os
import stat
import struct
from typing import NamedTuple

from engine import Inode, errors
from engine.numbers import join
from engine.superblock import BLOCK_BYTES
from nfsgw.files import NOW, Place
from nfsgw.nfs3.protocol import FileType
from nfsgw.xdr import Garbage, Unpacker

_FATTR = struct.Struct(">5I2Q2I2Q6I")
_POST_OP = struct.Struct(">6I2Q2I2Q6I")
_PRE_OP = struct.Struct(">IQ4I")
_TIME = struct.Struct(">2I")
_SECOND_NS = 1_000_000_000
_SECONDS_MAX = (1 << 32) - 1
_ID_MAX = (1 << 32) - 2  # the last is POSIX' "leave it as it is"
_DONT, _SERVER_TIME, _CLIENT_TIME = range(3)
_TYPE_MASK = 0o170000

FATTR_BYTES = _FATTR.size
PRE_OP_BYTES = _PRE_OP.size
POST_OP_BYTES = _POST_OP.size
NOTHING = b"\0\0\0\0"  # no attributes, no handle: a FALSE

TYPES = {
    stat.S_IFREG: FileType.REG,
    stat.S_IFDIR: FileType.DIR,
    stat.S_IFBLK: FileType.BLK,
    stat.S_IFCHR: FileType.CHR,
    stat.S_IFLNK: FileType.LNK,
    stat.S_IFSOCK: FileType.SOCK,
    stat.S_IFIFO: FileType.FIFO,
}


def wire_time(time_ns: int) -> tuple[int, int]:
    """nfstime3: seconds and nanoseconds."""
    seconds, rest = divmod(time_ns, _SECOND_NS)
    if 0 <= seconds <= _SECONDS_MAX:
        return seconds, rest
    return (0, 0) if seconds < 0 else (_SECONDS_MAX, _SECOND_NS - 1)


def fattr(place: Place) -> bytes:
    """fattr3 of a place, as it is now."""
    return post_op(place)[4:]


def post_op(place: Place) -> bytes:
    """post_op_attr with attributes."""
    inode, volume = place.inode, place.volume
    mode, rdev = inode.mode, inode.rdev
    fileid = place.fileid if place.snapshots else join(volume.record.id, inode.ino)
    head = (
        1, TYPES[mode & _TYPE_MASK], mode & 0o7777, inode.nlink, inode.uid, inode.gid,
        inode.size, inode.blocks * BLOCK_BYTES,
        os.major(rdev) if rdev else 0, os.minor(rdev) if rdev else 0,
        place.export.volume_id, fileid,
    )  # fmt: skip
    try:
        return _POST_OP.pack(
            *head, *divmod(inode.atime_ns, _SECOND_NS), *divmod(inode.mtime_ns, _SECOND_NS),
            *divmod(inode.ctime_ns, _SECOND_NS),
        )  # fmt: skip
    except struct.error:  # a time that cannot be said
        return _POST_OP.pack(
            *head, *wire_time(inode.atime_ns), *wire_time(inode.mtime_ns),
            *wire_time(inode.ctime_ns),
        )  # fmt: skip


def pre_op(inode: Inode) -> bytes:
    """pre_op_attr with attributes: what a client compares with what it has in its cache."""
    mtime, ctime = inode.mtime_ns, inode.ctime_ns
    try:
        return _PRE_OP.pack(1, inode.size, *divmod(mtime, _SECOND_NS), *divmod(ctime, _SECOND_NS))
    except struct.error:  # a time that cannot be said
        return _PRE_OP.pack(1, inode.size, *wire_time(mtime), *wire_time(ctime))


def read_time(args: Unpacker) -> tuple[int, int]:
    return args.u32(), args.u32()


class NewAttributes(NamedTuple):
    """sattr3: None leaves one as it is; times are nanoseconds, or NOW."""

    mode: int | None
    uid: int | None
    gid: int | None
    size: int | None
    atime: int | None
    mtime: int | None
    sound: bool  # no id or time that makes no sense

    @property
    def empty(self) -> bool:
        return not any(each is not None for each in self[:6])

    def check(self) -> None:
        """InvalidArgument for what XDR can say and no file can have."""
        if not self.sound:
            raise errors.InvalidArgument("no such owner, group or time")


def read_attributes(args: Unpacker) -> NewAttributes:
    """sattr3; Garbage."""
    mode = args.u32() & 0o7777 if args.boolean() else None
    uid = args.u32() if args.boolean() else None
    gid = args.u32() if args.boolean() else None
    size = args.u64() if args.boolean() else None
    atime, mtime = _read_set_time(args), _read_set_time(args)
    sound = max(uid or 0, gid or 0) <= _ID_MAX and -1 not in (atime, mtime)
    return NewAttributes(mode, uid, gid, size, atime, mtime, sound)


def _read_set_time(args: Unpacker) -> int | None:
    """set_atime, set_mtime; -1 for more nanoseconds than a second has."""
    how = args.u32()
    if how == _DONT:
        return None
    if how == _SERVER_TIME:
        return NOW
    if how != _CLIENT_TIME:
        raise Garbage(f"{how} is no time_how")
    seconds, rest = read_time(args)
    return seconds * _SECOND_NS + rest if rest < _SECOND_NS else -1
