"""Operations on clients and sessions (RFC 8881, 18.33 to 18.37, 18.50, 18.51).

State protection is SP4_NONE: who a client is, is what it says. The callback channel is taken and
never used, for there is nothing to call back about: no delegations, no layouts.
"""

from nfsgw.rpc import AUTH_NONE, AUTH_SYS, GIDS_MAX, MACHINE_BYTES_MAX
from nfsgw.v4.clients import Client, Created, principal_of
from nfsgw.v4.current import Current, Operation
from nfsgw.v4.limits import OWNER_BYTES_MAX
from nfsgw.v4.protocol import Failed, Op, Status
from nfsgw.v4.sessions import SESSION_ID_BYTES, Channel, Session
from nfsgw.xdr import Garbage, Packer, Unpacker

VERIFIER_BYTES = 8
SP4_NONE, SP4_MACH_CRED, SP4_SSV = range(3)
RPCSEC_GSS = 6
# eia_flags, eir_flags
SUPPORTED_FLAGS = 0x7_0103  # referrals, migration, principals of stateids, the uses of pNFS
FENCE_OPS = 4  # since 4.2
USE_NON_PNFS = 0x1_0000
UPDATE = 0x4000_0000
CONFIRMED = 0x8000_0000
# csa_flags
PERSIST, BACK_CHANNEL, RDMA = 1, 2, 4
# bind_conn_to_session
FORE, BACK, FORE_OR_BOTH, BACK_OR_BOTH = 1, 2, 3, 7
_SECURITY_MAX = 16


def exchange_id(current: Current, args: Unpacker, out: Packer) -> None:
    """18.35."""
    verifier = bytes(args.fixed(VERIFIER_BYTES))
    owner = bytes(args.opaque(OWNER_BYTES_MAX))
    flags = args.u32()
    _read_protection(args)
    for _ in range(args.count(1)):
        args.opaque(OWNER_BYTES_MAX)
        args.opaque(OWNER_BYTES_MAX)
        args.i64(), args.u32()
    known = SUPPORTED_FLAGS | UPDATE | (FENCE_OPS if current.minor >= 2 else 0)
    if flags & ~known:
        raise Failed(Status.INVAL)
    clients, principal = current.state.clients, principal_of(current.call)
    if current.state.recovery.is_anothers(owner, principal):
        raise Failed(Status.CLID_INUSE)
    if flags & UPDATE:
        client = clients.update(owner, verifier, principal)
    else:
        origin = current.state.quotas.origin(current.call.peer.address.packed)
        client = clients.introduce(owner, verifier, principal, origin)
    current.must_store = True  # the number of this start, which stateids begin with
    out.u64(client.id)
    out.u32(client.created.sequence + 1 & 0xFFFFFFFF)
    out.u32(USE_NON_PNFS | (CONFIRMED if client.confirmed else 0))
    out.u32(SP4_NONE)
    server = current.files.store.uuid.bytes
    out.u64(0)
    out.opaque(server)  # the same on all addresses: sessions may be trunked
    out.opaque(server)  # what we hand out has a meaning with this store only
    out.u32(0)


def _read_protection(args: Unpacker) -> None:
    """state_protect4_a.  Both other kinds stand on RPCSEC_GSS."""
    how = args.u32()
    if how == SP4_NONE:
        return
    if how > SP4_SSV:
        raise Garbage(f"{how} is no state protection")
    raise Failed(Status.INVAL if how == SP4_MACH_CRED else Status.ENCR_ALG_UNSUPP)


def create_session(current: Current, args: Unpacker, out: Packer) -> None:
    """18.36.  Only success is kept for a retry: what failed has changed nothing, and is tried
    again with the same sequence."""
    client_id, sequence, flags = args.u64(), args.u32(), args.u32()
    wanted, back = Channel.read(args), Channel.read(args)
    args.u32()  # callback program
    _read_callback_security(args)
    state = current.state
    client = state.clients.find(client_id)
    if sequence == client.created.sequence:
        if client.created.status != Status.OK:
            raise Failed(client.created.status)
        out.raw(client.created.body)
        return
    if sequence != client.created.sequence + 1 & 0xFFFFFFFF:
        raise Failed(Status.SEQ_MISORDERED)
    state.clients.check_confirm(client, principal_of(current.call))
    state.clients.renew(client)  # it is here: nothing that makes room takes it away
    if flags & ~(PERSIST | BACK_CHANNEL | RDMA):
        raise Failed(Status.INVAL)
    channel = state.channel(client, wanted)
    back = back.granted(state.limits, state.limits.slots_of_session)
    state.clients.confirm(client)
    session = Session(client, channel)
    session.used_by(current.call.peer)
    state.add_session(session)
    current.must_store = True  # the end of what the client's record replaces
    body = Packer()
    body.fixed(session.id)
    body.u32(sequence)
    body.u32(flags & BACK_CHANNEL)
    channel.pack(body)
    back.pack(body)
    client.created = Created(sequence, Status.OK, b"".join(body.parts))
    out.raw(client.created.body)


def _read_callback_security(args: Unpacker) -> None:
    """callback_sec_parms4<>."""
    for _ in range(args.count(_SECURITY_MAX)):
        flavor = args.u32()
        if flavor == AUTH_SYS:
            args.u32()
            args.opaque(MACHINE_BYTES_MAX)
            args.u32(), args.u32()
            for _ in range(args.count(GIDS_MAX)):
                args.u32()
        elif flavor == RPCSEC_GSS:
            args.u32()
            args.opaque(OWNER_BYTES_MAX)
            args.opaque(OWNER_BYTES_MAX)
        elif flavor != AUTH_NONE:
            raise Garbage(f"{flavor} is no flavor of callbacks")


def bind_connection(current: Current, args: Unpacker, out: Packer) -> None:
    """BIND_CONN_TO_SESSION, 18.34."""
    session = current.state.session(bytes(args.fixed(SESSION_ID_BYTES)))
    direction = args.u32()
    args.boolean()  # RDMA mode: no
    if direction not in (FORE, BACK, FORE_OR_BOTH, BACK_OR_BOTH):
        raise Garbage(f"{direction} is no direction of a channel")
    session.used_by(current.call.peer)
    current.state.clients.renew(session.client)
    out.fixed(session.id)
    out.u32(direction & 3)
    out.boolean(False)


def backchannel_ctl(current: Current, args: Unpacker, out: Packer) -> None:
    """18.33: where callbacks would go."""
    args.u32()
    _read_callback_security(args)


def destroy_session(current: Current, args: Unpacker, out: Packer) -> None:
    """18.37; as the last operation only, when it ends the compound's own session (compound.py)."""
    session = current.state.session(bytes(args.fixed(SESSION_ID_BYTES)))
    if current.session is not session and current.call.peer not in session.connections:
        raise Failed(Status.CONN_NOT_BOUND_TO_SESSION)
    busy = sum(slot.busy for slot in session.slots)
    if busy > (current.session is session):
        raise Failed(Status.DELAY)
    current.state.remove_session(session)


def destroy_clientid(current: Current, args: Unpacker, out: Packer) -> None:
    """18.50."""
    client: Client = current.state.clients.find(args.u64())
    if not client.idle:
        raise Failed(Status.CLIENTID_BUSY)
    current.state.clients.remove(client)
    current.must_store = True


def reclaim_complete(current: Current, args: Unpacker, out: Packer) -> None:
    """18.51.  ``one file system`` is about migration, of which there is none."""
    one_fs = args.boolean()
    assert current.session is not None
    client = current.session.client
    if one_fs:
        if current.at is None:
            raise Failed(Status.NOFILEHANDLE)
        return
    if client.reclaim_complete:
        raise Failed(Status.COMPLETE_ALREADY)
    current.state.recovery.record(client.owner, client.principal)
    client.reclaim_complete = True
    current.must_store = True


OPERATIONS: dict[Op, Operation] = {
    Op.EXCHANGE_ID: exchange_id,
    Op.CREATE_SESSION: create_session,
    Op.BIND_CONN_TO_SESSION: bind_connection,
    Op.BACKCHANNEL_CTL: backchannel_ctl,
    Op.DESTROY_SESSION: destroy_session,
    Op.DESTROY_CLIENTID: destroy_clientid,
    Op.RECLAIM_COMPLETE: reclaim_complete,
}
