"""One host takes what it can get of a server, and gives nothing back: the others are served."""

import contextlib
import struct
from collections.abc import Iterator

import pytest
from echo import BIG, ECHO, LATER, PROGRAM, VERSION, Echo, echoed, opaque
from rpc_client import RpcClient, call_record, marked
from rpc_server import Hosted, hosting

from nfsgw.record import BUFFER_BYTES

HOSTILE, ANOTHER, OTHER = "127.0.0.66", "127.0.0.67", "127.0.0.9"
WHOLE = marked(call_record(1, PROGRAM, VERSION, ECHO, opaque(bytes(99))))
HALF = WHOLE[:50]


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.gate.set()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as made:
        yield made


def until(hosted: Hosted, wanted: str) -> None:
    """An expression over the server holds."""
    for _ in range(100_000):
        if hosted.do(lambda: eval(wanted, {"server": hosted.server})):
            return
    raise AssertionError(f"it does not come: {wanted}")


def connected(
    hosted: Hosted, stack: contextlib.ExitStack, source: str, count: int, sent: bytes = b""
) -> list[RpcClient]:
    """Connections, all of which have sent the same."""
    made = []
    for _ in range(count):
        made.append(stack.enter_context(RpcClient(hosted.address, source=source)))
        made[-1].socket.sendall(sent)
    return made


BUSY = "sum(not each.idle for each in server._connections)"


def in_the_middle(
    hosted: Hosted, stack: contextlib.ExitStack, source: str, count: int
) -> list[RpcClient]:
    """Connections that have sent half a record, one after the other."""
    made = []
    for _ in range(count):
        before = hosted.do(lambda: sum(not each.idle for each in hosted.server._connections))
        made += connected(hosted, stack, source, 1, HALF)
        until(hosted, f"{BUSY} == {before + 1}")
    return made


# --- connections


def test_half_records_keep_nobody_out(echo: Echo, stack: contextlib.ExitStack) -> None:
    with hosting([echo], connections_max=5, address_max=3) as hosted:
        slow = in_the_middle(hosted, stack, HOSTILE, 3)
        also = in_the_middle(hosted, stack, ANOTHER, 2)
        for served in range(1, 4):
            with RpcClient(hosted.address, source=OTHER) as client:
                assert echoed(client, b"let in") == b"let in"
                assert slow[0].ended() if served == 1 else True
            until(hosted, "len(server._connections) == 4")
        for each in (*slow[1:], *also):  # nobody else's was in the way
            each.socket.sendall(WHOLE[50:])
            assert each.receive(1).opaque(99) == bytes(99)


def test_answers_that_are_not_read_keep_nobody_out(echo: Echo, stack: contextlib.ExitStack) -> None:
    with hosting([echo], connections_max=3, address_max=2) as hosted:
        ask = marked(call_record(1, PROGRAM, VERSION, BIG, struct.pack(">I", 1 << 20)))
        connected(hosted, stack, HOSTILE, 2, ask * 16)
        until(hosted, "sum(bool(each._out) for each in server._connections) == 2")
        keep = connected(hosted, stack, ANOTHER, 1)[0]
        assert echoed(keep, b"here") == b"here"
        with RpcClient(hosted.address, source=OTHER) as client:
            assert echoed(client, b"let in") == b"let in"
            assert echoed(keep, b"stays") == b"stays"
        until(hosted, "len(server._connections) == 2")
        stack.close()


def test_of_its_own_an_address_gives_those_that_have_been_silent_for_long(
    echo: Echo, stack: contextlib.ExitStack
) -> None:
    for silent_s, goes in ((0.0, True), (30.0, False)):
        with hosting([echo], address_max=2, silent_s=silent_s) as hosted:
            slow = in_the_middle(hosted, stack, HOSTILE, 2)
            with RpcClient(hosted.address, source=HOSTILE) as third:
                if goes:
                    assert echoed(third, b"let in") == b"let in"
                    assert slow[0].ended()
                else:
                    assert third.ended()


def test_who_waits_for_an_answer_is_not_let_go(echo: Echo, stack: contextlib.ExitStack) -> None:
    with hosting([echo], connections_max=3, address_max=3, silent_s=0.0) as hosted:
        waiting = connected(hosted, stack, HOSTILE, 2)
        calls = [each.send(PROGRAM, VERSION, LATER, opaque(b"x")) for each in waiting]
        for each in waiting:  # and more of it is to come
            assert echo.waiting.acquire(timeout=30)
            each.socket.sendall(HALF)
        slow = in_the_middle(hosted, stack, HOSTILE, 1)[0]
        with RpcClient(hosted.address, source=OTHER) as client:
            assert echoed(client, b"let in") == b"let in"
            assert slow.ended()
            with RpcClient(hosted.address, source=ANOTHER) as late:
                assert echoed(late, b"let in") == b"let in" if client.ended() else late.ended()
        echo.gate.set()
        for each, xid in zip(waiting, calls, strict=True):
            assert each.receive(xid).opaque(1) == b"x"


def test_the_address_that_has_most_makes_room(echo: Echo, stack: contextlib.ExitStack) -> None:
    """Not the longest idle one, if that is another's."""
    with hosting([echo], connections_max=4, address_max=4) as hosted:
        first = connected(hosted, stack, OTHER, 1)[0]
        assert echoed(first, b"longest idle") == b"longest idle"
        busy = connected(hosted, stack, HOSTILE, 3)
        for each in busy:
            assert echoed(each, b"busy") == b"busy"
        with RpcClient(hosted.address, source=ANOTHER) as client:
            assert echoed(client, b"let in") == b"let in"
            assert busy[0].ended()
            second = connected(hosted, stack, ANOTHER, 1)[0]
            assert busy[1].ended()
            third = connected(hosted, stack, ANOTHER, 1)[0]
            assert client.ended()  # its own: nobody has more than it has
            assert echoed(second, b"2") + echoed(third, b"3") + echoed(busy[2], b"4") == b"234"
        assert echoed(first, b"stays") == b"stays"


# --- buffers


def large(xid: int, size: int = 300_000) -> bytes:
    return marked(call_record(xid, PROGRAM, VERSION, ECHO, opaque(bytes(size))))


def test_large_records_of_one_host_leave_buffers_for_others(
    echo: Echo, stack: contextlib.ExitStack
) -> None:
    most, record = 6, large(1)
    with hosting([echo], buffers_max=most) as hosted:
        slow = connected(hosted, stack, HOSTILE, most + 3, record[: BUFFER_BYTES + 9])
        until(hosted, "server._buffers.left == 2")  # it has more than are left
        for n in range(3):
            with RpcClient(hosted.address, source=OTHER) as client:
                data = bytes([n]) * 400_000
                assert echoed(client, data) == data
        assert hosted.do(lambda: hosted.server._buffers.left) == 2
        for each in slow:  # and each of its own has its turn
            each.socket.sendall(record[BUFFER_BYTES + 9 :])
        for each in slow:
            assert each.receive(1).opaque(1 << 20) == bytes(300_000)
        until(hosted, f"server._buffers.left == {most}")


def test_fragments_of_one_host_leave_buffers_for_others(
    echo: Echo, stack: contextlib.ExitStack
) -> None:
    first = call_record(1, PROGRAM, VERSION, ECHO, opaque(bytes(300_000)))[: BUFFER_BYTES + 9]
    with hosting([echo], buffers_max=4) as hosted:
        connected(hosted, stack, HOSTILE, 5, struct.pack(">I", len(first)) + first)
        until(hosted, "(len(server._connections), server._buffers.left) == (3, 1)")
        with RpcClient(hosted.address, source=OTHER) as client:
            assert echoed(client, bytes(400_000)) == bytes(400_000)


# --- what waits


def test_small_records_of_one_host_leave_room_for_others(
    echo: Echo, stack: contextlib.ExitStack
) -> None:
    most, data = 1 << 18, bytes(1 << 15)
    with hosting([echo], in_total_max=most) as hosted:
        for each in connected(hosted, stack, HOSTILE, 4):
            for n in range(12):
                each.send(PROGRAM, VERSION, LATER, opaque(data), xid=n)
        until(hosted, f"server.incoming.count > {most // 2}")
        with RpcClient(hosted.address, source=OTHER) as client:
            xids = [client.send(PROGRAM, VERSION, LATER, opaque(b"x" * 99)) for _ in range(9)]
            theirs = f"[each for each in server._connections if str(each.address) == '{OTHER}']"
            until(hosted, f"[each._in_flight for each in {theirs}] == [9]")
            echo.gate.set()
            for xid in xids:
                assert client.receive(xid).opaque(99) == b"x" * 99


def test_unread_answers_of_one_host_leave_room_for_others(
    echo: Echo, stack: contextlib.ExitStack
) -> None:
    most = 8 << 20
    with hosting([echo], out_total_max=most) as hosted:
        ask = marked(call_record(1, PROGRAM, VERSION, BIG, struct.pack(">I", 1 << 20)))
        connected(hosted, stack, HOSTILE, 4, ask * 16)
        until(hosted, f"server.outgoing.count > {most // 2}")
        with RpcClient(hosted.address, source=OTHER) as client:
            waiting = [client.send(PROGRAM, VERSION, LATER, opaque(b"x")) for _ in range(9)]
            for _ in waiting:
                assert echo.waiting.acquire(timeout=30)
            assert echoed(client, b"beside them") == b"beside them"
            echo.gate.set()
            for xid in waiting:
                assert client.receive(xid).opaque(1) == b"x"
        stack.close()
