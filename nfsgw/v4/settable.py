"""Attributes that a client sets: read from the wire, then applied in one step or not at all."""

import stat
from dataclasses import dataclass

from nfsgw.files import NOW, Files, Place
from nfsgw.v4.fattr import Attr, bits, numbers_in, read_bitmap
from nfsgw.v4.owners import read_owner
from nfsgw.v4.protocol import Failed, Status
from nfsgw.xdr import Garbage, Unpacker

VALUES_BYTES_MAX = 1 << 16
NS_PER_S = 1_000_000_000
SET_TO_SERVER_TIME, SET_TO_CLIENT_TIME = 0, 1
MODE_BITS = 0o7777
MODES = bits(Attr.MODE, Attr.MODE_SET_MASKED, Attr.MODE_UMASK)
SETTABLE = MODES | bits(
    Attr.SIZE, Attr.OWNER, Attr.OWNER_GROUP, Attr.TIME_ACCESS_SET, Attr.TIME_MODIFY_SET
)
WRITE_ONLY = SETTABLE & ~bits(Attr.SIZE, Attr.MODE, Attr.OWNER, Attr.OWNER_GROUP)


@dataclass(slots=True)
class Settable:
    """Wishes for a file, new or there already; None: none.  ``bitmap`` says which there are."""

    bitmap: int = 0
    size: int | None = None
    mode: int | None = None
    mask: int = MODE_BITS  # the bits of the mode that are meant
    umask: int = 0
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None

    def mode_of_new(self, default: int) -> int:
        """The permissions that a new file gets, of the mode that was wished or of ``default``."""
        wished = default if self.mode is None else (default & ~self.mask) | (self.mode & self.mask)
        return wished & ~self.umask

    def apply(
        self, files: Files, place: Place, *, opened: bool = False, new: bool = False
    ) -> int:  # fmt: skip
        """Set what is wished; the attributes that are set.

        ``opened``: the client has the file open for writing, which the size asks for; ``new``: it
        was made just now.
        """
        if self.mode is None:
            mode = None
        else:
            mode = (place.inode.mode & ~self.mask) | (self.mode & self.mask)
            mode = stat.S_IMODE(mode) & ~self.umask
        if self.bitmap:
            files.setattr(
                place, mode=mode, uid=self.uid, gid=self.gid, size=self.size,
                atime_ns=self.atime_ns, mtime_ns=self.mtime_ns, opened=opened, new=new,
            )  # fmt: skip
        return self.bitmap

    def apply_to_new(self, files: Files, place: Place) -> int:
        """The same for a file just made, with its mode: what it has already is not set again."""
        inode = place.inode
        later = Settable(
            self.bitmap & ~MODES, self.size or None,
            uid=None if self.uid == inode.uid else self.uid,
            gid=None if self.gid == inode.gid else self.gid,
            atime_ns=self.atime_ns, mtime_ns=self.mtime_ns,
        )  # fmt: skip
        if any(
            each is not None
            for each in (later.size, later.uid, later.gid, later.atime_ns, later.mtime_ns)
        ):
            later.apply(files, place, opened=True, new=True)
        return self.bitmap


def read_settable(args: Unpacker, known: int) -> Settable:
    """A fattr4 to set: ATTRNOTSUPP for what is not ``known``, INVAL for what nobody can set."""
    bitmap = read_bitmap(args)
    values = Unpacker(args.opaque(VALUES_BYTES_MAX))
    if bitmap & ~known:
        raise Failed(Status.ATTRNOTSUPP)
    if bitmap & ~SETTABLE or (bitmap & MODES).bit_count() > 1:
        raise Failed(Status.INVAL)
    wished = Settable(bitmap)
    for number in numbers_in(bitmap):
        _read(wished, Attr(number), values)
    if values.left:
        raise Garbage("more values than attributes")
    return wished


def _read(wished: Settable, attribute: Attr, values: Unpacker) -> None:
    match attribute:
        case Attr.SIZE:
            wished.size = values.u64()
        case Attr.MODE:
            wished.mode = _mode(values)
        case Attr.MODE_SET_MASKED:
            wished.mode, wished.mask = _mode(values), _mode(values)
        case Attr.MODE_UMASK:
            wished.mode, wished.umask = _mode(values), _mode(values)
        case Attr.OWNER:
            wished.uid = read_owner(values)
        case Attr.OWNER_GROUP:
            wished.gid = read_owner(values)
        case Attr.TIME_ACCESS_SET:
            wished.atime_ns = _time(values)
        case Attr.TIME_MODIFY_SET:
            wished.mtime_ns = _time(values)


def _mode(values: Unpacker) -> int:
    mode = values.u32()
    if mode & ~MODE_BITS:
        raise Failed(Status.INVAL)
    return mode


def _time(values: Unpacker) -> int:
    """settime4: nanoseconds, or NOW."""
    how = values.u32()
    if how == SET_TO_SERVER_TIME:
        return NOW
    if how != SET_TO_CLIENT_TIME:
        raise Garbage(f"{how} is no time_how4")
    seconds, nanoseconds = values.i64(), values.u32()
    if nanoseconds >= NS_PER_S:
        raise Failed(Status.INVAL)
    return max(seconds * NS_PER_S + nanoseconds, NOW + 1)
