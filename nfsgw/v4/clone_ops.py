"""CLONE and COPY (RFC 7862, 15.13 and 15.2), and what of server-side copying is not here.

CLONE is the one operation that makes `cp --reflink` a matter of metadata; Linux takes one NOTSUPP
for "never", on the whole mount, so no file and no range is answered so. A COPY shares the blocks
that it can share, is done when it is answered, and durable: that is what the client asks for by
"consecutive" and "synchronous", and what it gets when it does not ask.
"""

import struct

from engine import errors
from nfsgw import contents
from nfsgw.files import Place
from nfsgw.gate import Waits
from nfsgw.v4.current import Current, Operation
from nfsgw.v4.data_ops import FILE_SYNC, readable, writable
from nfsgw.v4.places import file_here, saved_file
from nfsgw.v4.protocol import Failed, Op, Status
from nfsgw.v4.stateids import CURRENT, Stateid
from nfsgw.xdr import Garbage, Packer, Unpacker

NETLOC_BYTES_MAX = 4096
NL4_NAME, NL4_URL, NL4_NETADDR = 1, 2, 3
_ends = struct.Struct(">I12sI12sQQQ")  # stateids of source and target, their offsets, the length
_copied = struct.Struct(">IQI8sII").pack


def clone(current: Current, args: Unpacker, out: Packer) -> Waits:
    source_id, target_id, offset, target_offset, length = _arguments(args)
    yield from current.files.gate.room()
    source, target = _files(current, source_id, target_id)
    length = _length(source, offset, length)
    if length:
        yield from contents.clone(
            current.files, source, offset, target, target_offset, length,
            again=lambda: _files(current, source_id, target_id),
        )  # fmt: skip
    current.must_store = True


def copy(current: Current, args: Unpacker, out: Packer) -> Waits:
    """What was copied before an error is said; the client meets the error when it goes on.  Not so
    when the file itself is of the past: then what was copied may be, too."""
    source_id, target_id, offset, target_offset, length = _arguments(args)
    args.boolean()  # consecutive: always
    args.boolean()  # synchronous: always
    if _read_servers(args):
        raise Failed(Status.OFFLOAD_DENIED)  # the source is elsewhere: the client reads and writes
    yield from current.files.gate.room()
    source, target = _files(current, source_id, target_id)
    length = _length(source, offset, length)
    copying = contents.copy(
        current.files, source, offset, target, target_offset, length,
        again=lambda: _files(current, source_id, target_id),
    )  # fmt: skip
    try:
        yield from copying.run()
    except (errors.RametError, OSError, Failed) as error:
        if not copying.done or isinstance(error, errors.Stale):
            raise
    current.must_store = True
    out.raw(_copied(0, copying.done, FILE_SYNC, current.files.verifier.current(), 1, 1))


def _arguments(args: Unpacker) -> tuple[Stateid, Stateid, int, int, int]:
    seqid, other, target_seqid, target_other, *rest = args.take(_ends)
    offset, target_offset, length = rest
    return Stateid(seqid, other), Stateid(target_seqid, target_other), offset, target_offset, length


def _files(current: Current, source_id: Stateid, target_id: Stateid) -> tuple[Place, Place]:
    """The saved file, to be read, and the current one, to be written."""
    source, target = saved_file(current), file_here(current)
    if source_id == CURRENT:
        if current.saved_stateid is None:
            raise Failed(Status.BAD_STATEID)
        source_id = current.saved_stateid
    readable(current, source_id, source)
    writable(current, target_id, target)
    return source, target


def _length(source: Place, offset: int, length: int) -> int:
    """0 means all there is; INVAL past the end of the source."""
    left = source.inode.size - offset
    if length > left or left < 0:
        raise Failed(Status.INVAL)
    return length or left


def _read_servers(args: Unpacker) -> int:
    """netloc4s, where the source is to be found: how many there are."""
    number = args.count(16)
    for _ in range(number):
        kind = args.u32()
        if kind not in (NL4_NAME, NL4_URL, NL4_NETADDR):
            raise Garbage(f"{kind} is no netloc_type4")
        for _ in range(2 if kind == NL4_NETADDR else 1):
            args.opaque(NETLOC_BYTES_MAX)
    return number


def not_supported(current: Current, args: Unpacker, out: Packer) -> None:
    """Copies between servers, and copies that go on after their answer."""
    raise Failed(Status.NOTSUPP)


OPERATIONS: dict[Op, Operation] = {
    Op.CLONE: clone,
    Op.COPY: copy,
    Op.COPY_NOTIFY: not_supported,
    Op.OFFLOAD_CANCEL: not_supported,
    Op.OFFLOAD_STATUS: not_supported,
    Op.WRITE_SAME: not_supported,
}
