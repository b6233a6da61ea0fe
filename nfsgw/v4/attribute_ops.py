"""Operations on attributes (RFC 8881, 18.1, 18.7, 18.15, 18.30, 18.31)."""

from nfsgw.access import EXECUTE, READ, WRITE
from nfsgw.files import Files
from nfsgw.gate import Waits
from nfsgw.v4.attributes import encoder_of, pack_bitmap, read_encoder, seen, supported
from nfsgw.v4.current import At, Current, Operation, PseudoRoot
from nfsgw.v4.fattr import Attr, bits, packed_bitmap, read_bitmap
from nfsgw.v4.places import here
from nfsgw.v4.protocol import Failed, Op, Status
from nfsgw.v4.settable import VALUES_BYTES_MAX, WRITE_ONLY, read_settable
from nfsgw.v4.stateids import read_stateid
from nfsgw.v4.statuses import ANSWERED, status_of
from nfsgw.xdr import Packer, Unpacker

ACCESS_READ, ACCESS_LOOKUP, ACCESS_MODIFY, ACCESS_EXTEND, ACCESS_DELETE, ACCESS_EXECUTE = (
    1 << bit for bit in range(6)
)
ACCESS_XAREAD, ACCESS_XAWRITE, ACCESS_XALIST = 0x40, 0x80, 0x100  # RFC 8276, 8.5
_OF_XATTRS = ACCESS_XAREAD | ACCESS_XAWRITE | ACCESS_XALIST
_NONE_SET = packed_bitmap(0)
_OF_FILES = ACCESS_READ | ACCESS_MODIFY | ACCESS_EXTEND | ACCESS_EXECUTE
_OF_DIRECTORIES = ACCESS_READ | ACCESS_LOOKUP | ACCESS_MODIFY | ACCESS_EXTEND | ACCESS_DELETE
_CHANGES = ACCESS_MODIFY | ACCESS_EXTEND | ACCESS_DELETE


def get_attr(current: Current, args: Unpacker, out: Packer) -> None:
    encoder = read_encoder(args, current.minor)
    out.raw(encoder.fattr(seen(current, here(current))))


def set_attr(current: Current, args: Unpacker, out: Packer) -> Waits:
    """Its result says which attributes are set when it fails, too: all of them, or none."""
    try:
        yield from _set_attr(current, args, out)
    except ANSWERED as error:
        raise Failed(status_of(error), _NONE_SET) from error


def _set_attr(current: Current, args: Unpacker, out: Packer) -> Waits:
    stateid = read_stateid(args)
    wished = read_settable(args, supported(current.minor))
    if wished.bitmap & bits(Attr.MODE_UMASK):
        raise Failed(Status.INVAL)  # RFC 8275, 3: for what is new
    yield from current.files.gate.room()
    here(current)
    place = current.place()
    opened = None
    if wished.size is not None:
        if place.inode.is_dir:
            raise Failed(Status.ISDIR)
        opened = current.state.for_io(current, stateid, place, WRITE)
    done = wished.apply(current.files, place, opened=opened is not None)
    current.must_store = True
    pack_bitmap(out, done)


def verify(current: Current, args: Unpacker, out: Packer) -> None:
    if not _same(current, args):
        raise Failed(Status.NOT_SAME)


def verify_not(current: Current, args: Unpacker, out: Packer) -> None:
    if _same(current, args):
        raise Failed(Status.SAME)


def _same(current: Current, args: Unpacker) -> bool:
    """Whether the attributes have these values; ATTRNOTSUPP, INVAL.

    XDR writes a value in one way only, so values are compared as they stand on the wire.
    """
    asked = read_bitmap(args)
    values = args.opaque(VALUES_BYTES_MAX)
    if asked & ~supported(current.minor):
        raise Failed(Status.ATTRNOTSUPP)
    if asked & (WRITE_ONLY | bits(Attr.RDATTR_ERROR)):
        raise Failed(Status.INVAL)
    about = seen(current, here(current))
    return encoder_of(asked, current.minor).values(about) == values


def access(current: Current, args: Unpacker, out: Packer) -> None:
    asked, at = args.u32(), here(current)
    known = _OF_DIRECTORIES if isinstance(at, PseudoRoot) or at.inode.is_dir else _OF_FILES
    if current.minor >= 2:
        known |= _OF_XATTRS
    out.u32(asked & known)
    out.u32(asked & known & (_allowed(current.files, at) | _allowed_xattrs(current.files, at)))


def _allowed(files: Files, at: At) -> int:
    """Names of a directory change by WRITE and EXECUTE together."""
    if isinstance(at, PseudoRoot):
        return ACCESS_READ | ACCESS_LOOKUP
    allowed = 0
    if files.may_do(at, READ):
        allowed |= ACCESS_READ
    if files.may_do(at, EXECUTE):
        allowed |= ACCESS_LOOKUP | ACCESS_EXECUTE
    if files.may_do(at, WRITE | EXECUTE if at.inode.is_dir else WRITE):
        allowed |= _CHANGES
    return allowed


def _allowed_xattrs(files: Files, at: At) -> int:
    """Who may read a file may read its extended attributes; anybody may list them."""
    if isinstance(at, PseudoRoot):
        return 0
    allowed = ACCESS_XALIST
    if files.may_do(at, READ):
        allowed |= ACCESS_XAREAD
    if files.may_do(at, WRITE):
        allowed |= ACCESS_XAWRITE
    return allowed


OPERATIONS: dict[Op, Operation] = {
    Op.GETATTR: get_attr,
    Op.SETATTR: set_attr,
    Op.VERIFY: verify,
    Op.NVERIFY: verify_not,
    Op.ACCESS: access,
}
