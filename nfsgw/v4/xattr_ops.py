"""Extended attributes (RFC 8276): those in ``user.`` of files and directories, as on the mount.

On the wire a name goes without its ``user.``. Names in ``user.ramet.`` are the mount's own: it
computes them, nobody sets them, and here they are not there.
"""

from engine import Inode, errors
from engine.attributes import XATTR_CREATE, XATTR_REPLACE
from engine.keys import NAME_MAX, XATTR_VALUE_MAX
from nfsgw.access import READ, WRITE, check, check_writes
from nfsgw.files import Place
from nfsgw.gate import Waits
from nfsgw.v4.attributes import pack_change
from nfsgw.v4.current import Current, Operation, PseudoRoot
from nfsgw.v4.places import here
from nfsgw.v4.protocol import Failed, Op, Status
from nfsgw.xdr import Garbage, Packer, Unpacker

EITHER, CREATE, REPLACE = range(3)
_FLAGS = {EITHER: 0, CREATE: XATTR_CREATE, REPLACE: XATTR_REPLACE}
_USER, _OURS = b"user.", b"user.ramet."
_LIST_HEAD_BYTES = 16  # cookie, count, eof


def _place(current: Current) -> Place:
    """A file or directory; NOXATTR's of others would be the kernel's on the mount."""
    at = here(current)
    if isinstance(at, PseudoRoot) or at.snapshots or not (at.inode.is_file or at.inode.is_dir):
        raise Failed(Status.WRONG_TYPE)
    return at


def _read_key(args: Unpacker) -> bytes:
    """INVAL when empty, NAMETOOLONG, BADCHAR."""
    key = bytes(args.opaque(args.left))
    if not key:
        raise Failed(Status.INVAL)
    if len(_USER) + len(key) > NAME_MAX:
        raise Failed(Status.NAMETOOLONG)
    if b"\0" in key:
        raise Failed(Status.BADCHAR)
    return _USER + key


def get_xattr(current: Current, args: Unpacker, out: Packer) -> None:
    key, place = _read_key(args), _place(current)
    check(place.inode, place.who, READ)
    if key.startswith(_OURS):
        raise Failed(Status.NOXATTR)
    out.opaque(place.volume.get_xattr(place.inode.ino, key))


def set_xattr(current: Current, args: Unpacker, out: Packer) -> Waits:
    how = args.u32()
    if how not in _FLAGS:
        raise Garbage(f"{how} is no setxattr_option4")
    key, value = _read_key(args), bytes(args.opaque(args.left))
    if len(value) > XATTR_VALUE_MAX:
        raise Failed(Status.XATTR2BIG)
    yield from current.files.gate.room()
    inode, place = _changing(current, key)
    before = inode.change
    with current.files.gate.foreign():
        place.volume.set_xattr(inode.ino, key, value, _FLAGS[how])
    current.must_store = True
    pack_change(out, before, inode.change)


def remove_xattr(current: Current, args: Unpacker, out: Packer) -> Waits:
    key = _read_key(args)
    yield from current.files.gate.room()
    inode, place = _changing(current, key)
    before = inode.change
    with current.files.gate.foreign():
        place.volume.remove_xattr(inode.ino, key)
    current.must_store = True
    pack_change(out, before, inode.change)


def _changing(current: Current, key: bytes) -> tuple[Inode, Place]:
    place = _place(current)
    check_writes(place.who)
    place.volume.check_writable()
    check(place.inode, place.who, WRITE)
    if key.startswith(_OURS):
        raise errors.NotPermitted("names in user.ramet. are computed; choose another")
    return place.inode, place


def list_xattrs(current: Current, args: Unpacker, out: Packer) -> None:
    """Names from a cookie on, which is how many came before; ``most`` bytes of result."""
    cookie, most = args.u64(), args.u32()
    place = _place(current)
    names = [
        each[len(_USER) :]
        for each in place.volume.list_xattrs(place.inode.ino)
        if each.startswith(_USER) and not each.startswith(_OURS)
    ]
    if cookie > len(names):
        raise Failed(Status.BAD_COOKIE)
    told: list[bytes] = []
    size = _LIST_HEAD_BYTES
    for name in names[cookie:]:
        size += 4 + len(name) + (-len(name) & 3)
        if size > most:
            break
        told.append(name)
    end = cookie + len(told)
    if not told and end < len(names):
        raise Failed(Status.TOOSMALL)
    out.u64(end)
    out.u32(len(told))
    for name in told:
        out.opaque(name)
    out.boolean(end == len(names))


OPERATIONS: dict[Op, Operation] = {
    Op.GETXATTR: get_xattr,
    Op.SETXATTR: set_xattr,
    Op.LISTXATTRS: list_xattrs,
    Op.REMOVEXATTR: remove_xattr,
}
