"""Repair of extent maps: counts are counted anew; a lost node stays lost, and its blocks EIO.

Sums are rewritten in the node itself, shared or not: what it says of its children was wrong for
every tree that has it.  A hole is never put where blocks were: it would read as zeroes.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

import xxhash

from engine.fsck_maps import ADDRESS_MASK, HEADER
from engine.inode import FILE_BYTES_MAX, HEIGHT_MAX, Inode
from engine.meta import Reader
from engine.nodes import is_namespace
from engine.superblock import BLOCK_BYTES
from engine.trace import ENTRY
from native import HEADER_BYTES
from native.audit import Audit

BLOCKS_MAX = FILE_BYTES_MAX // BLOCK_BYTES
MAPPED, OWNED, DEDUP, FLAG_SHIFT = 1, 2, 4, 48
Tell = Callable[[str, str], None]


class Kept(NamedTuple):
    """A node as it is after repair: blocks below, the last one (-1: none)."""

    blocks: int
    last: int


class MapsRepair:
    """All maps of a store; ``nodes`` collects what is to be stored."""

    def __init__(
        self, audit: Audit, reader: Reader, seed: int, epoch: int, tell: Tell
    ) -> None:  # fmt: skip
        self._audit = audit
        self._reader = reader
        self._seed = seed
        self._epoch = epoch
        self._tell = tell
        self._known: dict[int, Kept | None] = {}
        self.nodes: dict[int, bytes] = {}

    def repair(self, inode: Inode) -> None:
        """The inode's height, blocks and size agree with its map afterwards, if it has one."""
        if inode.size > FILE_BYTES_MAX:
            self._tell("F4", f"inode {inode.ino}: its size is what it has blocks for")
            inode.size = 0
        if not inode.root:
            if inode.blocks:
                self._tell("F4", f"inode {inode.ino} has no map and no blocks")
                inode.blocks = 0
            return
        raw = self._sound(inode.root)
        if raw is None:
            inode.blocks = min(inode.blocks, BLOCKS_MAX)
            return
        if inode.height != raw[5] + 1 and raw[5] < HEIGHT_MAX:
            self._tell("F4", f"inode {inode.ino}: its map has {raw[5] + 1} levels")
            inode.height = raw[5] + 1
        kept = self._node(inode.root, inode.height - 1)
        if kept is None:
            return
        if inode.blocks != kept.blocks:
            self._tell("F4", f"inode {inode.ino} has {kept.blocks} blocks")
            inode.blocks = kept.blocks
        if inode.size <= kept.last * BLOCK_BYTES < FILE_BYTES_MAX:
            inode.size = (kept.last + 1) * BLOCK_BYTES
            self._tell("F4", f"inode {inode.ino} is longer: {inode.size} bytes have blocks")

    def _sound(self, node_id: int) -> memoryview | None:
        try:
            raw = self._reader.node(node_id)
        except KeyError:
            return None
        return raw if self._audit.sound(node_id, raw) and not is_namespace(raw) else None

    def _node(self, node_id: int, level: int) -> Kept | None:
        if node_id in self._known:
            return self._known[node_id]
        self._known[node_id] = None
        raw = self._sound(node_id)
        if raw is None or raw[5] != level:
            return None
        words = list(ENTRY.iter_unpack(raw[HEADER_BYTES:]))
        kept = self._interior(words, level) if level else self._leaf(words)
        used = sum(word != 0 for word, _ in words)
        self._store(node_id, bytes(raw), words, kept.blocks, used)
        self._known[node_id] = kept
        return kept

    def _interior(self, words: list[tuple[int, int]], level: int) -> Kept:
        span = self._audit.fanout**level
        blocks, last = 0, -1
        for index, (child, said) in enumerate(words):
            if not child:
                words[index] = (0, 0)
                continue
            below = self._node(child, level - 1)
            if below is not None:
                words[index] = (child, below.blocks)
                blocks += below.blocks
                if below.last >= 0:
                    last = index * span + below.last
            else:
                count = min(said, span)
                words[index] = (child, count)
                blocks += count
                last = max(last, index * span)
        return Kept(blocks, last)

    def _leaf(self, words: list[tuple[int, int]]) -> Kept:
        """An entry keeps its slot and checksum, which decide whether it reads."""
        last = -1
        for index, (word, checksum) in enumerate(words):
            if not (word or checksum):
                continue
            flags = (word >> FLAG_SHIFT) & (OWNED | DEDUP) | MAPPED
            words[index] = (word & ADDRESS_MASK | flags << FLAG_SHIFT, checksum)
            last = index
        return Kept(sum(word != 0 for word, _ in words), last)

    def _store(
        self, node_id: int, raw: bytes, words: list[tuple[int, int]], blocks: int, used: int
    ) -> None:  # fmt: skip
        header = list(HEADER.unpack_from(raw))
        header[3], header[6], header[7] = used, 0, blocks
        if header[5] > self._epoch:
            header[5] = 0  # born in an epoch that has not been: nobody's own
        new = bytearray(HEADER.pack(*header) + b"".join(ENTRY.pack(*pair) for pair in words))
        struct.pack_into("<Q", new, 24, xxhash.xxh3_64_intdigest(new, self._seed))
        if bytes(new) != raw:
            self._tell("F4", f"extent node {node_id} was counted anew")
            self.nodes[node_id] = bytes(new)
