"""Contents: READ, WRITE, COMMIT.

A WRITE that is UNSTABLE is in the engine when it is answered, and shown to everybody; it is on
disk at the latest with the COMMIT, or the write verifier changes (nfsgw/verifier.py). Zeroes are
not stored, by WRITE as by any other door: the engine makes them holes.
"""

import struct

from engine.cold import Cold
from nfsgw.access import AccessDenied
from nfsgw.files import Files, Place
from nfsgw.gate import Outcome, Waits
from nfsgw.nfs3.again import remember
from nfsgw.nfs3.answers import Change, Subject, changing, read_handle
from nfsgw.nfs3.attributes import NOTHING, post_op
from nfsgw.nfs3.protocol import FAILURES, IO_BYTES_MAX, OK, Stable, status_of
from nfsgw.rpc import Call
from nfsgw.xdr import Garbage, Packer, Unpacker

_READ = struct.Struct(">QI")  # offset, count
_WRITE = struct.Struct(">QII")  # offset, count, stable_how
_READ_OK = struct.Struct(">3I")  # count, eof, length of the data
_WRITE_OK = struct.Struct(">2I")  # count, committed
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def read(files: Files, call: Call, args: Unpacker, out: Packer) -> Outcome:
    """3.3.6; fewer bytes than asked for at the end of the file only, and past IO_BYTES_MAX."""
    raw = read_handle(args)
    at = args.at
    offset, count = args.take(_READ)
    place = None
    try:
        place = files.place(call, raw)
        files.check_read(place)
        data, eof = files.read(place, offset, count)
    except Cold:
        if place is None:
            raise
        return _cold_read(files, call, raw, offset, count, out)
    except FAILURES as error:
        out.u32(status_of(error))
        out.raw(NOTHING if place is None else post_op(place))
        return None
    remember(files, call, args.data[:at], place)
    _answer(out, place, data, eof)
    return None


def _cold_read(
    files: Files, call: Call, raw: bytes, offset: int, count: int, out: Packer
) -> Waits:  # fmt: skip
    place = None
    out.promised = min(count, IO_BYTES_MAX)

    def found() -> Place:
        nonlocal place
        place = files.place(call, raw)
        files.check_read(place)
        return place

    try:
        place, data, eof = yield from files.cold_read(found, offset, count)
    except FAILURES as error:
        out.u32(status_of(error))
        out.raw(NOTHING if place is None else post_op(place))
        return
    _answer(out, place, data, eof)


def _answer(out: Packer, place: Place, data: memoryview, eof: bool) -> None:
    size = len(data)
    out.raw(OK + post_op(place) + _READ_OK.pack(size, eof, size))
    if size:
        out.raw(data)
    if size & 3:
        out.raw(_PADDING[size & 3])


@changing(Subject.wcc)
def write(files: Files, call: Call, args: Unpacker, subject: Subject) -> Change:
    """3.3.7; what is past IO_BYTES_MAX is left to another call."""
    raw = read_handle(args)
    at = args.at
    offset, count, stable = args.take(_WRITE)
    data = args.opaque(args.left)
    if stable > Stable.FILE_SYNC or count > len(data):
        raise Garbage("no WRITE")
    size = min(count, IO_BYTES_MAX)
    gate = files.gate
    yield from gate.room()

    def attempt(wait: bool) -> None:
        place = subject.meets(files.place(call, raw))
        files.check_write(place)
        files.write(place, offset, data[:size], wait=wait)

    try:
        attempt(False)
    except Cold:
        yield from files.patient(attempt)
    subject.changed()
    if subject.place is not None:
        remember(files, call, args.data[:at], subject.place)
    verifier = files.verifier.current()  # now: what follows may take a while and change it
    if stable == Stable.UNSTABLE:
        yield from gate.shown()
    else:
        yield from gate.stored()
        stable = Stable.FILE_SYNC
    return subject.wcc() + _WRITE_OK.pack(size, stable) + verifier


@changing(Subject.wcc)
def commit(files: Files, call: Call, args: Unpacker, subject: Subject) -> Change:
    """3.3.21: all that was answered before is on disk, in whatever range."""
    raw = read_handle(args)
    args.u64(), args.u32()  # offset and count
    place = subject.meets(files.place(call, raw))
    _check_commit(files, place)
    subject.changed()
    if not place.volume.read_only:
        yield from files.gate.stored()
    return subject.wcc() + files.verifier.current()


def _check_commit(files: Files, place: Place) -> None:
    """Whoever may read or write a file may wait for the disk."""
    try:
        files.check_read(place)
    except AccessDenied:
        files.check_write(place)
