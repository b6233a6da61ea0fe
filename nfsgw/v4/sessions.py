"""Sessions: slots that make a request happen exactly once (RFC 8881, 2.10).

A slot has one request at a time, numbered; the same number again is a retry, and is answered with
what was kept, never run a second time: also when its connection was lost before the answer was
sent, or when nothing was kept.
"""

import secrets
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakSet, ref

from nfsgw.rpc import Call, Peer
from nfsgw.v4.clients import Client
from nfsgw.v4.limits import (
    OPERATIONS_MAX,
    REQUEST_BYTES_MAX,
    RESPONSE_BYTES_MAX,
    Limits,
)
from nfsgw.v4.protocol import Failed, Status
from nfsgw.xdr import Packer, Unpacker

SESSION_ID_BYTES = 16
_CHANNEL_BYTES_MIN = 256  # less holds no compound that does anything
_CHECKED_BYTES = 1024


class Channel(NamedTuple):
    """channel_attrs4: bytes, bytes, bytes, operations of a compound, slots."""

    request_bytes: int
    response_bytes: int
    cached_bytes: int
    operations: int
    slots: int

    @staticmethod
    def read(args: Unpacker) -> "Channel":
        args.u32()  # header padding: none is made
        channel = Channel(args.u32(), args.u32(), args.u32(), args.u32(), args.u32())
        for _ in range(args.count(1)):
            args.u32()  # RDMA reads in flight
        return channel

    def pack(self, out: Packer) -> None:
        out.u32(0)
        for value in self:
            out.u32(value)
        out.u32(0)

    def granted(self, limits: Limits, slots_left: int) -> "Channel":
        """What of it we give.  TOOSMALL, INVAL."""
        if min(self.request_bytes, self.response_bytes) < _CHANNEL_BYTES_MIN:
            raise Failed(Status.TOOSMALL)
        if self.operations == 0 or self.slots == 0:
            raise Failed(Status.INVAL)
        return Channel(
            min(self.request_bytes, REQUEST_BYTES_MAX),
            min(self.response_bytes, RESPONSE_BYTES_MAX),
            min(self.cached_bytes, limits.cached_bytes),
            min(self.operations, OPERATIONS_MAX),
            min(self.slots, limits.slots_of_session, slots_left),
        )


@dataclass(slots=True, eq=False)
class Slot:
    """``answer``: the kept answer to request ``sequence``; None: it was not to be kept.
    ``digest`` 0: no request yet."""

    sequence: int = 0
    busy: bool = False
    digest: int = 0
    answer: bytes | None = None


@dataclass(slots=True, eq=False)
class Session:
    """A session of a client."""

    client: Client
    channel: Channel
    id: bytes = field(default_factory=lambda: secrets.token_bytes(SESSION_ID_BYTES))
    slots: list[Slot] = field(default_factory=list)
    connections: "WeakSet[Peer]" = field(default_factory=WeakSet)
    _last_peer: "ref[Peer] | None" = None

    def __post_init__(self) -> None:
        self.slots = [Slot() for _ in range(self.channel.slots)]

    def used_by(self, peer: Peer) -> None:
        """A connection is one of the session's from its first request on (2.10.3.1)."""
        if self._last_peer is None or self._last_peer() is not peer:
            self._last_peer = ref(peer)
            self.connections.add(peer)

    def slot(self, number: int, highest: int) -> Slot:
        """BADSLOT, BAD_HIGH_SLOT."""
        if number >= len(self.slots):
            raise Failed(Status.BADSLOT)
        if not number <= highest < len(self.slots):
            raise Failed(Status.BAD_HIGH_SLOT)
        return self.slots[number]


def is_retry(slot: Slot, sequence: int, digest: int) -> bool:
    """Whether a request is the slot's last one again.  SEQ_MISORDERED, DELAY, SEQ_FALSE_RETRY."""
    if sequence == slot.sequence and slot.digest:
        if slot.digest != digest:
            raise Failed(Status.SEQ_FALSE_RETRY)
        if slot.busy:
            raise Failed(Status.DELAY)
        return True
    if slot.busy or sequence != slot.sequence + 1 & 0xFFFFFFFF:
        raise Failed(Status.SEQ_MISORDERED)
    return False


def digest_of(call: Call, request: memoryview) -> int:
    """What tells a retry from another request: who asks, its length, its first and last KiB.

    Not all of it, for a WRITE's data would be read once more; a liar who changes only bytes in
    the middle gets the old answer, which says nothing of the new ones.  Never 0.
    """
    user = -1 if call.credential is None else call.credential.uid
    check = zlib.crc32(request[:_CHECKED_BYTES], zlib.crc32(b"%d,%d" % (user, len(request))))
    return zlib.crc32(request[-_CHECKED_BYTES:], check) | 1 << 32
