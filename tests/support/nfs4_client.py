"""A small NFSv4.1/4.2 client: compounds of calls, sessions, and what came back, decoded.

A call is an operation's number, its arguments and how its result reads; ``nfs4_calls`` makes those
of sessions and state.  ``Nfs4Client`` is a connection, over a network or straight to the program;
``Session`` puts SEQUENCE before a compound and counts its slot on.
"""

import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import nfs4_calls as calls
from nfs4_calls import Call4, Created
from rpc_client import RpcClient

from nfsgw.v4.protocol import PROGRAM, VERSION, Op, Status
from nfsgw.xdr import Packer, Unpacker

COMPOUND = 1
_names = itertools.count(1)


class Nfs4Error(Exception):
    """A compound has failed."""

    def __init__(self, answer: "Answer") -> None:
        super().__init__(
            f"{answer.results[-1].op.name if answer.results else ''} {answer.status!r}"
        )
        self.answer = answer
        self.status = answer.status


@dataclass
class Result:
    """What an operation has answered; ``value`` is what its call reads there."""

    op: Op
    status: Status
    value: Any = None


@dataclass
class Answer:
    """What a compound has answered."""

    status: Status
    tag: bytes
    results: list[Result]
    raw: bytes

    def ok(self) -> "Answer":
        if self.status != Status.OK:
            raise Nfs4Error(self)
        return self

    @property
    def value(self) -> Any:
        """What the last operation has answered."""
        return self.results[-1].value

    def of(self, op: Op) -> Any:
        """What the last operation of a kind has answered."""
        return next(each.value for each in reversed(self.results) if each.op == op)


@dataclass
class Nfs4Client:
    """A connection; ``transport`` takes the arguments of COMPOUND and gives its results."""

    transport: Callable[[bytes], bytes]
    minor: int = 2

    def compound(
        self, *sent: Call4, minor: int | None = None, tag: bytes = b"", count: int | None = None,
        more: bytes = b"",
    ) -> Answer:  # fmt: skip
        """Carry out; ``count`` and ``more`` are for those that lie about what comes."""
        return answer(self.transport(self.arguments(*sent, minor=minor, tag=tag, count=count)
                                     + more), sent)  # fmt: skip

    def arguments(
        self, *sent: Call4, minor: int | None = None, tag: bytes = b"", count: int | None = None
    ) -> bytes:
        arguments = Packer()
        arguments.opaque(tag)
        arguments.u32(self.minor if minor is None else minor)
        arguments.u32(len(sent) if count is None else count)
        for each in sent:
            arguments.u32(each.op)
            arguments.raw(each.arguments)
        return b"".join(arguments.parts)

    def introduce(
        self, owner: bytes | None = None, verifier: bytes = b"verifier", flags: int = 0
    ) -> calls.Introduced:
        """EXCHANGE_ID, as somebody nobody has seen before unless told otherwise."""
        owner = new_owner() if owner is None else owner
        found: calls.Introduced = (
            self.compound(calls.exchange_id(owner, verifier, flags)).ok().value
        )
        return found

    def session(
        self, owner: bytes | None = None, *, complete: bool = True, verifier: bytes = b"verifier",
        **channel: int,
    ) -> "Session":  # fmt: skip
        """A new session; ``complete``: RECLAIM_COMPLETE is sent."""
        client = self.introduce(owner, verifier)
        created = self.compound(calls.create_session(client.id, client.sequence, **channel)).ok()
        session = Session(self, client.id, created.value)
        if complete:
            session.run(calls.reclaim_complete())
        return session


def answer(raw: bytes, sent: Iterable[Call4]) -> Answer:
    """What a compound of these calls has answered."""
    body = Unpacker(memoryview(raw))
    status, tag, results = Status(body.u32()), bytes(body.opaque(1024)), []
    count = body.u32()
    for each in itertools.islice(itertools.chain(sent, itertools.repeat(None)), count):
        number, result = body.u32(), Status(body.u32())
        assert each is None or number in (each.op, Op.ILLEGAL), f"an answer to {each}"
        value = None if each is None else each.read(body, result)
        results.append(Result(Op(number), result, value))
    assert body.left == 0, "more in an answer than it says"
    assert status == (results[-1].status if results else status)
    return Answer(status, tag, results, raw)


def over(connection: RpcClient) -> Callable[[bytes], bytes]:
    """A transport."""

    def transport(arguments: bytes) -> bytes:
        found = connection.call(PROGRAM, VERSION, COMPOUND, arguments)
        return bytes(found.data[found.at :])

    return transport


def new_owner() -> bytes:
    """An owner that no other test has."""
    return b"client %d of %d" % (next(_names), os.getpid())


@dataclass
class Session:
    """A session, used over ``connection``."""

    connection: Nfs4Client
    client_id: int
    created: Created
    sequences: dict[int, int] = field(default_factory=dict)

    @property
    def id(self) -> bytes:
        return self.created.session_id

    def sequence(self, slot: int = 0, *, cache: bool = False, step: int = 1) -> Call4:
        """SEQUENCE for the next request of a slot; ``step`` 0: the last one again."""
        number = self.sequences.get(slot, 0) + step
        self.sequences[slot] = number
        return calls.sequence(self.id, number, slot, self.created.slots - 1, cache=cache)

    def attempt(
        self, *sent: Call4, slot: int = 0, cache: bool = False, step: int = 1, **how: Any
    ) -> Answer:
        """Carry out; the answer as it is."""
        return self.connection.compound(self.sequence(slot, cache=cache, step=step), *sent, **how)

    def run(self, *sent: Call4, slot: int = 0, cache: bool = False) -> Any:
        """Carry out; what the last operation has answered.  Nfs4Error."""
        return self.attempt(*sent, slot=slot, cache=cache).ok().value

    def status(self, *sent: Call4, **how: Any) -> Status:
        """Carry out; how it ended."""
        return self.attempt(*sent, **how).status
