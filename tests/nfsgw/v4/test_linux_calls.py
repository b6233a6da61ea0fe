"""What a Linux kernel says: 6.1's client, recorded while it mounted, worked and unmounted.

``linux_6_1.calls.gz`` has each compound, its answer and its user, with their lengths before them: a
guest that listed, linked, renamed, wrote, cloned and punched, took locks and opened in every way
(``tests/nfsgw/linux``). The same store says the same again, but for what is made at random (the
session, the client's id) and for times, so this holds our decoders against a client that is not
ours, on every run.
"""

import gzip
import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import nfs4_ops as ops
import pytest
from nfs4_direct import Answer, Peer, gateway

from nfsgw.rpc import Call, Credential
from nfsgw.v4.program import COMPOUND
from nfsgw.v4.protocol import PROGRAM, Op, Status
from nfsgw.xdr import Unpacker

RECORDED = Path(__file__).with_name("linux_6_1.calls.gz")
SESSION_BYTES, CLIENT_BYTES = 16, 8
# What it asks of every file, of what it has changed, of a new mount, and for statfs(2).
ASKED = [
    [1, 3, 4, 8, 20, 33, 35, 36, 37, 41, 45, 47, 52, 53, 55], [3, 4, 45, 52, 53],
    [0, 2, 5, 6, 13, 16, 17, 75], [10, 27, 30, 31, 51, 62, 77, 79, 82], [28, 29],
    [21, 22, 23, 42, 43, 44],
]  # fmt: skip


class Recorded(NamedTuple):
    """A compound, its answer, and who sent it: uid, gid, more gids."""

    request: bytes
    answer: bytes
    user: bytes

    @property
    def credential(self) -> Credential | None:
        if not self.user:
            return None
        uid, gid, *gids = struct.unpack(f">{len(self.user) // 4}I", self.user)
        return Credential(uid, gid, tuple(gids))


def recorded() -> list[Recorded]:
    data, at, found = gzip.decompress(RECORDED.read_bytes()), 0, []
    while at < len(data):
        parts = []
        for _ in Recorded._fields:
            length = int.from_bytes(data[at : at + 4], "big")
            parts.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        found.append(Recorded(*parts))
    return found


def session_of(answer: bytes) -> bytes | None:
    """The session that CREATE_SESSION has made."""
    number, status = struct.unpack_from(">II", answer, 12)
    if (number, status) != (Op.CREATE_SESSION, Status.OK):
        return None
    return answer[20 : 20 + SESSION_BYTES]


def client_of(answer: bytes) -> bytes | None:
    """The client's id that EXCHANGE_ID has given."""
    number, status = struct.unpack_from(">II", answer, 12)
    if (number, status) != (Op.EXCHANGE_ID, Status.OK):
        return None
    return answer[20 : 20 + CLIENT_BYTES]


def by_client(request: bytes, clients: dict[bytes, bytes]) -> bytes:
    """The request with the client's id of now, if it begins with one."""
    if struct.unpack_from(">I", request, 12)[0] not in (Op.CREATE_SESSION, Op.DESTROY_CLIENTID):
        return request
    return request[:16] + clients[request[16:24]] + request[24:]


def test_the_same_calls_get_the_same_answers(tmp_path: Path) -> None:
    peer, statuses = Peer(), Counter[Status]()
    old = new = b"no session yet"
    clients: dict[bytes, bytes] = {}
    with gateway(tmp_path / "store", "lab") as gate:
        for each in recorded():
            call = Call(1, PROGRAM, 4, COMPOUND, each.credential, peer)
            request = by_client(each.request.replace(old, new), clients)
            answer = gate.call(call, request)
            client = client_of(answer)
            if client is not None:
                clients[client_of(each.answer) or b""] = client
            made = session_of(answer)
            if made is not None:
                old, new = session_of(each.answer) or b"", made
            found, expected = Answer(answer), Answer(each.answer)
            assert (found.status, found.count) == (expected.status, expected.count)
            assert len(answer) == len(each.answer)
            statuses[found.status] += 1
        assert gate.store.volume("lab").resolve("/big3").size == 100
        assert not gate.store.volume("lab").held
    assert statuses[Status.OK] > 200
    assert Status.BADXDR not in statuses


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_it_gets_all_the_attributes_that_it_asks_for(tmp_path: Path, asked: list[int]) -> None:
    wanted = ops.u32(Op.GETATTR) + ops.bitmap(asked)
    answers = [each.answer for each in recorded() if each.request.endswith(wanted)]
    assert answers
    for answer in answers:
        if Answer(answer).status == Status.OK:
            at = answer.rindex(ops.u32(Op.GETATTR, Status.OK) + ops.bitmap(asked))
            assert set(ops.read_attributes(Unpacker(memoryview(answer), at + 8))) == set(asked)
