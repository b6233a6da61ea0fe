"""The superblock and the store's counters: what must be known before anything else is read.

The superblock is written once, by ``init``.  The counters change with every commit and are part
of it, so node ids, inode numbers, generations, epochs and volume ids never go back, also not by a
restore or a crash.
"""

import os
import secrets
import struct
import time
import uuid
from dataclasses import dataclass

import xxhash

from engine import errors
from native import EXTENT_FANOUT

VERSION = 1
INTENT_LOG = 1  # what was synced last may be in the intent log alone
INCOMPAT_KNOWN = INTENT_LOG  # a set bit that is not known here: refuse to open
RO_COMPAT_KNOWN = 0  # a set bit that is not known here: open read-only at most
BLOCK_BYTES = 4096
SLAB_SLOTS = 262_144  # 1 GiB
SLAB_SLOTS_MAX = 1 << 30
SLABS_MAX = 65_536
COUNTER_MAX = 1 << 63  # far from wrapping round

_SUPERBLOCK = struct.Struct("<8sIIQQQ16sQIIQq")
_MAGIC = b"RAMETSB1"
_STATE = struct.Struct("<8Q")
_CHECKSUM_BYTES = 8


def _seal(raw: bytes) -> bytes:
    """Both records end in their XXH3-64: one flipped bit of a seed or a slab's size would make all
    else look damaged, and a repair that believed it would do the damage."""
    return raw + xxhash.xxh3_64_intdigest(raw).to_bytes(_CHECKSUM_BYTES, "little")


def _unseal(raw: bytes | None, size: int) -> bytes | None:
    """The record without its checksum; None when it is not whole."""
    if raw is None or len(raw) != size + _CHECKSUM_BYTES or _seal(raw[:size]) != raw:
        return None
    return raw[:size]


def _good_shape(fanout: int, records_max: int, slab_slots: int) -> bool:
    return (
        4 <= fanout <= EXTENT_FANOUT
        and 4 <= records_max < 1 << 32
        and 1 <= slab_slots <= SLAB_SLOTS_MAX
    )


@dataclass(frozen=True)
class Superblock:
    """What ``init`` fixed for the life of the store."""

    version: int
    block_bytes: int
    compat: int
    ro_compat: int
    incompat: int
    uuid: uuid.UUID
    hash_seed: int
    fanout: int
    records_max: int
    slab_slots: int
    created_ns: int

    @classmethod
    def new(cls, *, fanout: int, records_max: int, slab_slots: int) -> "Superblock":
        if not _good_shape(fanout, records_max, slab_slots):
            raise errors.InvalidArgument("fanout or slab size out of range")
        return cls(
            VERSION, BLOCK_BYTES, 0, 0, INTENT_LOG, uuid.UUID(bytes=os.urandom(16), version=4),
            secrets.randbits(64), fanout, records_max, slab_slots, time.time_ns(),
        )  # fmt: skip

    def pack(self) -> bytes:
        return _seal(_SUPERBLOCK.pack(
            _MAGIC, self.version, self.block_bytes, self.compat, self.ro_compat, self.incompat,
            self.uuid.bytes, self.hash_seed, self.fanout, self.records_max, self.slab_slots,
            self.created_ns,
        ))  # fmt: skip

    @classmethod
    def unpack(cls, raw: bytes | None) -> "Superblock":
        """Corrupt when it is none, Unsupported when a newer version made it."""
        raw = _unseal(raw, _SUPERBLOCK.size)
        if raw is None or raw[:8] != _MAGIC:
            raise errors.Corrupt("the superblock is damaged; restore the store from a backup")
        fields = list(_SUPERBLOCK.unpack(raw)[1:])
        fields[5] = uuid.UUID(bytes=fields[5])
        block = cls(*fields)
        if block.version != VERSION or block.incompat & ~INCOMPAT_KNOWN:
            raise errors.Unsupported("the store was made by a newer ramet; open it with that")
        if block.ro_compat & ~RO_COMPAT_KNOWN:
            raise errors.Unsupported("the store has features this ramet cannot write; upgrade it")
        shape = _good_shape(block.fanout, block.records_max, block.slab_slots)
        if not shape or block.block_bytes != BLOCK_BYTES:
            raise errors.Corrupt("the superblock is damaged; restore the store from a backup")
        return block


@dataclass
class State:
    """Store-wide counters: each is the next value to hand out, except ``slabs``, a count."""

    epoch: int = 1
    next_node: int = 1
    next_ino: int = 2
    next_generation: int = 1
    next_change: int = 1
    next_volume: int = 1
    commits: int = 0
    slabs: int = 0

    def pack(self) -> bytes:
        return _seal(_STATE.pack(
            self.epoch, self.next_node, self.next_ino, self.next_generation, self.next_change,
            self.next_volume, self.commits, self.slabs,
        ))  # fmt: skip

    @classmethod
    def unpack(cls, raw: bytes | None) -> "State":
        raw = _unseal(raw, _STATE.size)
        if raw is None:
            raise errors.Corrupt("the store's counters are damaged; restore it from a backup")
        state = cls(*_STATE.unpack(raw))
        if max(_STATE.unpack(raw)) >= COUNTER_MAX or state.slabs > SLABS_MAX or not state.epoch:
            raise errors.Corrupt("the store's counters make no sense; restore it from a backup")
        return state
