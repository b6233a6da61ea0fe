"""OPEN (RFC 8881, 18.16): a name or a file becomes an Open of the client's, made first if wished.

All that may fail is looked at before anything changes: what stands against the open, rights, room;
so a file is made, or cut to no length, only for an open that then happens, and a new file whose
attributes cannot be set is taken away again.
"""

import stat
from collections.abc import Generator
from dataclasses import dataclass

from engine import errors
from nfsgw.access import EXECUTE, READ, WRITE, check, check_contents, check_writes, may
from nfsgw.files import Place
from nfsgw.gate import Wait
from nfsgw.v4.attributes import pack_bitmap, pack_change, supported
from nfsgw.v4.current import Current, Operation, PseudoRoot
from nfsgw.v4.fattr import Attr, bits
from nfsgw.v4.limits import OWNER_BYTES_MAX
from nfsgw.v4.lookup_ops import visible_exports
from nfsgw.v4.names import read_name
from nfsgw.v4.opens import SHARE_BOTH, SHARE_READ, SHARE_WRITE
from nfsgw.v4.places import directory_here, file_here, file_of, room_for_names
from nfsgw.v4.protocol import Failed, Op, Status
from nfsgw.v4.settable import Settable, read_settable
from nfsgw.v4.state_ops import ACCESS_BITS, answer_stateid, check_grace, client_of
from nfsgw.v4.stateids import read_stateid
from nfsgw.xdr import Garbage, Packer, Unpacker

NO_CREATE, CREATE = 0, 1
UNCHECKED, GUARDED, EXCLUSIVE, EXCLUSIVE_WITH_ATTRIBUTES = range(4)
NULL, PREVIOUS, DELEGATE_CUR, DELEGATE_PREV, FH, DELEG_CUR_FH, DELEG_PREV_FH = range(7)
WANTED_BITS, WANT_MAX = 0xFF00, 0x0500
WANT_NOTHING, WANT_CANCEL = 0x0400, 0x0500
DELEGATE_NONE, DELEGATE_NONE_EXT = 0, 3
NOT_WANTED, NOT_SUPPORTED_FOR_TYPE, CANCELLED = 0, 3, 7  # why there is none
LOCKTYPE_POSIX = 4
_NO_VERIFIER = 1 << 63 | 1  # stands for the client's 0, which is what all other files have
DEFAULT_MODE = 0o644


@dataclass(slots=True)
class Wish:
    """The arguments of OPEN.  ``how`` None: no file is to be made."""

    access: int
    deny: int
    wanted: int
    owner: bytes
    how: int | None
    verifier: int
    attributes: Settable
    claim: int
    name: bytes

    @property
    def cuts(self) -> bool:
        """Whether a file that is there gets another size."""
        return self.how == UNCHECKED and self.attributes.size is not None


def open_(current: Current, args: Unpacker, out: Packer) -> Generator[Wait, None, None]:
    """18.16."""
    wish = _read(current, args)
    if wish.how is not None and wish.claim == NULL:
        yield from room_for_names(current, (current.place, wish.name))
    elif wish.how is not None:
        yield from current.files.gate.room()
    check_grace(current, wish.claim == PREVIOUS)
    before = after = attributes = 0
    if wish.claim == NULL:
        if isinstance(current.at, PseudoRoot):
            raise Failed(_in_pseudo_root(current, wish))
        directory = directory_here(current)
        before = directory.inode.change
        place, attributes = _by_name(current, wish, directory)
        after = directory.inode.change
    else:
        place = file_here(current)
        _check_open(current, wish, place)
    held = current.state.open_files.grant_open(
        client_of(current), wish.owner, place, wish.access, wish.deny
    )
    current.go(place)
    answer_stateid(current, out, held.stateid)
    pack_change(out, before, after)
    out.u32(LOCKTYPE_POSIX)
    pack_bitmap(out, attributes)
    _pack_no_delegation(out, wish.wanted)


# --- the arguments


def _read(current: Current, args: Unpacker) -> Wish:
    args.u32()
    share, deny = args.u32(), args.u32()
    args.u64()
    owner = bytes(args.opaque(OWNER_BYTES_MAX))
    how, verifier, attributes = _read_how(current, args)
    claim, name = args.u32(), b""
    match claim:
        case 0:  # NULL
            name = read_name(args)
        case 1:  # PREVIOUS
            args.u32()
        case 2 | 5:  # DELEGATE_CUR, DELEG_CUR_FH
            read_stateid(args)
            raise Failed(Status.BAD_STATEID)
        case 3 | 6:  # DELEGATE_PREV, DELEG_PREV_FH
            raise Failed(Status.NOTSUPP)
        case 4:  # FH
            pass
        case other:
            raise Garbage(f"{other} is no claim")
    access, wanted = share & ACCESS_BITS, share & WANTED_BITS
    if not access or deny > SHARE_BOTH or wanted > WANT_MAX:
        raise Failed(Status.INVAL)
    if how is not None and claim != NULL:
        raise Failed(Status.INVAL)
    return Wish(access, deny, wanted, owner, how, verifier, attributes, claim, name)


def _read_how(current: Current, args: Unpacker) -> tuple[int | None, int, Settable]:
    """openflag4: how to make it, the verifier, the attributes."""
    make = args.u32()
    if make == NO_CREATE:
        return None, 0, Settable()
    how = args.u32()
    if make != CREATE or how > EXCLUSIVE_WITH_ATTRIBUTES:
        raise Garbage(f"{make}, {how} is no openflag4")
    verifier, attributes = 0, Settable()
    if how in (EXCLUSIVE, EXCLUSIVE_WITH_ATTRIBUTES):
        verifier = args.u64() or _NO_VERIFIER
    if how != EXCLUSIVE:
        attributes = read_settable(args, supported(current.minor))
    return how, verifier, attributes


# --- which file


def _in_pseudo_root(current: Current, wish: Wish) -> Status:
    """Why nothing can be opened there."""
    if any(export.name.encode() == wish.name for export in visible_exports(current)):
        return Status.EXIST if wish.how not in (None, UNCHECKED) else Status.ISDIR
    return Status.NOENT if wish.how is None else Status.ROFS


def _by_name(current: Current, wish: Wish, directory: Place) -> tuple[Place, int]:
    """The file of a name, made if it has to be; the attributes that were set."""
    files = current.files
    try:
        found = files.lookup(directory, wish.name)
    except errors.NotFound:
        if wish.how is None:
            raise
        return _made(current, wish, directory)
    exclusive = wish.how in (EXCLUSIVE, EXCLUSIVE_WITH_ATTRIBUTES)
    if wish.how == GUARDED or (
        exclusive and (not found.inode.is_file or found.inode.verifier != wish.verifier)
    ):
        raise Failed(Status.EXIST)
    place = file_of(current, found)
    _check_open(current, wish, place, made=exclusive)
    if wish.cuts:
        files.setattr(place, size=wish.attributes.size)
        current.must_store = True
        return place, bits(Attr.SIZE)
    return place, wish.attributes.bitmap if exclusive else 0


def _made(current: Current, wish: Wish, directory: Place) -> tuple[Place, int]:
    """A new file with its attributes, or none."""
    files = current.files
    current.state.room_for_open(current)
    mode = stat.S_IFREG | wish.attributes.mode_of_new(DEFAULT_MODE)
    place = files.create(directory, wish.name, mode, verifier=wish.verifier)
    current.must_store = True
    try:
        wish.attributes.apply_to_new(files, place)
    except errors.RametError:
        files.unlink(directory, wish.name)
        raise
    return place, wish.attributes.bitmap


# --- whether


def _check_open(current: Current, wish: Wish, place: Place, *, made: bool = False) -> None:
    """That a file that is there may be opened so.  SHARE_DENIED, RECLAIM_CONFLICT, AccessDenied.

    ``made``: the client has made it just now.
    """
    _check_deny(place, wish.deny)
    state, files, client = current.state, current.files, client_of(current)
    reclaim = wish.claim == PREVIOUS
    if made or reclaim:
        if wish.access & SHARE_READ:
            files.check_read(place)
        if wish.access & SHARE_WRITE:
            files.check_write(place)
    else:
        _check_rights(place, wish.access)
    held = state.open_files.open_of(client, wish.owner, place)
    access = wish.access | (SHARE_WRITE if wish.cuts else 0)
    if state.denied(current, place, access, wish.deny, held):
        raise Failed(Status.RECLAIM_CONFLICT if reclaim else Status.SHARE_DENIED)
    if held is None:
        state.room_for_open(current)
    if reclaim:
        state.recovery.reclaimed()


def _check_deny(place: Place, deny: int) -> None:
    """Who keeps others from reading must be able to write, as in knfsd (its do_open_permission; RFC
    8881 says nothing of it); who may only read an export keeps nobody out of anything, which is
    stricter than knfsd, where he may keep others from writing."""
    if deny:
        check_writes(place.who)
    if deny & SHARE_READ:
        check_contents(place.inode, place.who, WRITE)


def _check_rights(place: Place, access: int) -> None:
    """As open(2) does: execution is a reason to read; the owner has no privilege."""
    inode, who = place.inode, place.who
    if access & SHARE_READ and not may(inode, who, READ):
        check(inode, who, EXECUTE)
    if access & SHARE_WRITE:
        check_writes(who)
        place.volume.check_writable()
        check(inode, who, WRITE)


def _pack_no_delegation(out: Packer, wanted: int) -> None:
    """open_delegation4; who has asked is told why there is none (18.16.3)."""
    if not wanted:
        out.u32(DELEGATE_NONE)
        return
    out.u32(DELEGATE_NONE_EXT)
    why = {WANT_NOTHING: NOT_WANTED, WANT_CANCEL: CANCELLED}
    out.u32(why.get(wanted, NOT_SUPPORTED_FOR_TYPE))


OPERATIONS: dict[Op, Operation] = {Op.OPEN: open_}
