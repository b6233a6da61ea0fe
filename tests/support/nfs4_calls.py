"""Operations of NFSv4 as a client sends them, and their results as it reads them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from nfsgw.v4.protocol import Op, Status
from nfsgw.v4.stateids import ANONYMOUS, Stateid, pack_stateid, read_stateid
from nfsgw.xdr import Packer, Unpacker

READ, WRITE, BOTH = 1, 2, 3  # share access, share deny
NONE = 0
READ_LOCK, WRITE_LOCK, READ_LOCK_WAIT, WRITE_LOCK_WAIT = 1, 2, 3, 4
TO_END = (1 << 64) - 1
UNCHECKED, GUARDED, EXCLUSIVE, EXCLUSIVE_WITH_ATTRIBUTES = range(4)
SIZE_BIT, MODE_BIT = 4, 33


def _nothing(body: Unpacker) -> None:
    return None


@dataclass(frozen=True)
class Call4:
    """An operation; ``reads`` its result when it is OK, ``fails`` what others say."""

    op: Op
    arguments: bytes = b""
    reads: Callable[[Unpacker], Any] = _nothing
    fails: Callable[[Unpacker, Status], Any] = lambda body, status: None

    def read(self, body: Unpacker, status: Status) -> Any:
        return self.reads(body) if status == Status.OK else self.fails(body, status)


def packed(make: Callable[[Packer], None]) -> bytes:
    out = Packer()
    make(out)
    return b"".join(out.parts)


def words(*values: int) -> bytes:
    return b"".join(each.to_bytes(4, "big") for each in values)


def long(value: int) -> bytes:
    return value.to_bytes(8, "big")


def opaque(data: bytes) -> bytes:
    return packed(lambda out: out.opaque(data))


def stateid(value: Stateid) -> bytes:
    return packed(lambda out: pack_stateid(out, value))


# --- clients and sessions


class Introduced(NamedTuple):
    id: int
    sequence: int
    flags: int
    server: bytes
    scope: bytes


def exchange_id(
    owner: bytes, verifier: bytes = b"verifier", flags: int = 0, protection: int = 0,
    implementations: int = 0,
) -> Call4:  # fmt: skip
    def read(body: Unpacker) -> Introduced:
        client_id, sequence, told = body.u64(), body.u32(), body.u32()
        assert body.u32() == 0
        body.u64()
        found = Introduced(
            client_id, sequence, told, bytes(body.opaque(1024)), bytes(body.opaque(1024))
        )
        assert body.u32() == 0
        return found

    implementation = opaque(b"example.org") + opaque(b"tests") + long(0) + words(0)
    return Call4(
        Op.EXCHANGE_ID,
        verifier + opaque(owner) + words(flags, protection, implementations)
        + implementation * implementations,
        read,
    )  # fmt: skip


class Created(NamedTuple):
    session_id: bytes
    sequence: int
    flags: int
    request_bytes: int
    response_bytes: int
    cached_bytes: int
    operations: int
    slots: int


def channel(
    request: int = 1 << 21, response: int = 1 << 21, cached: int = 4096, operations: int = 64,
    slots: int = 8, rdma: tuple[int, ...] = (),
) -> bytes:  # fmt: skip
    return words(0, request, response, cached, operations, slots, len(rdma), *rdma)


def create_session(
    client_id: int, sequence: int, *, flags: int = 0, back: bytes | None = None,
    security: bytes | None = None, **fore: Any,
) -> Call4:  # fmt: skip
    def read(body: Unpacker) -> Created:
        session_id, number, told = bytes(body.fixed(16)), body.u32(), body.u32()
        found = [body.u32() for _ in range(7)]
        for _ in range(7):
            body.u32()
        return Created(session_id, number, told, *found[1:6])

    return Call4(
        Op.CREATE_SESSION,
        long(client_id) + words(sequence, flags) + channel(**fore)
        + (channel() if back is None else back) + words(0x4000_0000)
        + (words(1, 0) if security is None else security),
        read,
    )  # fmt: skip


class Sequenced(NamedTuple):
    session_id: bytes
    sequence: int
    slot: int
    highest: int
    target: int
    flags: int


def sequence(
    session_id: bytes, number: int, slot: int, highest: int, *, cache: bool = False
) -> Call4:
    def read(body: Unpacker) -> Sequenced:
        return Sequenced(bytes(body.fixed(16)), *(body.u32() for _ in range(5)))

    return Call4(Op.SEQUENCE, session_id + words(number, slot, highest, cache), read)


def bind(session_id: bytes, direction: int = 3) -> Call4:
    def read(body: Unpacker) -> tuple[bytes, int]:
        found = bytes(body.fixed(16)), body.u32()
        assert not body.boolean()
        return found

    return Call4(Op.BIND_CONN_TO_SESSION, session_id + words(direction, 0), read)


def destroy_session(session_id: bytes) -> Call4:
    return Call4(Op.DESTROY_SESSION, session_id)


def destroy_clientid(client_id: int) -> Call4:
    return Call4(Op.DESTROY_CLIENTID, long(client_id))


def reclaim_complete(*, one_fs: bool = False) -> Call4:
    return Call4(Op.RECLAIM_COMPLETE, words(one_fs))


# --- files


def putrootfh() -> Call4:
    return Call4(Op.PUTROOTFH)


def putfh(handle: bytes) -> Call4:
    return Call4(Op.PUTFH, opaque(handle))


def getfh() -> Call4:
    return Call4(Op.GETFH, reads=lambda body: bytes(body.opaque(128)))


def lookup(name: bytes) -> Call4:
    return Call4(Op.LOOKUP, opaque(name))


def lookupp() -> Call4:
    return Call4(Op.LOOKUPP)


def savefh() -> Call4:
    return Call4(Op.SAVEFH)


def restorefh() -> Call4:
    return Call4(Op.RESTOREFH)


def remove(name: bytes) -> Call4:
    return Call4(Op.REMOVE, opaque(name), lambda body: bytes(body.fixed(20)))


def read(state: Stateid = ANONYMOUS, offset: int = 0, count: int = 4096) -> Call4:
    def result(body: Unpacker) -> tuple[bool, bytes]:
        return body.boolean(), bytes(body.opaque(1 << 21))

    return Call4(Op.READ, stateid(state) + long(offset) + words(count), result)


def write(state: Stateid, offset: int, data: bytes, stable: int = 2) -> Call4:
    def result(body: Unpacker) -> tuple[int, int, bytes]:
        return body.u32(), body.u32(), bytes(body.fixed(8))

    return Call4(Op.WRITE, stateid(state) + long(offset) + words(stable) + opaque(data), result)


def set_size(state: Stateid, size: int) -> Call4:
    return Call4(
        Op.SETATTR, stateid(state) + attributes(size=size), bitmap, lambda body, _: bitmap(body)
    )


def attributes(size: int | None = None, mode: int | None = None) -> bytes:
    """A fattr4 to set."""
    first = 0 if size is None else 1 << SIZE_BIT
    second = 0 if mode is None else 1 << MODE_BIT - 32
    values = (b"" if size is None else long(size)) + (b"" if mode is None else words(mode))
    return words(2, first, second) + opaque(values)


def bitmap(body: Unpacker) -> int:
    found = 0
    for number in range(body.count(8)):
        found |= body.u32() << 32 * number
    return found


def secinfo(name: bytes) -> Call4:
    return Call4(Op.SECINFO, opaque(name), _flavors)


def secinfo_no_name(style: int) -> Call4:
    return Call4(Op.SECINFO_NO_NAME, words(style), _flavors)


def _flavors(body: Unpacker) -> list[int]:
    return [body.u32() for _ in range(body.count(8))]


# --- opens and locks


class Opened(NamedTuple):
    stateid: Stateid
    atomic: bool
    before: int
    after: int
    flags: int
    attributes: int
    delegation: tuple[int, ...]


def _opened(body: Unpacker) -> Opened:
    found = read_stateid(body)
    change = body.boolean(), body.u64(), body.u64()
    flags, told, kind = body.u32(), bitmap(body), body.u32()
    return Opened(found, *change, flags, told, (kind, body.u32()) if kind == 3 else (kind,))


def open_call(
    how: bytes, claim: bytes, access: int = BOTH, deny: int = NONE, owner: bytes = b"owner"
) -> Call4:
    head = words(0, access, deny) + long(0) + opaque(owner)
    return Call4(Op.OPEN, head + how + claim, _opened)


def open_name(name: bytes, access: int = BOTH, deny: int = NONE, owner: bytes = b"owner") -> Call4:
    """CLAIM_NULL of a file that is there."""
    return open_call(words(0), words(0) + opaque(name), access, deny, owner)


def open_new(
    name: bytes, access: int = BOTH, deny: int = NONE, owner: bytes = b"owner", *,
    how: int = UNCHECKED, verifier: bytes = b"exclusiv", given: bytes | None = None,
) -> Call4:  # fmt: skip
    """CLAIM_NULL of a file that is made if it is not there."""
    making = words(1, how)
    if how in (EXCLUSIVE, EXCLUSIVE_WITH_ATTRIBUTES):
        making += verifier
    if how != EXCLUSIVE:
        making += attributes(mode=0o644) if given is None else given
    return open_call(making, words(0) + opaque(name), access, deny, owner)


def open_here(access: int = BOTH, deny: int = NONE, owner: bytes = b"owner") -> Call4:
    """CLAIM_FH."""
    return open_call(words(0), words(4), access, deny, owner)


def reopen(access: int = BOTH, deny: int = NONE, owner: bytes = b"owner") -> Call4:
    """CLAIM_PREVIOUS: after a restart of the server."""
    return open_call(words(0), words(1, 0), access, deny, owner)


def downgrade(state: Stateid, access: int, deny: int = NONE) -> Call4:
    return Call4(Op.OPEN_DOWNGRADE, stateid(state) + words(0, access, deny), read_stateid)


def close(state: Stateid) -> Call4:
    return Call4(Op.CLOSE, words(0) + stateid(state), read_stateid)


class Denied(NamedTuple):
    offset: int
    length: int
    kind: int
    client_id: int
    owner: bytes


def _denied(body: Unpacker, status: Status) -> Denied | None:
    if status != Status.DENIED:
        return None
    return Denied(body.u64(), body.u64(), body.u32(), body.u64(), bytes(body.opaque(1024)))


def lock_new(
    state: Stateid, owner: bytes, kind: int = WRITE_LOCK, offset: int = 0, length: int = TO_END, *,
    reclaim: bool = False,
) -> Call4:  # fmt: skip
    """The first LOCK of a lock-owner, by an open stateid."""
    head = words(kind, reclaim) + long(offset) + long(length) + words(1, 0)
    tail = stateid(state) + words(0) + long(0) + opaque(owner)
    return Call4(Op.LOCK, head + tail, read_stateid, _denied)


def lock_more(
    state: Stateid, kind: int = WRITE_LOCK, offset: int = 0, length: int = TO_END
) -> Call4:
    """LOCK by a lock stateid."""
    head = words(kind, 0) + long(offset) + long(length) + words(0)
    return Call4(Op.LOCK, head + stateid(state) + words(0), read_stateid, _denied)


def lock_test(owner: bytes, kind: int = WRITE_LOCK, offset: int = 0, length: int = TO_END) -> Call4:
    arguments = words(kind) + long(offset) + long(length) + long(0) + opaque(owner)
    return Call4(Op.LOCKT, arguments, fails=_denied)


def unlock(state: Stateid, offset: int = 0, length: int = TO_END) -> Call4:
    arguments = words(WRITE_LOCK, 0) + stateid(state) + long(offset) + long(length)
    return Call4(Op.LOCKU, arguments, read_stateid)


def free_stateid(state: Stateid) -> Call4:
    return Call4(Op.FREE_STATEID, stateid(state))


def test_stateids(*states: Stateid) -> Call4:
    def result(body: Unpacker) -> list[Status]:
        return [Status(body.u32()) for _ in range(body.count(1024))]

    return Call4(
        Op.TEST_STATEID, words(len(states)) + b"".join(stateid(each) for each in states), result
    )
