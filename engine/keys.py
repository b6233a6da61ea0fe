"""Keys and small values of a volume's namespace B+tree; the layout is told in docs/FORMAT.md.

Every key starts with one letter for its kind and the inode number it belongs to, big-endian, so
that all that belongs to one inode is one contiguous range and readdir is a range scan in cookie
order.  A directory entry has two records, by name (lookup) and by cookie (readdir); both are
always written together.
"""

import struct
from typing import NamedTuple

from engine import errors

ROOT_INO = 1
COOKIE_MAX = (1 << 63) - 1
FIRST_COOKIE = 3  # front ends show '.' as 1 and '..' as 2
NAME_MAX = 255
SYMLINK_MAX = 4095
CHUNK_BYTES = 1024  # xattr values and symlink targets are cut into chunks of this size
XATTR_VALUE_MAX = 65536
SNAPSHOT_DIR = b".snapshots"

_U64 = struct.Struct(">Q")
_BY_NAME = struct.Struct("<QQH")  # cookie, child, kind
_BY_COOKIE = struct.Struct("<QH")  # child, kind; the name follows


class DirEntry(NamedTuple):
    """One directory entry; ``kind`` is the S_IFMT part of the child's mode."""

    name: bytes
    ino: int
    kind: int
    cookie: int


def inode_key(ino: int) -> bytes:
    return b"I" + _U64.pack(ino)


def inode_prefix() -> bytes:
    return b"I"


def unpack_inode_key(key: bytes) -> int:
    number: int = _U64.unpack(key[1:])[0]
    return number


def name_key(parent: int, name: bytes) -> bytes:
    return b"D" + _U64.pack(parent) + name


def cookie_key(parent: int, cookie: int) -> bytes:
    return b"C" + _U64.pack(parent) + _U64.pack(cookie)


def cookie_prefix(parent: int) -> bytes:
    return b"C" + _U64.pack(parent)


def target_key(ino: int, chunk: int) -> bytes:
    return b"L" + _U64.pack(ino) + chunk.to_bytes(2, "big")


def target_prefix(ino: int) -> bytes:
    return b"L" + _U64.pack(ino)


def xattr_prefix(ino: int) -> bytes:
    return b"X" + _U64.pack(ino)


def xattr_name_prefix(ino: int, name: bytes) -> bytes:
    return b"X" + _U64.pack(ino) + name + b"\0"


def xattr_key(ino: int, name: bytes, chunk: int) -> bytes:
    return xattr_name_prefix(ino, name) + chunk.to_bytes(2, "big")


def mark_key(tag: bytes, ino: int) -> bytes:
    return b"M" + tag + b"\0" + _U64.pack(ino)


def mark_prefix(tag: bytes) -> bytes:
    return b"M" + tag + b"\0"


def mark_of_inode_key(ino: int, tag: bytes) -> bytes:
    return b"N" + _U64.pack(ino) + tag


def mark_of_inode_prefix(ino: int) -> bytes:
    return b"N" + _U64.pack(ino)


def ino_of_inode_key(key: bytes) -> int:
    return int.from_bytes(key[1:9], "big")


def pack_by_name(cookie: int, child: int, kind: int) -> bytes:
    return _BY_NAME.pack(cookie, child, kind)


def unpack_by_name(name: bytes, value: bytes) -> DirEntry:
    """Corrupt for what ``pack_by_name`` cannot have made."""
    if len(value) != _BY_NAME.size:
        raise errors.Corrupt(f"the entry {name!r} is damaged; run `ramet fsck`")
    cookie, child, kind = _BY_NAME.unpack(value)
    return DirEntry(name, child, kind, cookie)


def pack_by_cookie(child: int, kind: int, name: bytes) -> bytes:
    return _BY_COOKIE.pack(child, kind) + name


def unpack_by_cookie(key: bytes, value: bytes, *, sound: bool = True) -> DirEntry:
    """Corrupt for what ``pack_by_cookie`` cannot have made, and for names no directory may hold.

    fsck only wants it to parse (not ``sound``): it has a finding of its own for such names.
    """
    name = bytes(value[_BY_COOKIE.size :])
    bad = not 0 < len(name) <= NAME_MAX or b"/" in name or b"\0" in name
    if len(key) != 17 or len(value) < _BY_COOKIE.size or (sound and bad):
        raise errors.Corrupt(f"the entry {key.hex()} is damaged; run `ramet fsck`")
    child, kind = _BY_COOKIE.unpack_from(value)
    return DirEntry(name, child, kind, int.from_bytes(key[9:17], "big"))


def check_name(parent: int, name: bytes) -> None:
    """Refuse what no directory may hold; hostile names end here."""
    if len(name) > NAME_MAX:
        raise errors.NameTooLong(f"name of {len(name)} bytes; the limit is {NAME_MAX}")
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise errors.InvalidArgument(f"{name!r} is no file name")
    if parent == ROOT_INO and name == SNAPSHOT_DIR:
        raise errors.NotPermitted(".snapshots is the volume's list of snapshots; use another name")
