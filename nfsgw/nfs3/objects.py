"""One object: GETATTR, SETATTR, LOOKUP, ACCESS, READLINK, FSSTAT, FSINFO, PATHCONF."""

import struct

from engine.inode import FILE_BYTES_MAX
from nfsgw.access import EXECUTE, READ, WRITE
from nfsgw.files import FILES_MAX, Files
from nfsgw.gate import Outcome
from nfsgw.nfs3.answers import (
    Change,
    Subject,
    changing,
    post_op_handle,
    read_handle,
    read_name,
    reading,
)
from nfsgw.nfs3.attributes import fattr, post_op, read_attributes, read_time, wire_time
from nfsgw.nfs3.names import setting, sound_name
from nfsgw.nfs3.protocol import (
    FAILURES,
    IO_BYTES_MAX,
    LINKS_MAX,
    LISTING_BYTES_MAX,
    NAME_MAX,
    OK,
    Failed,
    Status,
    status_of,
)
from nfsgw.rpc import Call
from nfsgw.xdr import Packer, Unpacker

ACCESS_READ, ACCESS_LOOKUP, ACCESS_MODIFY, ACCESS_EXTEND, ACCESS_DELETE, ACCESS_EXECUTE = (
    1, 2, 4, 8, 16, 32,
)  # fmt: skip
# What each needs of a directory and of anything else; nobody deletes in a file.
_OF_DIRECTORY = (
    (ACCESS_READ, READ), (ACCESS_LOOKUP, EXECUTE),
    (ACCESS_MODIFY | ACCESS_EXTEND | ACCESS_DELETE, WRITE | EXECUTE),
)  # fmt: skip
_OF_OTHERS = (
    (ACCESS_READ, READ),
    (ACCESS_EXECUTE, EXECUTE),
    (ACCESS_MODIFY | ACCESS_EXTEND, WRITE),
)

FSF_LINK, FSF_SYMLINK, FSF_HOMOGENEOUS, FSF_CANSETTIME = 1, 2, 8, 16
_FSSTAT = struct.Struct(">6QI")
_FSINFO = struct.Struct(">7IQ3I")
_PATHCONF = struct.Struct(">6I")
_TIME_DELTA = (0, 1)  # one nanosecond
_IO_MULTIPLE = 4096


def getattr3(files: Files, call: Call, args: Unpacker, out: Packer) -> Outcome:
    """RFC 1813, 3.3.1."""
    raw = read_handle(args)
    try:
        out.raw(OK + fattr(files.place(call, raw)))
    except FAILURES as error:
        out.u32(status_of(error))
    return None


@changing(Subject.wcc)
def setattr3(files: Files, call: Call, args: Unpacker, subject: Subject) -> Change:
    """3.3.2: all of it or nothing; ``guard`` is the ctime that the client believes in."""
    raw, wanted = read_handle(args), read_attributes(args)
    guard = read_time(args) if args.boolean() else None
    yield from files.gate.room()
    place = subject.meets(files.place(call, raw))
    wanted.check()
    if guard is not None and guard != wire_time(place.inode.ctime_ns):
        raise Failed(Status.NOT_SYNC)
    if wanted.empty:
        return subject.wcc()
    setting(files, place, wanted)
    subject.changed()
    yield from files.gate.stored()
    return subject.wcc()


@reading
def lookup(files: Files, call: Call, args: Unpacker, out: Packer, subject: Subject) -> None:
    """3.3.3; ``.`` and ``..`` are names too."""
    raw, name = read_handle(args), read_name(args)
    directory = subject.seen(files.place(call, raw))
    found = files.lookup(directory, sound_name(name))
    out.raw(
        OK + post_op_handle(files.handle(found))[4:] + post_op(found) + subject.attributes()
    )  # fmt: skip


@reading
def access(files: Files, call: Call, args: Unpacker, out: Packer, subject: Subject) -> None:
    """3.3.4: an answer for this moment; each call is looked at again."""
    raw, wanted = read_handle(args), args.u32()
    place = subject.seen(files.place(call, raw))
    granted = 0
    for bits, needs in _OF_DIRECTORY if place.inode.is_dir else _OF_OTHERS:
        if wanted & bits and files.may_do(place, needs):
            granted |= wanted & bits
    out.raw(OK + subject.attributes())
    out.u32(granted)


@reading
def readlink(files: Files, call: Call, args: Unpacker, out: Packer, subject: Subject) -> None:
    """3.3.5; INVAL for what is no symlink."""
    place = subject.seen(files.place(call, read_handle(args)))
    target = files.readlink(place)
    out.raw(OK + subject.attributes())
    out.opaque(target)


@reading
def fsstat(files: Files, call: Call, args: Unpacker, out: Packer, subject: Subject) -> None:
    """3.3.18; of a volume with a quota what that leaves."""
    place = subject.seen(files.place(call, read_handle(args)))
    total, free = files.space(place)
    free_files = FILES_MAX - files.store.space().files
    out.raw(OK + subject.attributes())
    out.raw(_FSSTAT.pack(total, free, free, FILES_MAX, free_files, free_files, 0))


@reading
def fsinfo(files: Files, call: Call, args: Unpacker, out: Packer, subject: Subject) -> None:
    """3.3.19."""
    subject.seen(files.place(call, read_handle(args)))
    io = (IO_BYTES_MAX, IO_BYTES_MAX, _IO_MULTIPLE)
    properties = FSF_LINK | FSF_SYMLINK | FSF_HOMOGENEOUS | FSF_CANSETTIME
    out.raw(OK + subject.attributes())
    out.raw(_FSINFO.pack(*io, *io, LISTING_BYTES_MAX, FILE_BYTES_MAX, *_TIME_DELTA, properties))


@reading
def pathconf(files: Files, call: Call, args: Unpacker, out: Packer, subject: Subject) -> None:
    """3.3.20: names are bytes, never shortened; only root gives files away."""
    subject.seen(files.place(call, read_handle(args)))
    no_trunc = chown_restricted = case_preserving = True
    out.raw(OK + subject.attributes())
    out.raw(_PATHCONF.pack(LINKS_MAX, NAME_MAX, no_trunc, chown_restricted, False, case_preserving))
