"""Operations on contents (RFC 8881, 18.3, 18.22, 18.32; RFC 7862, 15.1, 15.4, 15.5, 15.10 and on).

READ and WRITE are what a disk is made of, so their arguments are taken in one go. A hole is a block
that maps nothing: a block of zeroes, too, is one.
"""

import struct
from collections.abc import Callable, Generator

from engine.cold import Cold
from nfsgw import contents
from nfsgw.access import READ, WRITE, check_writes
from nfsgw.files import READ_BYTES_MAX, Place
from nfsgw.gate import Outcome, Wait, Waits
from nfsgw.v4.current import Current, Operation
from nfsgw.v4.fattr import pack_bitmap, read_bitmap
from nfsgw.v4.places import file_here
from nfsgw.v4.protocol import Failed, Op, Status
from nfsgw.v4.stateids import Stateid
from nfsgw.xdr import Garbage, Packer, Unpacker

UNSTABLE, DATA_SYNC, FILE_SYNC = 0, 1, 2
CONTENT_DATA, CONTENT_HOLE = 0, 1
LENGTH_END = 1 << 64

_range32 = struct.Struct(">I12sQI")  # stateid, offset, count or how
_range64 = struct.Struct(">I12sQQ")  # stateid, offset, length
_two_u32 = struct.Struct(">II").pack
_written = struct.Struct(">II8s").pack
_hole = struct.Struct(">IQQ").pack
_data = struct.Struct(">IQ").pack
_found = struct.Struct(">IQ").pack


def readable(current: Current, stateid: Stateid, place: Place) -> None:
    """That the client may read a file by a stateid."""
    if current.state.for_io(current, stateid, place, READ) is None:
        current.files.check_read(place)


def writable(current: Current, stateid: Stateid, place: Place) -> None:
    """That it may write it; what an export allows may have changed since the file was opened."""
    if current.state.for_io(current, stateid, place, WRITE) is None:
        current.files.check_write(place)
    else:
        check_writes(place.who)


def read(current: Current, args: Unpacker, out: Packer) -> Outcome:
    seqid, other, offset, count = args.take(_range32)

    def found() -> Place:
        place = file_here(current)
        readable(current, Stateid(seqid, other), place)
        return place

    place = found()
    try:
        data, end = current.files.read(place, offset, count)
    except Cold:
        return _cold_read(current, found, offset, count, out)
    out.raw(_two_u32(end, len(data)))
    out.fixed(data)
    return None


def _cold_read(
    current: Current, found: Callable[[], Place], offset: int, count: int, out: Packer
) -> Waits:  # fmt: skip
    out.promised = min(count, READ_BYTES_MAX)
    _, data, end = yield from current.files.cold_read(found, offset, count)
    out.raw(_two_u32(end, len(data)))
    out.fixed(data)


def write(current: Current, args: Unpacker, out: Packer) -> Waits:
    seqid, other, offset, how = args.take(_range32)
    data = args.opaque(args.left)
    if how > FILE_SYNC:
        raise Garbage(f"{how} is no stable_how4")
    files = current.files
    yield from files.gate.room()

    def attempt(wait: bool) -> None:
        place = file_here(current)
        writable(current, Stateid(seqid, other), place)
        if data:
            files.write(place, offset, data, wait=wait)

    try:
        attempt(False)
    except Cold:
        yield from files.patient(attempt)
    if how == UNSTABLE:
        current.must_show = True
    else:
        current.must_store = True
        how = FILE_SYNC
    out.raw(_written(len(data), how, files.verifier.current()))


def commit(current: Current, args: Unpacker, out: Packer) -> None:
    """All of the file, and of every other: a commit of the store has all that came before."""
    args.u64()
    args.u32()
    file_here(current)
    current.must_store = True
    out.raw(current.files.verifier.current())


def seek(current: Current, args: Unpacker, out: Packer) -> None:
    """NXIO from the end on; eof with the hole that is the end, and where there is no more data."""
    seqid, other, offset, what = args.take(_range32)
    if what > CONTENT_HOLE:
        raise Failed(Status.UNION_NOTSUPP)
    place = file_here(current)
    readable(current, Stateid(seqid, other), place)
    size = place.inode.size
    if offset >= size:
        raise Failed(Status.NXIO)
    found = contents.seek(place, offset, data=what == CONTENT_DATA)
    if found is None:
        found = size
    out.raw(_found(found >= size, found))


def allocate(current: Current, args: Unpacker, out: Packer) -> Waits:
    place, offset, length = yield from _writable_range(current, args)
    contents.allocate(current.files, place, offset, length)
    current.must_store = True


def deallocate(current: Current, args: Unpacker, out: Packer) -> Waits:
    place, offset, length = yield from _writable_range(current, args)
    contents.deallocate(current.files, place, offset, length)
    current.must_store = True


def _writable_range(
    current: Current, args: Unpacker
) -> Generator[Wait, None, tuple[Place, int, int]]:
    """INVAL for no bytes at all, and for more than a length can say."""
    seqid, other, offset, length = args.take(_range64)
    yield from current.files.gate.room()
    place = file_here(current)
    if not length or offset + length >= LENGTH_END:
        raise Failed(Status.INVAL)
    writable(current, Stateid(seqid, other), place)
    return place, offset, length


def io_advise(current: Current, args: Unpacker, out: Packer) -> None:
    """No advice is heeded: what is read next comes from the page cache, which sees for itself."""
    seqid, other, _, _ = args.take(_range64)
    read_bitmap(args)
    current.state.for_io(current, Stateid(seqid, other), file_here(current), READ)
    pack_bitmap(out, 0)


def read_plus(current: Current, args: Unpacker, out: Packer) -> None:
    """READ that says where there is nothing instead of sending zeroes."""
    seqid, other, offset, count = args.take(_range32)
    place = file_here(current)
    readable(current, Stateid(seqid, other), place)
    size = place.inode.size
    end = min(offset + min(count, READ_BYTES_MAX), size)
    out.u32(end >= size)
    segments, number = out.later(), 0
    while offset < end:
        start = contents.seek(place, offset, data=True)
        start = end if start is None else min(start, end)
        if start > offset:
            out.raw(_hole(CONTENT_HOLE, offset, start - offset))
            offset = start
        else:
            start = contents.seek(place, offset, data=False) or end
            data, _ = current.files.read(place, offset, min(start, end) - offset)
            out.raw(_data(CONTENT_DATA, offset))
            out.opaque(data)
            offset += len(data)
        number += 1
    out.settle(segments, number)


OPERATIONS: dict[Op, Operation] = {
    Op.READ: read,
    Op.WRITE: write,
    Op.COMMIT: commit,
    Op.SEEK: seek,
    Op.ALLOCATE: allocate,
    Op.DEALLOCATE: deallocate,
    Op.IO_ADVISE: io_advise,
    Op.READ_PLUS: read_plus,
}
