"""Operations on locks and stateids (RFC 8881, 18.2, 18.10 to 18.12, 18.18, 18.38, 18.48).

A lock that is not free is DENIED; whoever waits for it asks again. There are no delegations, so
there is nothing to return.
"""

from nfsgw.v4.clients import EXPIRED_MAX, Client
from nfsgw.v4.current import Current, Operation
from nfsgw.v4.limits import OWNER_BYTES_MAX
from nfsgw.v4.opens import SHARE_BOTH, SHARE_READ, SHARE_WRITE, LockState, Open, OpenFile
from nfsgw.v4.places import file_here
from nfsgw.v4.protocol import Failed, Op, Status
from nfsgw.v4.ranges import END_MAX, Holder, Range
from nfsgw.v4.stateids import INVALID, SPECIAL, Stateid, pack_stateid, read_stateid
from nfsgw.xdr import Garbage, Packer, Unpacker

READ_LT, WRITE_LT, READW_LT, WRITEW_LT = range(1, 5)
STATEIDS_MAX = 1024
ACCESS_BITS = 0x3  # of share_access; the others are wishes about delegations


def client_of(current: Current) -> Client:
    """Whose compound it is; DEADSESSION when it was taken away while the compound waited."""
    session = current.session
    assert session is not None
    if session.id not in current.state.sessions:
        raise Failed(Status.DEADSESSION)
    return session.client


def answer_stateid(current: Current, out: Packer, stateid: Stateid) -> None:
    """It becomes the current one."""
    current.stateid = stateid
    pack_stateid(out, stateid)


def close(current: Current, args: Unpacker, out: Packer) -> None:
    """18.2.  Locks that are left go with it."""
    args.u32()
    stateid = read_stateid(args)
    current.state.open_files.close(current.state.open_at(current, stateid, file_here(current)))
    answer_stateid(current, out, INVALID)


def open_downgrade(current: Current, args: Unpacker, out: Packer) -> None:
    """18.18."""
    stateid = read_stateid(args)
    args.u32()
    access, deny = args.u32() & ACCESS_BITS, args.u32()
    held = current.state.open_at(current, stateid, file_here(current))
    if not access or deny > SHARE_BOTH or not held.narrow(access, deny):
        raise Failed(Status.INVAL)
    answer_stateid(current, out, held.stateid)


# --- byte ranges


def _read_kind(args: Unpacker) -> bool:
    """Whether a lock is exclusive."""
    kind = args.u32()
    if not READ_LT <= kind <= WRITEW_LT:
        raise Garbage(f"{kind} is no lock type")
    return kind in (WRITE_LT, WRITEW_LT)


def _range(offset: int, length: int, exclusive: bool) -> Range:
    """18.10.3: all ones is "to the end, wherever that will be"."""
    if length == 0 or (length != END_MAX and length > END_MAX - offset + 1):
        raise Failed(Status.INVAL)
    return Range(offset, END_MAX if length == END_MAX else offset + length - 1, exclusive)


def lock(current: Current, args: Unpacker, out: Packer) -> None:
    """18.10."""
    exclusive, reclaim = _read_kind(args), args.boolean()
    wanted = _range(args.u64(), args.u64(), exclusive)
    new_owner = args.boolean()
    if new_owner:
        args.u32()
    stateid = read_stateid(args)
    args.u32()
    owner = _read_owner(args) if new_owner else b""
    check_grace(current, reclaim)
    state, place = current.state, file_here(current)
    if new_owner:
        held = state.open_at(current, stateid, place)
    else:
        found = state.lock_at(current, stateid, place)
        held, owner = found.open, found.owner
    if not held.access & (SHARE_WRITE if exclusive else SHARE_READ):
        raise Failed(Status.OPENMODE)
    state.room_for_lock(current)
    _check_free(current, held.file, (held.client.id, owner), wanted, reclaim)
    if reclaim:
        state.recovery.reclaimed()
    granted = state.open_files.grant_lock(held, owner, wanted)
    answer_stateid(current, out, granted.stateid)


def _read_owner(args: Unpacker) -> bytes:
    """A lock_owner4; its client id means nothing in a session."""
    args.u64()
    return bytes(args.opaque(OWNER_BYTES_MAX))


def _check_free(
    current: Current, file: OpenFile, holder: Holder, wanted: Range, reclaim: bool
) -> None:
    """DENIED, saying by what; RECLAIM_CONFLICT.  Expired clients lose what is in the way; DELAY:
    there are many."""
    state = current.state
    for _ in range(EXPIRED_MAX):
        found = file.ranges.conflict(holder, wanted)
        if found is None:
            return
        (client_id, owner), range_ = found
        if state.expire(current, state.holder(client_id)):
            continue
        if reclaim:
            raise Failed(Status.RECLAIM_CONFLICT)
        if client_id != holder[0]:
            client_id = state.clients.alias(client_id)
        raise Failed(Status.DENIED, _denied(client_id, owner, range_))
    raise Failed(Status.DELAY)


def _denied(client_id: int, owner: bytes, held: Range) -> bytes:
    """LOCK4denied.  A client learns its own id in it, and of another's who it is not."""
    body = Packer()
    body.u64(held.start)
    body.u64(END_MAX if held.end == END_MAX else held.end - held.start + 1)
    body.u32(WRITE_LT if held.exclusive else READ_LT)
    body.u64(client_id)
    body.opaque(owner)
    return b"".join(body.parts)


def lock_test(current: Current, args: Unpacker, out: Packer) -> None:
    """LOCKT, 18.11."""
    exclusive = _read_kind(args)
    wanted = _range(args.u64(), args.u64(), exclusive)
    owner = _read_owner(args)
    check_grace(current, reclaim=False)
    file = current.state.open_files.find(file_here(current))
    if file is not None:
        _check_free(current, file, (client_of(current).id, owner), wanted, False)


def unlock(current: Current, args: Unpacker, out: Packer) -> None:
    """LOCKU, 18.12."""
    exclusive = _read_kind(args)
    args.u32()
    stateid = read_stateid(args)
    start, end, _ = _range(args.u64(), args.u64(), exclusive)
    state = current.state
    held = state.lock_at(current, stateid, file_here(current))
    state.open_files.unlock(held, start, end)
    answer_stateid(current, out, held.stateid)


def check_grace(current: Current, reclaim: bool) -> None:
    """That something may be taken back now, or taken anew.  GRACE, NO_GRACE, RECLAIM_BAD."""
    client, grace = client_of(current), current.state.in_grace(current)
    if not reclaim:
        if grace or not client.reclaim_complete:
            raise Failed(Status.GRACE)
    elif client.reclaim_complete or not grace:
        raise Failed(Status.NO_GRACE)
    elif not current.state.recovery.may_reclaim(client.owner, client.principal):
        raise Failed(Status.RECLAIM_BAD)


# --- stateids


def test_stateid(current: Current, args: Unpacker, out: Packer) -> None:
    """18.48."""
    stateids = [read_stateid(args) for _ in range(args.count(STATEIDS_MAX))]
    out.u32(len(stateids))
    for stateid in stateids:
        out.u32(_validity(current, stateid))


def _validity(current: Current, stateid: Stateid) -> Status:
    if stateid.other in SPECIAL:
        return Status.BAD_STATEID
    try:
        current.state.find(current, stateid)
    except Failed as error:
        return error.status
    return Status.OK


def free_stateid(current: Current, args: Unpacker, out: Packer) -> None:
    """18.38: a lock-owner's that has no locks any more."""
    found: Open | LockState = current.state.find(current, read_stateid(args))
    if isinstance(found, Open) or found.file.ranges.held(found.holder):
        raise Failed(Status.LOCKS_HELD)
    current.state.open_files.free_lock(found)


def return_delegation(current: Current, args: Unpacker, out: Packer) -> None:
    """DELEGRETURN, 18.6."""
    read_stateid(args)
    raise Failed(Status.BAD_STATEID)


OPERATIONS: dict[Op, Operation] = {
    Op.CLOSE: close,
    Op.OPEN_DOWNGRADE: open_downgrade,
    Op.LOCK: lock,
    Op.LOCKT: lock_test,
    Op.LOCKU: unlock,
    Op.TEST_STATEID: test_stateid,
    Op.FREE_STATEID: free_stateid,
    Op.DELEGRETURN: return_delegation,
}
