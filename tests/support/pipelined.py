"""Calls of one connection that the server finds in its receive buffer together.

``burst`` holds the server's thread until all of them are there.  ``Steps`` tells how they were
carried out; ``long_way`` turns the short ways (nfsgw/nfs3/again.py) off.
"""

import contextlib
import itertools
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
from exported import Exported
from rpc_client import RpcClient, call_record, marked

from nfsgw.connection import Connection
from nfsgw.dispatch import Dispatcher, Running
from nfsgw.rpc import Answered, Peer
from nfsgw.xdr import Part

NFS, READ, WRITE = 100_003, 6, 7
UNSTABLE = 0
_xids = itertools.count(0xB0057)


class Sent(NamedTuple):
    """A call: its record without the mark."""

    xid: int
    record: bytes


def call(
    client: RpcClient, procedure: int, arguments: bytes, *, credential: bytes | None = None,
    xid: int | None = None,
) -> Sent:  # fmt: skip
    """A call of NFSv3, not sent yet."""
    xid = next(_xids) if xid is None else xid
    who = client.credential if credential is None else credential
    return Sent(xid, call_record(xid, NFS, 3, procedure, arguments, who))


def read_arguments(handle: bytes, offset: int, count: int) -> bytes:
    return struct.pack(">I", len(handle)) + handle + struct.pack(">QI", offset, count)


def write_arguments(
    handle: bytes, offset: int, data: bytes, *, count: int | None = None, stable: int = UNSTABLE
) -> bytes:
    """``count``: what the call says, if it is not how much it brings."""
    head = struct.pack(">I", len(handle)) + handle
    count = len(data) if count is None else count
    head += struct.pack(">QIII", offset, count, stable, len(data))
    return head + data + bytes(-len(data) % 4)


def burst(world: Exported, client: RpcClient, calls: Iterable[Sent]) -> list[bytes]:
    """Whole answers, each to its call; what has not to wait must have been answered in order.

    All together less than a socket takes at once (64 KiB).
    """
    calls = list(calls)
    with world.hosted.held():
        client.socket.sendall(b"".join(marked(each.record) for each in calls))
    found = [client.record() for _ in calls]
    by_xid = {int.from_bytes(each[:4], "big"): each for each in found}
    return [by_xid[each.xid] for each in calls]


class Steps:
    """Of all connections: how many calls each step has taken; 0: one that went the long way."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.taken: list[int] = []
        again, start = Dispatcher.again, Dispatcher.start

        def noted_again(to: Dispatcher, received: memoryview, peer: Peer) -> Answered | None:
            found = again(to, received, peer)
            if found is not None:
                self.taken.append(found.calls)
            return found

        def noted_start(
            to: Dispatcher, record: memoryview, peer: Peer
        ) -> list[Part] | Running | None:
            assert isinstance(peer, Connection)
            self.taken.append(0)
            return start(to, record, peer)

        patch.setattr(Dispatcher, "again", noted_again)
        patch.setattr(Dispatcher, "start", noted_start)

    def of_these(self) -> list[int]:
        """Since it was asked last."""
        found, self.taken[:] = self.taken[:], []
        return found


@contextlib.contextmanager
def long_way() -> Iterator[None]:
    """Every call is read as a call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dispatcher, "again", lambda to, received, peer: None)
        yield
