"""An answer that is sent alone: whole however little the socket takes, and nothing in its midst."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from itertools import count

import pytest
from echo import BIG, PROGRAM, VERSION, Echo, opaque
from rpc_client import DEADLINE_S, RpcClient, call_record, marked, results
from rpc_server import Hosted, hosting

from nfsgw.connection import Connection, rest_of
from nfsgw.record import LAST
from nfsgw.replay import ReplayCache
from nfsgw.rpc import Answered, Peer

PATTERN = bytes(range(251)) * 17_000  # 4.1 MiB; shifted by one it is another everywhere
SMALL_BYTES = 1 << 16  # of a client's socket


class Patterned(Echo):
    """BIG is answered in one step, with as much of PATTERN as is asked for; ``before`` is called
    first."""

    def __init__(self, before: Callable[[Connection], object] = lambda peer: None) -> None:
        super().__init__()
        self.again = {BIG: self.short}
        self.before = before

    def short(self, received: memoryview, peer: Peer, replay: ReplayCache) -> Answered:
        mark, xid = struct.unpack_from(">2I", received)
        (wanted,) = struct.unpack_from(">I", received, mark ^ LAST)  # its last word
        assert isinstance(peer, Connection)
        self.before(peer)
        head = struct.pack(">6I", xid, 1, 0, 0, 0, 0)
        return Answered(4 + (mark ^ LAST), 1, marked(head + opaque(PATTERN[:wanted])))


def big(xid: int, wanted: int) -> bytes:
    return marked(call_record(xid, PROGRAM, VERSION, BIG, struct.pack(">I", wanted)))


def unsent(hosted: Hosted) -> int:
    return int(hosted.do(lambda: hosted.server.outgoing.count))


def until(hosted: Hosted, wanted: Callable[[], object]) -> None:
    """The server's own turns in between."""
    for _ in range(50_000):
        if hosted.do(wanted):
            return
    raise AssertionError("it does not come")


def connected(hosted: Hosted) -> socket.socket:
    """A client whose socket takes little."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    client.settimeout(DEADLINE_S)
    client.connect(hosted.address)
    return client


def received(client: socket.socket, quiet_s: float) -> bytes:
    """All that comes until nothing does for so long, or the end."""
    found = bytearray()
    client.settimeout(quiet_s)
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while more := client.recv(1 << 20):
            found += more
    return bytes(found)


@pytest.mark.parametrize("wanted", [len(PATTERN), 3_000_000, 100_001, 1])
def test_it_comes_whole_to_a_client_that_reads_late(wanted: int) -> None:
    with hosting([Patterned()]) as hosted, contextlib.closing(connected(hosted)) as client:
        for xid in (1, 2):
            client.sendall(big(xid, wanted))
            if wanted > 3 << 20:  # what the sockets do not take waits
                until(hosted, lambda: hosted.server.outgoing.count)
            answer = b""
            while len(answer) < 4 or len(answer) < 4 + (int.from_bytes(answer[:4]) ^ LAST):
                answer += client.recv(1 << 20)
            body = results(answer[4:], xid)
            assert bytes(body.opaque(1 << 23)) == PATTERN[:wanted]
        assert not unsent(hosted)


def test_a_socket_that_takes_nothing_gets_it_later() -> None:
    filled = []

    def fill(peer: Connection) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                filled.append(peer._socket.send(bytes(1 << 16)))

    with hosting([Patterned(fill)]) as hosted, RpcClient(hosted.address, uid=None) as client:
        client.socket.sendall(big(1, 100_000))
        until(hosted, lambda: hosted.server.outgoing.count)
        left = sum(filled)
        while left:
            left -= len(client.socket.recv(min(left, 1 << 20)))
        assert bytes(client.receive(1).opaque(1 << 20)) == PATTERN[:100_000]


def test_who_is_gone_before_it_is_sent_is_hung_up_on() -> None:
    program, gone = Patterned(), threading.Event()
    with hosting([program]) as hosted:
        client = RpcClient(hosted.address, uid=None)

        def reset(peer: Connection) -> None:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.socket.close()
            gone.set()

        program.before = reset
        client.socket.sendall(big(1, 100_000))
        assert gone.wait(DEADLINE_S)
        until(hosted, lambda: not hosted.server.connections)
        program.before = lambda peer: None
        assert not unsent(hosted)
        with RpcClient(hosted.address, uid=None) as other:
            other.socket.sendall(big(1, 10))
            assert bytes(other.receive(1).opaque(10)) == PATTERN[:10]


def test_nothing_follows_a_part_of_an_answer_that_is_forgotten() -> None:
    """A connection is let go for another one in the moment in which its client asks again."""
    for _ in range(6):
        with hosting([Patterned()], address_max=1, silent_s=0.0) as hosted:
            client = connected(hosted)
            asked = count(1)
            client.sendall(big(next(asked), 1 << 20))
            while not unsent(hosted):
                client.sendall(big(next(asked), 1 << 20))
            with hosted.held():
                told = received(client, 0.2)  # a part is still the server's
                client.sendall(big(next(asked), 1 << 20))
                other = socket.create_connection(hosted.address)
            told += received(client, 5.0)
            other.close()
            client.close()
        at = 0
        while at + 4 <= len(told):
            end = at + 4 + (int.from_bytes(told[at : at + 4]) ^ LAST)
            if end > len(told):
                break
            answer = told[at + 4 : end]
            body = results(answer, int.from_bytes(answer[:4]))
            assert bytes(body.opaque(1 << 20)) == PATTERN[: 1 << 20]
            at = end


def test_a_little_that_is_left_keeps_nothing_else() -> None:
    part = memoryview(bytearray(100))
    for sent in (0, 1, 50, 51, 99):
        assert bytes(rest_of(part, sent)) == bytes(100 - sent)
    assert memoryview(rest_of(part, 40)).obj is part.obj
    assert memoryview(rest_of(part, 90)).obj is not part.obj
