"""Calls that a program answers without their being read: in steps, in order, within the limits."""

import contextlib
import os
import select
import struct
from collections.abc import Iterator

import pytest
from echo import BIG, COUNT, ECHO, LATER, NULL, PROGRAM, VERSION, Echo, opaque
from rpc_client import RpcClient, call_record, marked, results
from rpc_server import Hosted, hosting

from nfsgw.connection import OUT_BYTES_MAX
from nfsgw.record import LAST, RECORD_BYTES_MAX
from nfsgw.replay import ReplayCache
from nfsgw.rpc import Answered, Peer


class ShortEcho(Echo):
    """ECHO and BIG of AUTH_NONE, that were received one after the other, in one step; BIG answers
    STEP_BYTES for each."""

    STEP_BYTES = 1 << 16
    STEP_CALLS = 8
    ARGUMENTS_AT = 4 + 24 + 16

    def __init__(self) -> None:
        super().__init__()
        self.again = dict.fromkeys((ECHO, BIG), self.short)
        self.steps: list[int] = []

    def short(self, received: memoryview, peer: Peer, replay: ReplayCache) -> Answered | None:
        head = bytes(received[8 : self.ARGUMENTS_AT])
        answers, at = [], 0
        while (
            len(answers) < self.STEP_CALLS
            and bytes(received[at + 8 : at + self.ARGUMENTS_AT]) == head
        ):
            (mark,) = struct.unpack_from(">I", received, at)
            end = at + 4 + (mark ^ LAST)
            if end > len(received):
                break
            xid, data = bytes(received[at + 4 : at + 8]), received[at + self.ARGUMENTS_AT : end]
            if head[16:20] == struct.pack(">I", BIG):
                data = memoryview(opaque(bytes(self.STEP_BYTES)))
            answers.append(marked(xid + struct.pack(">5I", 1, 0, 0, 0, 0) + data))
            at = end
        self.steps.append(len(answers))
        return Answered(at, len(answers), b"".join(answers))


@pytest.fixture
def short() -> ShortEcho:
    return ShortEcho()


@contextlib.contextmanager
def connected(short: ShortEcho, **limits: object) -> Iterator[tuple[Hosted, RpcClient]]:
    with hosting([short], **limits) as hosted:
        with RpcClient(hosted.address, uid=None) as client:
            yield hosted, client
        short.gate.set()
        while hosted.do(lambda: hosted.server.connections):
            pass
        assert hosted.do(lambda: hosted.server.outgoing.count) == 0
        assert hosted.do(lambda: hosted.server.incoming.count) == 0


def stream(procedure: int, xids: range, data: bytes = b"") -> bytes:
    return b"".join(
        marked(call_record(xid, PROGRAM, VERSION, procedure, opaque(data + b"%d" % xid)))
        for xid in xids
    )


def test_short_ways_and_others_alternate(short: ShortEcho) -> None:
    with connected(short) as (_, client):
        sent = (
            stream(ECHO, range(200))
            + stream(COUNT, range(200, 203))
            + stream(ECHO, range(203, 400))
        )
        client.socket.sendall(sent)
        for xid in range(400):
            answer = client.record()  # in order: none of them waits
            assert int.from_bytes(answer[:4], "big") == xid
            if xid not in range(200, 203):
                assert results(answer, xid).opaque(9) == b"%d" % xid
        assert sum(short.steps) == 397
        assert short.counted == 3


def test_a_large_record_between_goes_its_own_way(short: ShortEcho) -> None:
    large = os.urandom(300_000)
    with connected(short) as (_, client):
        client.socket.sendall(
            stream(ECHO, range(5)) + stream(ECHO, range(5, 6), large) + stream(ECHO, range(6, 9))
        )
        for xid in range(9):
            found = client.receive(xid).opaque(RECORD_BYTES_MAX)
            assert found == (large if xid == 5 else b"") + b"%d" % xid


def test_answers_of_steps_that_nobody_reads_are_bounded(short: ShortEcho) -> None:
    with connected(short) as (hosted, greedy), RpcClient(hosted.address) as other:
        calls, step = 300, short.STEP_CALLS * (short.STEP_BYTES + 100)
        asked, sent = stream(BIG, range(calls)), 0
        greedy.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while sent < len(asked):
                sent += greedy.socket.send(asked[sent : sent + 300])
                other.call(PROGRAM, VERSION, NULL)
        waiting = hosted.do(lambda: hosted.server.outgoing.count)
        assert waiting < OUT_BYTES_MAX + step
        greedy.socket.settimeout(30)
        greedy.socket.sendall(asked[sent:])
        for xid in range(calls):
            assert len(greedy.receive(xid).opaque(1 << 20)) == short.STEP_BYTES


def test_a_bug_in_a_short_way_ends_one_connection(short: ShortEcho) -> None:
    def fails(received: memoryview, peer: Peer, replay: ReplayCache) -> Answered | None:
        raise ZeroDivisionError

    short.again = {ECHO: fails}
    with hosting([short]) as made, RpcClient(made.address) as other:
        with RpcClient(made.address, uid=None) as client:
            client.socket.sendall(stream(ECHO, range(1)))
            assert client.ended()
        other.call(PROGRAM, VERSION, NULL)
        assert isinstance(made.failures.pop(), ZeroDivisionError)


def test_the_next_call_is_looked_for_before_it_is_waited_for(short: ShortEcho) -> None:
    looks: list[bool] = []

    def look(fd: int) -> bool:
        looks.append(bool(select.select([fd], [], [], 0.01)[0]))
        return looks[-1]

    with connected(short, look=look) as (hosted, client):
        for n in range(200):
            client.socket.sendall(stream(ECHO, range(n, n + 1)))
            assert client.receive(n).opaque(9) == b"%d" % n
        for byte in stream(ECHO, range(1)):
            client.socket.sendall(bytes([byte]))
        assert client.receive(0).opaque(9) == b"0"
        client.socket.sendall(stream(LATER, range(1, 2)))
        assert short.waiting.acquire(timeout=30)
        short.gate.set()
        assert client.receive(1).opaque(9) == b"1"
    assert True in looks
    assert hosted.failures == []
