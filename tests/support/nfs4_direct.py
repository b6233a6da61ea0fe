"""NFSv4 without a network: compounds into the program, answers out of it, in this thread.

What an operation waits for is done on the spot: ``durable`` commits the store.
"""

import contextlib
import ipaddress
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import nfs4_ops as ops
import trio
from nfs4_ops import opaque, u32, u64

from engine import Store
from nfsgw.exports import Export, Exports, Right, Rule
from nfsgw.files import Files
from nfsgw.gate import Gate
from nfsgw.handles import KEY_BYTES, Handles
from nfsgw.rpc import Call, Credential
from nfsgw.v4.limits import Limits
from nfsgw.v4.program import COMPOUND, Nfs4
from nfsgw.v4.protocol import PROGRAM, Op, Status
from nfsgw.v4.recovery import CLIENT_PREFIX
from nfsgw.v4.state import State
from nfsgw.xdr import Packer, Unpacker

LOOPBACK = Rule(ipaddress.ip_network("127.0.0.0/8"), Right.ROOT)
_SEQUENCE_BYTES = 8 + 16 + 5 * 4


class Peer:
    """Where a client calls from."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = ipaddress.ip_address(address)
        self.port = 1000
        self.memo: dict[bytes, object] = {}


class Gateway:
    """A store with exports, served to whoever calls ``Client``; ``waited`` says what for."""

    def __init__(self, store: Store) -> None:
        self.start(store)

    def start(self, store: Store) -> None:
        """As a server that starts."""
        self.store = store
        self.waited: list[str] = []
        self.full = False
        self.between: Callable[[], None] = lambda: None  # what others do while a call waits
        self.gate = Gate(
            store=store, durable=self._durable, admit=self._admit, full=lambda: self.full,
            foreign=contextlib.nullcontext, settled=self._settled, unsettled=lambda: False,
        )  # fmt: skip
        self.exports = Exports()
        self.files = Files(self.gate, self.exports, Handles(bytes(range(KEY_BYTES))))
        self.state = State(store, Limits(turn_s=math.inf))
        self.program = Nfs4(self.files, self.state)

    def export(self, *names: str, rule: Rule = LOOPBACK) -> None:
        """Export volumes, or snapshots VOL@SNAP, by their names, besides those there are."""
        made = self.exports.all()
        for name in names:
            volume_name, _, snapshot = name.partition("@")
            volume = self.store.volume(volume_name)
            if snapshot:
                volume = self.store.snapshot(volume, snapshot)
            number = max((each.id for each in made), default=0) + 1
            made = [each for each in made if each.name != name]
            made.append(Export(number, "/" + name, volume.id, (rule,)))
        self.exports.replace(made, self.exports.changed_ns + 1)

    @contextlib.contextmanager
    def volumes(self, *names: str) -> Iterator["Gateway"]:
        """New volumes, all that is exported, for as long as a test; and a server that starts."""
        self.start(self.store)
        for name in names:
            self.store.create_volume(name)
        self.export(*names)
        yield self
        for each in self.store.volumes():
            self.store.remove_volume(each.name, force=True)
        for key, _ in list(self.store.records.items(CLIENT_PREFIX)):
            self.store.records.delete(key)  # else the next start has a grace period

    async def _durable(self) -> None:
        self.waited.append("durable")
        self.store.commit()

    async def _admit(self) -> None:
        self.waited.append("admit")
        self.full = False

    async def _settled(self) -> None:
        self.waited.append("settled")

    def call(self, call: Call, arguments: bytes) -> bytes:
        """The results of a call, all waits done."""
        out = Packer()
        outcome = self.program.call(call, Unpacker(memoryview(arguments)), out)
        wait = next(outcome, None) if outcome is not None else None
        while wait is not None:
            assert outcome is not None
            self.between()
            try:
                trio.run(wait)
            except Exception as error:
                wait = _thrown(outcome, error)
            else:
                wait = next(outcome, None)
        return b"".join(out.parts)


def _thrown(outcome, error):  # type: ignore[no-untyped-def]
    try:
        return outcome.throw(error)
    except StopIteration:
        return None


class Answer:
    """The results of a compound, read in order: ``to`` is the next operation's."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._results = Unpacker(memoryview(raw))
        self.status = Status(self._results.u32())
        self._results.opaque(1024)
        self.count = self._results.u32()

    def to(self, op: Op, status: Status = Status.OK) -> Unpacker:
        """At the body of the result of the next operation, which is this one."""
        assert self._results.u32() == op
        found = Status(self._results.u32())
        assert found == status, found.name
        return self._results

    def last(self) -> Unpacker:
        """At the body of the last one: no operation before it has a body."""
        while self._results.left > 8:
            at = self._results.at
            if Status(struct.unpack_from(">I", self.raw, at + 4)[0]) and self.status:
                break
            self._results.at += 8
            if struct.unpack_from(">I", self.raw, at)[0] == Op.SEQUENCE:
                self._results.at += _SEQUENCE_BYTES - 8
            elif self._bodyless(struct.unpack_from(">I", self.raw, at)[0]):
                continue
            else:
                return self._results
        return self._results

    @staticmethod
    def _bodyless(number: int) -> bool:
        return number in (
            Op.PUTFH, Op.PUTROOTFH, Op.PUTPUBFH, Op.SAVEFH, Op.RESTOREFH, Op.LOOKUP, Op.LOOKUPP,
            Op.VERIFY, Op.NVERIFY, Op.ALLOCATE, Op.DEALLOCATE, Op.CLONE,
        )  # fmt: skip


class Client:
    """A client with a session, and one call at a time."""

    def __init__(
        self, gateway: Gateway, *, uid: int = 0, gid: int = 0, gids: tuple[int, ...] = (),
        minor: int = 2, address: str = "127.0.0.1", owner: bytes = b"client",
    ) -> None:  # fmt: skip
        self.gateway, self.minor = gateway, minor
        self.peer = Peer(address)
        self.credential: Credential | None = Credential(uid, gid, gids)
        self._sequence = 0
        made = Answer(self.send([
            u32(Op.EXCHANGE_ID) + b"verifier" + opaque(owner) + u32(0, 0, 0)
        ])).to(Op.EXCHANGE_ID)  # fmt: skip
        client_id, sequence = made.u64(), made.u32()
        channel = u32(0, 1 << 21, 1 << 21, 4096, 64, 1, 0)
        self.session = bytes(Answer(self.send([
            u32(Op.CREATE_SESSION) + u64(client_id) + u32(sequence, 0) + channel + channel
            + u32(0x40000000, 1, 0)
        ])).to(Op.CREATE_SESSION).fixed(16))  # fmt: skip
        self.ok(u32(Op.RECLAIM_COMPLETE, 0))

    def head(self, count: int) -> bytes:
        """Tag, minor version, number of operations."""
        return opaque(b"tag") + u32(self.minor, count)

    def sequence(self) -> bytes:
        self._sequence += 1
        return u32(Op.SEQUENCE) + self.session + u32(self._sequence, 0, 0, 0)

    def send(self, operations: list[bytes]) -> bytes:
        """A compound of exactly these."""
        return self.raw(self.head(len(operations)) + b"".join(operations))

    def raw(self, arguments: bytes) -> bytes:
        call = Call(1, PROGRAM, 4, COMPOUND, self.credential, self.peer)
        return self.gateway.call(call, arguments)

    def call(self, *operations: bytes) -> Answer:
        """SEQUENCE and these; ``to`` stands behind SEQUENCE."""
        answer = Answer(self.send([self.sequence(), *operations]))
        answer.to(Op.SEQUENCE).fixed(_SEQUENCE_BYTES - 8)
        return answer

    def ok(self, *operations: bytes) -> Answer:
        answer = self.call(*operations)
        assert answer.status == Status.OK, answer.status.name
        assert answer.count == len(operations) + 1
        return answer

    def fails(self, *operations: bytes) -> Status:
        """The status of the last of them; all others are OK."""
        answer = self.call(*operations)
        assert answer.status != Status.OK
        assert answer.count == len(operations) + 1, answer.status.name
        return answer.status

    # --- what tests do again and again

    def handle(self, path: str) -> bytes:
        return bytes(self.ok(*ops.walk(path), ops.get_fh()).last().opaque(128))

    def attributes(self, path: str, *numbers: int) -> dict[int, object]:
        answer = self.ok(*ops.walk(path), ops.getattr_(numbers))
        return ops.read_attributes(answer.last())


@contextlib.contextmanager
def gateway(path: Path, *volumes: str, **options: int) -> Iterator[Gateway]:
    """A new store whose volumes are exported."""
    Store.create(path, **options)
    with contextlib.ExitStack() as undo:
        store = Store.open(path)
        undo.callback(store.abandon)
        made = Gateway(store)
        for name in volumes:
            store.create_volume(name)
        made.export(*volumes)
        yield made
