"""READDIR (RFC 8881, 18.23): pages of a directory, with the attributes of what is in it.

A cookie belongs to its entry for as long as that lives, and entries come in the order of cookies,
so a page begins where the last one ended whatever has come and gone between: the verifier never
changes. A page is cut at 64 KiB, a few hundred entries, so that others have their turn.
"""

import struct
from collections.abc import Callable, Iterator
from functools import partial

from engine import DirEntry, errors
from nfsgw.access import EXECUTE, check
from nfsgw.exports import Export
from nfsgw.files import Files, Place
from nfsgw.v4.attributes import Encoder, read_encoder, seen
from nfsgw.v4.current import At, Current, PseudoRoot
from nfsgw.v4.fattr import Attr, bits, packed_bitmap
from nfsgw.v4.lookup_ops import visible_exports
from nfsgw.v4.places import here
from nfsgw.v4.protocol import Failed, Status
from nfsgw.v4.statuses import status_of
from nfsgw.xdr import Packer, Unpacker

VERIFIER = bytes(8)
REPLY_BYTES_MAX = 1 << 16
PAGE_ENTRIES = 64
COOKIES_FROM = 2  # what is below is for ".", ".." and the start, which NFSv4 does not list
_END_BYTES = 8  # no more entries, and whether that is all
_ERROR_BITS = bits(Attr.RDATTR_ERROR)
_entry = struct.Struct(">IQ").pack
_u32 = struct.Struct(">I").pack

Entry = tuple[int, bytes, Callable[[], At | None]]  # cookie, name, what it is if still there


def read_dir(current: Current, args: Unpacker, out: Packer) -> None:
    cookie, verifier = args.u64(), bytes(args.fixed(8))
    args.u32()  # dircount, a hint
    room = min(args.u32(), REPLY_BYTES_MAX)
    encoder = read_encoder(args, current.minor)
    at = here(current)
    if 0 < cookie <= COOKIES_FROM:
        raise Failed(Status.BAD_COOKIE)
    if cookie and verifier != VERIFIER:
        raise Failed(Status.NOT_SAME)
    if isinstance(at, PseudoRoot):
        entries = _exports(current, cookie)
    else:
        entries = _names(current.files, at, cookie)
    room -= len(VERIFIER) + _END_BYTES
    if room < 0:
        raise Failed(Status.TOOSMALL)
    out.fixed(VERIFIER)
    start, ended = out.mark(), 1
    for number, name, what in entries:
        attributes = _attributes(current, encoder, what)
        if attributes is None:
            continue
        head = _entry(1, number)
        size = len(head) + 4 + len(name) + (-len(name) & 3) + len(attributes)
        if size > room:
            if out.mark() == start:
                raise Failed(Status.TOOSMALL)
            ended = 0
            break
        room -= size
        out.raw(head)
        out.opaque(name)
        out.raw(attributes)
    out.u32(0)
    out.u32(ended)


def _attributes(
    current: Current, encoder: Encoder, what: Callable[[], At | None]
) -> bytes | None:  # fmt: skip
    """The fattr4 of an entry; where that fails, the error, if the client wants to be told so."""
    try:
        at = what()
        return None if at is None else encoder.fattr(seen(current, at))
    except errors.RametError as error:
        if not encoder.bitmap & _ERROR_BITS:
            raise
        return packed_bitmap(_ERROR_BITS) + _u32(4) + _u32(status_of(error))


def _exports(current: Current, cookie: int) -> Iterator[Entry]:
    def root(export: Export) -> Place | None:
        try:
            return current.files.root(current.call, export)
        except errors.Stale:  # its volume was removed, the export will be
            return None

    for export in visible_exports(current):
        if export.id + COOKIES_FROM > cookie:
            name = export.name.encode(errors="surrogateescape")
            yield export.id + COOKIES_FROM, name, partial(root, export)


def _entry_place(files: Files, at: Place, entry: DirEntry) -> Place | None:
    """Who may read a directory but not look names up in it learns names only; AccessDenied."""
    check(at.inode, at.who, EXECUTE)
    return files.entry_place(at, entry)


def _names(files: Files, at: Place, cookie: int) -> Iterator[Entry]:
    while entries := files.readdir(at, cookie, PAGE_ENTRIES):
        for entry in entries:
            yield entry.cookie, entry.name, partial(_entry_place, files, at, entry)
        cookie = entries[-1].cookie
