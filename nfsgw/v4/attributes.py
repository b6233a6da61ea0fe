"""Attributes as clients see them (fattr4; RFC 8881, 5; RFC 7862, 12; RFC 8275).

Clients ask for the same few sets again and again, so an encoder is made once for each set, as it
stands on the wire: what is left to do for a file is one call for each attribute that varies.

Numbers of files are the engine's (engine/numbers.py), one fsid a volume. The pseudo-root is a file
system of its own, fsid 0; what is mounted on its entries has the number of the entry as
mounted_on_fileid, past all numbers of volumes. ``space_used`` is what the file maps: honest figures
cost no clone here, `cp` asks for one before it looks for holes.
"""

import math
import os
import stat
import struct
from collections.abc import Callable
from functools import cache

from engine import Inode, numbers
from engine.inode import FILE_BYTES_MAX
from engine.keys import NAME_MAX
from engine.namespace import LINKS_MAX
from engine.superblock import BLOCK_BYTES
from nfsgw.files import FILES_MAX, READ_BYTES_MAX, Files
from nfsgw.handles import Handle, Kind
from nfsgw.v4.current import At, Current, PseudoRoot
from nfsgw.v4.fattr import Attr, bits, numbers_in, pack_bitmap, packed_bitmap, read_bitmap
from nfsgw.v4.owners import packed_owner
from nfsgw.v4.protocol import Failed, Status
from nfsgw.v4.settable import SETTABLE, WRITE_ONLY, Settable, read_settable
from nfsgw.xdr import Packer, Unpacker

__all__ = [
    "Encoder", "Settable", "encoder_of", "pack_bitmap", "pack_change", "read_bitmap",
    "read_encoder", "read_settable", "seen", "supported",
]  # fmt: skip

NS_PER_S = 1_000_000_000
MOUNTED_ON = 1 << 62  # and the export's number
ENCODERS_MAX = 1024

TYPES = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFBLK: 3, stat.S_IFCHR: 4,
    stat.S_IFLNK: 5, stat.S_IFSOCK: 6, stat.S_IFIFO: 7,
}  # fmt: skip

_u32 = struct.Struct(">I").pack
_u64 = struct.Struct(">Q").pack
_two_u32 = struct.Struct(">II").pack
_two_u64 = struct.Struct(">QQ").pack
_time = struct.Struct(">qI").pack
_change = struct.Struct(">IQQ").pack


class Seen:
    """A file, or the pseudo-root, at the moment its attributes are told."""

    __slots__ = ("_space", "at", "fileid", "files", "fsid", "inode", "lease_s", "mounted_on")

    def __init__(
        self, current: Current, at: At, inode: Inode, fsid: int, fileid: int, mounted_on: int
    ) -> None:
        self.files, self.lease_s = current.files, current.state.limits.lease_s
        self.at, self.inode = at, inode
        self.fsid, self.fileid, self.mounted_on = fsid, fileid, mounted_on
        self._space: tuple[int, int] | None = None

    @property
    def space(self) -> tuple[int, int]:
        """Bytes in all and bytes free; looked up once, so that the figures agree."""
        if self._space is None:
            self._space = self.files.space(None if isinstance(self.at, PseudoRoot) else self.at)
        return self._space

    @property
    def free_files(self) -> int:
        return max(FILES_MAX - self.files.store.space().files, 0)


def seen(current: Current, at: At) -> Seen:
    """What there is to tell of a file, or of the pseudo-root."""
    files = current.files
    if isinstance(at, PseudoRoot):
        inode = Inode(0, stat.S_IFDIR | 0o555, 0, 0, files.exports.changed_ns)
        inode.nlink, inode.change = 2, files.exports.changed_ns
        return Seen(current, at, inode, 0, numbers.ROOT, numbers.ROOT)
    fileid, inode = at.fileid, at.inode
    mounted_on = MOUNTED_ON | at.export.id if files.is_root(at) else fileid
    return Seen(current, at, inode, at.fsid, fileid, mounted_on)


def handle_of(files: Files, at: At) -> bytes:
    """The handle by which a client names what it was shown."""
    if isinstance(at, PseudoRoot):
        return files.handles.pack(Handle(Kind.PSEUDO_ROOT, 0, 0, 0, 0))
    return files.handle(at)


def _opaque(data: bytes) -> bytes:
    out = Packer()
    out.opaque(data)
    return b"".join(out.parts)


@cache
def supported(minor: int) -> int:
    """The attributes that a client of this minor version may ask for or set."""
    known = bits(*_CONSTANT, *_VARIED, *_OF_A_MINOR) | SETTABLE
    return known if minor >= 2 else known & ~bits(*_OF_MINOR_2)


_OF_MINOR_2 = (Attr.CLONE_BLKSIZE, Attr.CHANGE_ATTR_TYPE, Attr.MODE_UMASK, Attr.XATTR_SUPPORT)
_YES, _NO = _u32(1), _u32(0)

_CONSTANT: dict[Attr, bytes] = {
    Attr.FH_EXPIRE_TYPE: _u32(0),  # FH4_PERSISTENT
    Attr.LINK_SUPPORT: _YES,
    Attr.SYMLINK_SUPPORT: _YES,
    Attr.NAMED_ATTR: _NO,
    Attr.UNIQUE_HANDLES: _YES,
    Attr.RDATTR_ERROR: _u32(Status.OK),
    Attr.ACLSUPPORT: _u32(0),
    Attr.CANSETTIME: _YES,
    Attr.CASE_INSENSITIVE: _NO,
    Attr.CASE_PRESERVING: _YES,
    Attr.CHOWN_RESTRICTED: _YES,
    Attr.HOMOGENEOUS: _YES,
    Attr.MAXFILESIZE: _u64(FILE_BYTES_MAX),
    Attr.MAXLINK: _u32(LINKS_MAX),
    Attr.MAXNAME: _u32(NAME_MAX),
    Attr.MAXREAD: _u64(READ_BYTES_MAX),
    Attr.MAXWRITE: _u64(READ_BYTES_MAX),
    Attr.NO_TRUNC: _YES,
    Attr.FILES_TOTAL: _u64(FILES_MAX),
    Attr.TIME_DELTA: _time(0, 1),
    Attr.FS_LAYOUT_TYPES: _u32(0),
    Attr.FS_CHARSET_CAP: _u32(1),  # CONTAINS_NON_UTF8: names are bytes
    Attr.CLONE_BLKSIZE: _u32(BLOCK_BYTES),
    Attr.CHANGE_ATTR_TYPE: _u32(0),  # IS_MONOTONIC_INCR
    Attr.XATTR_SUPPORT: _YES,
}


def _ns(value: int) -> bytes:
    return _time(*divmod(value, NS_PER_S))


_VARIED: dict[Attr, Callable[[Seen], bytes]] = {
    Attr.TYPE: lambda s: _u32(TYPES[s.inode.mode & 0o170000]),
    Attr.CHANGE: lambda s: _u64(s.inode.change),
    Attr.SIZE: lambda s: _u64(s.inode.size),
    Attr.FSID: lambda s: _two_u64(s.fsid, 0),
    Attr.LEASE_TIME: lambda s: _u32(math.ceil(s.lease_s)),
    Attr.FILEHANDLE: lambda s: _opaque(handle_of(s.files, s.at)),
    Attr.FILEID: lambda s: _u64(s.fileid),
    Attr.FILES_AVAIL: lambda s: _u64(s.free_files),
    Attr.FILES_FREE: lambda s: _u64(s.free_files),
    Attr.MODE: lambda s: _u32(s.inode.mode & 0o7777),
    Attr.NUMLINKS: lambda s: _u32(s.inode.nlink),
    Attr.OWNER: lambda s: packed_owner(s.inode.uid),
    Attr.OWNER_GROUP: lambda s: packed_owner(s.inode.gid),
    Attr.RAWDEV: lambda s: _two_u32(os.major(s.inode.rdev), os.minor(s.inode.rdev)),
    Attr.SPACE_AVAIL: lambda s: _u64(s.space[1]),
    Attr.SPACE_FREE: lambda s: _u64(s.space[1]),
    Attr.SPACE_TOTAL: lambda s: _u64(s.space[0]),
    Attr.SPACE_USED: lambda s: _u64(s.inode.blocks * BLOCK_BYTES),
    Attr.TIME_ACCESS: lambda s: _ns(s.inode.atime_ns),
    Attr.TIME_CREATE: lambda s: _ns(s.inode.btime_ns),
    Attr.TIME_METADATA: lambda s: _ns(s.inode.ctime_ns),
    Attr.TIME_MODIFY: lambda s: _ns(s.inode.mtime_ns),
    Attr.MOUNTED_ON_FILEID: lambda s: _u64(s.mounted_on),
}
_OF_A_MINOR: dict[Attr, Callable[[int], int]] = {
    Attr.SUPPORTED_ATTRS: supported,
    Attr.SUPPATTR_EXCLCREAT: lambda minor: supported(minor) & SETTABLE,
}


def _piece(attribute: Attr, minor: int) -> bytes | Callable[[Seen], bytes]:
    """An attribute's value, or what gets it."""
    if attribute in _OF_A_MINOR:
        return packed_bitmap(_OF_A_MINOR[attribute](minor))
    constant = _CONSTANT.get(attribute)
    return _VARIED[attribute] if constant is None else constant


class Encoder:
    """Tells the attributes of one set: those of ``bitmap``, all of them supported."""

    __slots__ = ("_head", "_pieces", "bitmap")

    def __init__(self, bitmap: int, minor: int) -> None:
        self.bitmap = bitmap
        self._head = packed_bitmap(bitmap)
        self._pieces: list[bytes | Callable[[Seen], bytes]] = []
        for number in numbers_in(bitmap):
            piece = _piece(Attr(number), minor)
            before = self._pieces[-1] if self._pieces else None
            if isinstance(piece, bytes) and isinstance(before, bytes):
                self._pieces[-1] = before + piece
            else:
                self._pieces.append(piece)

    def values(self, about: Seen) -> bytes:
        """attrlist4, without its length."""
        return b"".join([p if isinstance(p, bytes) else p(about) for p in self._pieces])

    def fattr(self, about: Seen) -> bytes:
        """fattr4: which attributes, and their values."""
        values = self.values(about)
        return self._head + _u32(len(values)) + values


_encoders: dict[tuple[int, bytes], Encoder] = {}


def read_encoder(args: Unpacker, minor: int) -> Encoder:
    """A bitmap that a client sends, as the encoder of what is supported of it.

    INVAL for attributes that can only be set (RFC 8881, 5.5).
    """
    start = args.at
    words = args.u32()
    args.at += 4 * words
    raw = bytes(args.data[start : args.at])
    found = _encoders.get((minor, raw))
    if found is None:
        args.at = start
        asked = read_bitmap(args)
        if asked & WRITE_ONLY:
            raise Failed(Status.INVAL)
        found = encoder_of(asked & supported(minor), minor)
        if len(_encoders) >= ENCODERS_MAX:
            _encoders.clear()
        _encoders[minor, raw] = found
    return found


def encoder_of(bitmap: int, minor: int) -> Encoder:
    """An encoder of attributes that are supported and can be read."""
    return Encoder(bitmap, minor)


def pack_change(out: Packer, before: int, after: int) -> None:
    """change_info4 of a directory: nothing came between, an operation is one step."""
    out.raw(_change(1, before, after))
