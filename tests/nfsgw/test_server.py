"""The RPC server, by a program of our own: framing, order, limits, what is refused and how."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from echo import (
    BIG,
    BUG,
    COUNT,
    COUNT_LATER,
    ECHO,
    FAIL_LATER,
    LATER,
    NULL,
    PROGRAM,
    VERSION,
    WHO,
    Echo,
    echoed,
    opaque,
)
from rpc_client import AUTH_NONE, LAST_FRAGMENT, RpcClient, RpcError, call_record, marked, results
from rpc_server import Hosted, hosting

from engine import errors
from nfsgw.record import BUFFER_BYTES, RECORD_BYTES_MAX
from nfsgw.server import listening


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def hosted(echo: Echo) -> Iterator[Hosted]:
    with hosting([echo], stalled_s=30.0) as made:
        yield made
        echo.gate.set()


@pytest.fixture
def client(hosted: Hosted) -> Iterator[RpcClient]:
    with RpcClient(hosted.address) as made:
        yield made


@pytest.mark.parametrize(
    "size", [0, 1, 4095, 65_000, BUFFER_BYTES, 200_001, 1 << 20, RECORD_BYTES_MAX - 100]
)
def test_records_of_all_sizes(client: RpcClient, size: int) -> None:
    data = os.urandom(size)
    assert echoed(client, data) == data
    assert echoed(client, b"after it") == b"after it"


@pytest.mark.parametrize("sizes", [[1] * 64, [0, 4, 0, 8], [3, 30_000, 5], [100_000, 50_000]])
def test_a_record_may_come_in_any_fragments(client: RpcClient, sizes: list[int]) -> None:
    data = os.urandom(160_000)
    record = call_record(7, PROGRAM, VERSION, ECHO, opaque(data))
    for size in sizes:
        client.socket.sendall(struct.pack(">I", size) + record[:size])
        record = record[size:]
    client.socket.sendall(marked(record) + marked(call_record(8, PROGRAM, VERSION, NULL)))
    assert client.receive(7).opaque(RECORD_BYTES_MAX) == data
    client.receive(8)


def test_bytes_that_come_one_by_one(client: RpcClient) -> None:
    for byte in marked(call_record(9, PROGRAM, VERSION, ECHO, opaque(b"slow"))):
        client.socket.sendall(bytes([byte]))
    assert client.receive(9).opaque(99) == b"slow"


def test_pipelined_calls_are_all_answered(client: RpcClient) -> None:
    sent = [
        (client.send(PROGRAM, VERSION, ECHO, opaque(b"%d" % n * 1000)), b"%d" % n * 1000)
        for n in range(200)
    ]
    for xid, data in sent:
        assert client.receive(xid).opaque(RECORD_BYTES_MAX) == data


def test_a_call_that_waits_holds_up_nobody(client: RpcClient, echo: Echo) -> None:
    """Small and large arguments both are still there when it goes on."""
    small, large = os.urandom(300), os.urandom(900_000)
    waiting = [client.send(PROGRAM, VERSION, LATER, opaque(data)) for data in (small, large)]
    for _ in waiting:
        assert echo.waiting.acquire(timeout=30)
    for n in range(5):
        data = bytes([n]) * 900_000
        assert echoed(client, data) == data
    echo.gate.set()
    assert client.receive(waiting[1]).opaque(RECORD_BYTES_MAX) == large
    assert client.receive(waiting[0]).opaque(RECORD_BYTES_MAX) == small


def test_what_it_waits_for_may_fail(client: RpcClient) -> None:
    assert client.call(PROGRAM, VERSION, FAIL_LATER).u32() == 5


@pytest.mark.parametrize(
    ("program", "version", "procedure", "arguments", "refusal"),
    [
        (PROGRAM + 1, VERSION, 0, b"", ("accepted", 1, ())),
        (PROGRAM, VERSION + 1, 0, b"", ("accepted", 2, (VERSION, VERSION + 2))),
        (PROGRAM, VERSION, 99, b"", ("accepted", 3, ())),
        (PROGRAM, VERSION, ECHO, b"\0\0\0\5abcd", ("accepted", 4, ())),
        (PROGRAM, VERSION, ECHO, opaque(b"abc") + b"more", ("accepted", 4, ())),
        (PROGRAM, VERSION, ECHO, b"\xff\xff\xff\xff", ("accepted", 4, ())),
    ],
)
def test_what_is_refused(
    client: RpcClient, program: int, version: int, procedure: int, arguments: bytes,
    refusal: tuple[object, ...],
) -> None:  # fmt: skip
    with pytest.raises(RpcError) as caught:
        client.call(program, version, procedure, arguments)
    assert (caught.value.kind, caught.value.status, caught.value.detail) == refusal
    assert echoed(client, b"on it goes") == b"on it goes"


def test_a_bug_in_a_program_ends_one_call(client: RpcClient, hosted: Hosted) -> None:
    with pytest.raises(RpcError) as caught:
        client.call(PROGRAM, VERSION, BUG)
    assert (caught.value.kind, caught.value.status, caught.value.detail) == ("accepted", 5, ())
    assert isinstance(hosted.failures.pop(), ZeroDivisionError)
    assert echoed(client, b"on it goes") == b"on it goes"


def refusal_of(client: RpcClient, record: bytes) -> RpcError:
    client.socket.sendall(marked(record))
    with pytest.raises(RpcError) as caught:
        results(client.record())
    return caught.value


def test_credentials(client: RpcClient, hosted: Hosted) -> None:
    with RpcClient(hosted.address, uid=1000, gid=100, gids=[4, 24]) as other:
        told = other.call(PROGRAM, VERSION, WHO)
        assert [told.u32() for _ in range(told.left // 4)] == [1000, 100, 4, 24]
    gss = struct.pack(">2I", 6, 4) + b"abcd"
    short = struct.pack(">2I", 1, 4) + b"abcd"
    for credential, status in ((gss, 5), (short, 1)):
        error = refusal_of(client, call_record(1, PROGRAM, VERSION, NULL, b"", credential))
        assert (error.kind, error.status, error.detail) == ("denied", 1, (status,))


def test_another_rpc(client: RpcClient) -> None:
    head = struct.pack(">6I", 1, 0, 3, PROGRAM, VERSION, NULL)
    error = refusal_of(client, head + AUTH_NONE + bytes(8))
    assert (error.kind, error.status, error.detail) == ("denied", 0, (2, 2))


@pytest.mark.parametrize(
    "garbage",
    [
        marked(b""), marked(b"abc"), marked(struct.pack(">2I", 1, 1) + bytes(40)),
        struct.pack(">I", LAST_FRAGMENT | RECORD_BYTES_MAX + 1),
        struct.pack(">I", 1 << 20) + bytes(1 << 20) + struct.pack(">I", 1 << 20),
        struct.pack(">I", 0) * 2000,
    ],
)  # fmt: skip
def test_what_is_no_call_ends_its_connection_only(
    client: RpcClient, hosted: Hosted, garbage: bytes
) -> None:
    with RpcClient(hosted.address) as other:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            other.socket.sendall(garbage)
        assert other.ended()
    assert echoed(client, b"on it goes") == b"on it goes"


def test_duplicates_are_carried_out_once(client: RpcClient, hosted: Hosted, echo: Echo) -> None:
    for _ in range(3):
        client.send(PROGRAM, VERSION, COUNT, xid=77)
        assert client.receive(77).u32() == 1
    with RpcClient(hosted.address) as reconnected:
        reconnected.send(PROGRAM, VERSION, COUNT, xid=77)
        assert reconnected.receive(77).u32() == 1
        reconnected.send(PROGRAM, VERSION, COUNT, b"else", xid=77)  # another call, by chance
        assert reconnected.receive(77).u32() == 2
        for end in (b"a", b"b"):  # two long ones that differ in their last bytes
            reconnected.send(PROGRAM, VERSION, COUNT, bytes(100_000) + end * 4, xid=78)
            reconnected.receive(78)
    assert echo.counted == 4


def test_a_duplicate_of_a_call_in_progress_gets_its_answer(hosted: Hosted, echo: Echo) -> None:
    with RpcClient(hosted.address) as lost:
        lost.send(PROGRAM, VERSION, COUNT_LATER, xid=78)
        assert echo.waiting.acquire(timeout=30)
    with RpcClient(hosted.address) as reconnected:
        reconnected.send(PROGRAM, VERSION, COUNT_LATER, xid=78)
        reconnected.call(PROGRAM, VERSION, NULL)  # the one before it was seen
        echo.gate.set()
        assert reconnected.receive(78).opaque(4) == b"   1"
    assert echo.counted == 1


def test_who_does_not_read_is_not_read_from(client: RpcClient, hosted: Hosted) -> None:
    """Sixty-four answers of a megabyte, and sixteen MiB of questions, do not all pile up."""
    with RpcClient(hosted.address) as greedy:
        for n in range(64):
            greedy.send(PROGRAM, VERSION, BIG, struct.pack(">I", 1 << 20), xid=n)
        greedy.socket.setblocking(False)
        stuffing, sent = marked(call_record(99, PROGRAM, VERSION, ECHO, opaque(bytes(1 << 20)))), 0
        with pytest.raises(BlockingIOError):
            while sent < 64 << 20:
                sent += greedy.socket.send(stuffing)
                assert echoed(client, b"others are served") == b"others are served"
        greedy.socket.settimeout(30)
        for n in range(64):
            assert len(greedy.receive(n).opaque(RECORD_BYTES_MAX)) == 1 << 20


def test_answers_that_nobody_reads_are_bounded_together(echo: Echo) -> None:
    most, calls, many = 2 << 20, 24, 6
    with hosting([echo], out_total_max=most) as hosted, contextlib.ExitStack() as undo:
        client = undo.enter_context(RpcClient(hosted.address))
        greedy = [undo.enter_context(RpcClient(hosted.address)) for _ in range(many)]
        for each in greedy:
            for n in range(calls):
                each.send(PROGRAM, VERSION, BIG, struct.pack(">I", 1 << 20), xid=n)
        while hosted.do(lambda: hosted.server.outgoing.count) < most // 2:  # their address's part
            assert echoed(client, b"others are served") == b"others are served"
        for _ in range(100):
            assert echoed(client, b"others are served") == b"others are served"
            waiting = hosted.do(lambda: hosted.server.outgoing.count)
            assert waiting < most // 2 + (many + 2) * (1 << 20)
        for each in greedy[1:]:
            for n in range(calls):
                assert len(each.receive(n).opaque(RECORD_BYTES_MAX)) == 1 << 20
        greedy[0].close()
        while hosted.do(lambda: hosted.server.connections) > many:
            assert echoed(client, b"on it goes") == b"on it goes"
        assert hosted.do(lambda: hosted.server.outgoing.count) == 0


def test_small_records_that_wait_are_bounded_together(echo: Echo) -> None:
    most, calls, many, data = 1 << 18, 12, 6, bytes(1 << 15)
    with hosting([echo], in_total_max=most) as hosted, contextlib.ExitStack() as undo:
        client = undo.enter_context(RpcClient(hosted.address))
        greedy = [undo.enter_context(RpcClient(hosted.address)) for _ in range(many)]
        for each in greedy:
            for n in range(calls):
                each.send(PROGRAM, VERSION, LATER, opaque(data), xid=n)
        while hosted.do(lambda: hosted.server.incoming.count) < most // 2:
            assert echoed(client, b"others are served") == b"others are served"
        for _ in range(100):
            assert echoed(client, b"others are served") == b"others are served"
            waiting = hosted.do(lambda: hosted.server.incoming.count)
            assert waiting < most // 2 + (many + 1) * (len(data) + 200)
        greedy[0].close()
        echo.gate.set()
        for each in greedy[1:]:
            for n in range(calls):
                assert each.receive(n).opaque(RECORD_BYTES_MAX) == data
        while hosted.do(lambda: hosted.server.connections) > many:
            assert echoed(client, b"on it goes") == b"on it goes"
        assert hosted.do(lambda: hosted.server.incoming.count) == 0


def test_a_client_that_resets_leaves_no_trace(client: RpcClient, hosted: Hosted) -> None:
    for _ in range(20):
        other = RpcClient(hosted.address)
        for n in range(8):
            other.send(PROGRAM, VERSION, BIG, struct.pack(">I", 1 << 20), xid=n)
        other.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
    while hosted.do(lambda: hosted.server.connections) > 1:
        assert echoed(client, b"on it goes") == b"on it goes"
    assert hosted.failures == []


def test_half_a_record_is_waited_for_not_for_ever(echo: Echo) -> None:
    with hosting([echo], stalled_s=0.05) as hosted, RpcClient(hosted.address) as idle:
        assert echoed(idle, b"first") == b"first"
        for half in (b"\x80", marked(bytes(99))[:50], marked(bytes(1 << 20))[:300_000]):
            with RpcClient(hosted.address) as stalled:
                stalled.socket.sendall(half)
                assert stalled.ended()
        assert echoed(idle, b"idle is not stalled") == b"idle is not stalled"


def test_the_longest_idle_connection_makes_room(echo: Echo) -> None:
    with hosting([echo], connections_max=3, address_max=2) as hosted:
        with RpcClient(hosted.address) as one, RpcClient(hosted.address) as two:
            assert echoed(one, b"1") + echoed(two, b"2") + echoed(one, b"1") == b"121"
            with RpcClient(hosted.address) as third:
                assert echoed(third, b"3") == b"3"
                assert two.ended()
                with RpcClient(hosted.address, source="127.0.0.9") as elsewhere:
                    assert echoed(elsewhere, b"4") + echoed(one, b"1") == b"41"
                    with RpcClient(hosted.address, source="127.0.0.10") as fourth:
                        assert echoed(fourth, b"5") == b"5"
                    assert third.ended()
                    assert hosted.do(lambda: hosted.server.connections) <= 3
        while hosted.do(lambda: hosted.server.connections):
            pass


def test_no_more_busy_connections_than_allowed(echo: Echo) -> None:
    with (
        hosting([echo], connections_max=3, address_max=2) as hosted,
        contextlib.ExitStack() as stack,
    ):
        busy = [
            stack.enter_context(RpcClient(hosted.address, source=source))
            for source in ("127.0.0.1", "127.0.0.1", "127.0.0.9")
        ]
        waiting = [each.send(PROGRAM, VERSION, LATER, opaque(b"x")) for each in busy]
        for _ in busy:
            assert echo.waiting.acquire(timeout=30)
        for source in ("127.0.0.1", "127.0.0.10"):
            with RpcClient(hosted.address, source=source) as late:
                assert late.ended()
        echo.gate.set()
        for each, xid in zip(busy, waiting, strict=True):
            assert each.receive(xid).opaque(1) == b"x"
        with RpcClient(hosted.address) as again:
            assert echoed(again, b"4") == b"4"


def test_a_taken_port_is_named() -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(errors.Busy, match=rf"port {port} of 127\.0\.0\.1 is taken.*--listen"):
            listening("127.0.0.1", port)
    with pytest.raises(errors.InvalidArgument, match=r"no address 192\.0\.2\.1"):
        listening("192.0.2.1", 0)
