"""A connection's buffers and turns: what who sends much gets, and what nobody may keep."""

import contextlib
import os
import select
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from echo import BIG, ECHO, LATER, PROGRAM, VERSION, Echo, echoed, opaque
from exported import Exported
from nfs3_client import Nfs3Client, Users
from rpc_client import RpcClient, auth_sys, call_record, marked
from rpc_server import Hosted, hosting

from nfsgw.connection import Connection
from nfsgw.gate import Outcome
from nfsgw.record import BUFFER_BYTES, LARGE_BUFFERS_MAX, LAST, Buffers
from nfsgw.replay import ReplayCache
from nfsgw.rpc import Answered, Call, Peer
from nfsgw.xdr import Packer, Unpacker

BURST = 16
PIECE = 20_000
assert BURST * PIECE > 2 * BUFFER_BYTES


def readable(fd: int) -> bool:
    """A look that never gives up before its client does."""
    return bool(select.select([fd], [], [], 1.0)[0])


def calls(xids: range, data: bytes = bytes(PIECE), procedure: int = ECHO) -> bytes:
    return b"".join(
        marked(call_record(xid, PROGRAM, VERSION, procedure, opaque(data))) for xid in xids
    )


def until(hosted: Hosted, wanted: Callable[[], bool]) -> None:
    """The server's own turns in between."""
    for _ in range(100_000):
        if hosted.do(wanted):
            return
    raise AssertionError("it does not come")


def buffers(hosted: Hosted) -> Buffers:
    return hosted.server._buffers


def kept(hosted: Hosted) -> int:
    return hosted.do(lambda: LARGE_BUFFERS_MAX - buffers(hosted).left)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@contextlib.contextmanager
def connected(echo: Echo, **limits: Any) -> Iterator[tuple[Hosted, RpcClient]]:
    with hosting([echo], **limits) as hosted:
        with RpcClient(hosted.address) as client:
            yield hosted, client
        echo.gate.set()
        until(hosted, lambda: not hosted.server.connections)
        assert kept(hosted) == 0


def counted(patch: pytest.MonkeyPatch, where: Any, name: str) -> list[Any]:
    """The first argument of each call of a function from now on."""
    found: list[Any] = []
    real = getattr(where, name)

    def noted(*args: Any, **more: Any) -> Any:
        found.append(args[0] if args else None)
        return real(*args, **more)

    patch.setattr(where, name, noted)
    return found


@pytest.mark.parametrize("look", [None, readable])
def test_much_at_once_is_answered_and_its_buffer_given_back(echo: Echo, look: Any) -> None:
    with connected(echo, look=look) as (hosted, client):
        for _ in range(5):
            client.socket.sendall(calls(range(BURST)))
            for xid in range(BURST):
                assert client.receive(xid).opaque(1 << 20) == bytes(PIECE)
            until(hosted, lambda: buffers(hosted).left == LARGE_BUFFERS_MAX)


def test_a_buffer_is_not_kept_while_calls_wait(echo: Echo) -> None:
    with connected(echo) as (hosted, client):
        client.socket.sendall(calls(range(64), procedure=LATER))
        for _ in range(64):
            assert echo.waiting.acquire(timeout=30)
        until(hosted, lambda: buffers(hosted).left == LARGE_BUFFERS_MAX)
        echo.gate.set()
        for xid in range(64):
            assert client.receive(xid).opaque(1 << 20) == bytes(PIECE)


@pytest.mark.parametrize("fragments", [1, 3])
def test_what_is_no_call_keeps_no_buffer(echo: Echo, fragments: int) -> None:
    body = struct.pack(">2I", 1, 1) + bytes(300_000)
    step = -(-len(body) // fragments)
    stream = b"".join(
        struct.pack(">I", min(step, len(body) - at) | (LAST if at + step >= len(body) else 0))
        + body[at : at + step]
        for at in range(0, len(body), step)
    )
    with connected(echo) as (hosted, client):
        for _ in range(3):
            with RpcClient(hosted.address) as other:
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    other.socket.sendall(stream)
                assert other.ended()
        until(hosted, lambda: hosted.server.connections == 1)
        assert kept(hosted) == 0
        assert echoed(client, b"on it goes") == b"on it goes"


def test_large_records_behind_small_ones_are_counted_as_large(echo: Echo) -> None:
    """They came into a buffer with what was before them; while their calls wait, each has one."""
    large = os.urandom(300_000)
    with connected(echo, look=readable) as (hosted, client):
        small = calls(range(BURST))
        client.socket.sendall(small + calls(range(100, 103), large, LATER))
        for _ in range(3):
            assert echo.waiting.acquire(timeout=30)
        assert hosted.do(lambda: hosted.server.incoming.count) == 0
        assert kept(hosted) >= 3
        echo.gate.set()
        for xid in range(BURST):
            assert client.receive(xid).opaque(1 << 20) == bytes(PIECE)
        for xid in range(100, 103):
            assert client.receive(xid).opaque(1 << 20) == large


def test_who_waits_for_a_buffer_does_not_look(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is something to be read all the time, and nowhere to put it."""
    with connected(echo, look=readable) as (hosted, client), RpcClient(hosted.address) as other:
        others = [b"%d" % number for number in range(LARGE_BUFFERS_MAX)]
        held = [hosted.do(partial(buffers(hosted).of, each)) for each in others]
        taken = hosted.do(lambda: [buffers(hosted).take(each) for each in held])
        large = calls(range(1), bytes(300_000))
        starved = counted(monkeypatch, Buffers, "given")
        client.socket.sendall(large[: BUFFER_BYTES + 9])
        client.socket.sendall(large[BUFFER_BYTES + 9 : -1])
        until(hosted, lambda: bool(starved))
        turns = counted(monkeypatch, Connection, "_turn")
        for n in range(50):
            assert echoed(other, b"%d" % n) == b"%d" % n
        assert len({id(each) for each in turns}) == 1  # nobody's but the other's
        hosted.do(lambda: list(map(buffers(hosted).give, taken, held)))
        client.socket.sendall(large[-1:])
        assert client.receive(0).opaque(1 << 20) == bytes(300_000)


def test_who_is_alone_does_not_go_round_the_loop(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = counted(monkeypatch, trio.lowlevel, "checkpoint")
    with connected(echo, look=readable) as (_, client):
        assert echoed(client, b"here") == b"here"
        del rounds[:]
        for _ in range(20):
            client.socket.sendall(calls(range(4), b"few"))
            for xid in range(4):
                assert client.receive(xid).opaque(9) == b"few"
        assert len(rounds) < 10  # none, unless the host stops us for longer than a turn may take


def test_the_rest_of_a_record_is_received_before_it_is_a_turns_matter(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(echo, look=readable) as (_, client):
        assert echoed(client, b"here") == b"here"
        turns = counted(monkeypatch, Connection, "_turn")
        for size in (90_000, 900_000):
            data = os.urandom(size)
            stream = calls(range(1), data)
            del turns[:]
            for at in range(0, len(stream), 3000):
                client.socket.sendall(stream[at : at + 3000])
            assert client.receive(0).opaque(1 << 20) == data
            assert len(turns) <= 4


def test_many_answers_are_sent_before_the_turn_ends(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program's short way answers three megabytes."""
    size, waiting = 100_000, []
    real = Connection._push

    def push(connection: Connection) -> bool:
        waiting.append(connection._out_bytes)
        return real(connection)

    monkeypatch.setattr(Connection, "_push", push)

    def short(received: memoryview, peer: Peer, replay: ReplayCache) -> Answered:
        (mark,) = struct.unpack_from(">I", received)
        body = bytes(received[4:8]) + struct.pack(">5I", 1, 0, 0, 0, 0) + opaque(bytes(size))
        return Answered(4 + (mark ^ LAST), 1, marked(body))

    echo.again = {BIG: short}
    with hosting([echo]) as hosted, RpcClient(hosted.address, uid=None) as client:
        client.socket.sendall(
            b"".join(
                marked(call_record(xid, PROGRAM, VERSION, BIG, struct.pack(">I", size)))
                for xid in range(30)
            )
        )
        for xid in range(30):
            assert len(client.receive(xid).opaque(1 << 20)) == size
    assert max(waiting) < 400_000


class Promising(Echo):
    """Says of its answers how long they may be, before it has to wait."""

    def call(self, call: Call, args: Unpacker, out: Packer) -> Outcome:
        if call.procedure == LATER:
            out.promised = 1 << 20
        return super().call(call, args, out)


def test_what_calls_under_way_promise_to_answer_is_bounded() -> None:
    """A read that waits for its disk has a megabyte already, and its client may never take it."""
    echo, most, many = Promising(), 4 << 20, 20
    with (
        connected(echo, out_total_max=most) as (hosted, client),
        RpcClient(hosted.address) as other,
    ):
        client.socket.sendall(calls(range(many), b"x", LATER))
        for _ in range(3):  # a fourth would be more than is left
            assert echo.waiting.acquire(timeout=30)
        for n in range(50):
            assert echoed(other, b"%d" % n) == b"%d" % n
        assert hosted.do(lambda: hosted.server.outgoing.count) == 3 << 20
        assert not echo.waiting.acquire(blocking=False)
        echo.gate.set()
        for xid in range(many):
            assert client.receive(xid).opaque(9) == b"x"
        until(hosted, lambda: hosted.server.outgoing.count == 0)


def test_what_was_begun_before_garbage_is_carried_to_its_end(
    world: Exported, user: Users, root: Nfs3Client, top: bytes
) -> None:
    """Its client sends it again, over another connection, and gets that answer."""
    arguments = struct.pack(">I", len(top)) + top + opaque(b"made") + bytes(24)
    made = call_record(4711, 100_003, 3, 9, arguments, credential=auth_sys(0, 0))
    with RpcClient(world.address) as client:
        client.socket.sendall(marked(made) + marked(struct.pack(">2I", 1, 1)))
        assert client.ended()
    with RpcClient(world.address) as again:
        again.socket.sendall(marked(made))
        assert again.receive(4711).u32() == 0
    root.lookup(top, b"made")
    hosted = world.hosted
    until(hosted, lambda: not hosted.server.incoming.count and not hosted.server.outgoing.count)
