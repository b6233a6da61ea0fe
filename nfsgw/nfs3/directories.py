"""Directories: READDIR and READDIRPLUS.

A cookie belongs to its entry for as long as that exists, across restarts too, so the cookie
verifier is always the same and says nothing (RFC 1813, 3.3.16: it is there for servers whose
cookies go bad). A call does no more work than LISTING_BYTES_MAX, whatever it asks for, and finds
its place in a directory of any size by one search.
"""

import struct
from collections.abc import Callable, Iterator

from engine import DirEntry, numbers
from engine.keys import ROOT_INO
from nfsgw.access import EXECUTE
from nfsgw.files import Files, Place
from nfsgw.nfs3.answers import Subject, post_op_handle, read_handle, reading
from nfsgw.nfs3.attributes import NOTHING, POST_OP_BYTES, post_op
from nfsgw.nfs3.protocol import LISTING_BYTES_MAX, OK, Failed, Status
from nfsgw.rpc import Call
from nfsgw.xdr import Packer, Unpacker

COOKIE_VERIFIER = bytes(8)
PAGE_ENTRIES = 128
_HEAD = struct.Struct(">IQI")  # another entry, fileid, length of the name
_COOKIE = struct.Struct(">Q")
_END = struct.Struct(">2I")  # no other entry, eof
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_FIXED_BYTES = POST_OP_BYTES + len(COOKIE_VERIFIER) + _END.size

Listed = tuple[bytes, int, int, Callable[[], Place | None]]  # name, fileid, cookie, its place


@reading
def readdir(files: Files, call: Call, args: Unpacker, out: Packer, subject: Subject) -> None:
    """3.3.16."""
    raw, cookie = read_handle(args), args.u64()
    args.fixed(len(COOKIE_VERIFIER))
    count = args.u32()
    place = subject.seen(files.place(call, raw))
    _list(files, place, cookie, out, most=count, most_names=count, describe=None)


@reading
def readdirplus(files: Files, call: Call, args: Unpacker, out: Packer, subject: Subject) -> None:
    """3.3.17; attributes and handles for whom LOOKUP would give them."""
    raw, cookie = read_handle(args), args.u64()
    args.fixed(len(COOKIE_VERIFIER))
    most_names, most = args.u32(), args.u32()
    place = subject.seen(files.place(call, raw))
    looks_up = files.may_do(place, EXECUTE)

    def describe(find: Callable[[], Place | None]) -> bytes:
        found = find() if looks_up else None
        if found is None:
            return NOTHING + NOTHING
        return post_op(found) + post_op_handle(files.handle(found))

    _list(files, place, cookie, out, most=most, most_names=most_names, describe=describe)


def _list(
    files: Files, place: Place, cookie: int, out: Packer, *, most: int, most_names: int,
    describe: Callable[[Callable[[], Place | None]], bytes] | None,
) -> None:  # fmt: skip
    """``most`` counts all of the result, ``most_names`` names, fileids and cookies; at least one
    entry comes, or TOOSMALL."""
    room = min(most, LISTING_BYTES_MAX) - _FIXED_BYTES
    names_room = min(most_names, LISTING_BYTES_MAX)
    parts: list[bytes] = []
    eof = True
    for name, fileid, after, find in _entries(files, place, cookie):
        entry = b"".join(
            (_HEAD.pack(1, fileid, len(name)), name, _PADDING[len(name) & 3], _COOKIE.pack(after))
        )
        size = len(entry)
        if parts and size > names_room:
            eof = False
            break
        if describe is not None:
            entry += describe(find)
        room -= len(entry)
        names_room -= size
        if room < 0:
            eof = False
            break
        parts.append(entry)
    if not parts and not eof:
        raise Failed(Status.TOOSMALL)
    out.raw(OK + post_op(place) + COOKIE_VERIFIER)
    out.raw(b"".join(parts))
    out.raw(_END.pack(0, eof))


def _entries(files: Files, place: Place, cookie: int) -> Iterator[Listed]:
    """The entries after a cookie, read page by page as they are asked for."""
    entries = files.readdir(place, cookie, PAGE_ENTRIES)
    if cookie < 1:
        yield b".", place.fileid, 1, lambda: place
    if cookie < 2:
        parent = files.parent(place)
        yield b"..", parent.fileid, 2, lambda: parent
    while entries:
        for entry in entries:
            fileid = _fileid(place, entry)
            yield entry.name, fileid, entry.cookie, _finder(files, place, entry)
        if len(entries) < PAGE_ENTRIES:
            return
        entries = files.readdir(place, entries[-1].cookie, PAGE_ENTRIES)


def _finder(files: Files, place: Place, entry: DirEntry) -> Callable[[], Place | None]:
    return lambda: files.entry_place(place, entry)


def _fileid(place: Place, entry: DirEntry) -> int:
    if place.snapshots:
        return numbers.join(entry.cookie - 2, ROOT_INO)
    return numbers.join(place.volume.id, entry.ino)
