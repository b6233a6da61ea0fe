"""fsck of extent maps: each node once, however many files share it.

What is remembered of a node is what its other referrers need to be checked against: the blocks
below it, the last of them, the newest birth.  Which slots are mapped, mapped again, and owned by
one tree is kept in bitmaps, three bits a slot.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from engine.inode import FILE_BYTES_MAX, HEIGHT_MAX, Inode
from engine.meta import Reader
from engine.nodes import is_namespace
from engine.superblock import BLOCK_BYTES, State
from engine.trace import ENTRY, entries
from engine.turns import Turns
from native import HEADER_BYTES
from native.audit import Audit

HEADER = struct.Struct("<IBBHQQQQQ")
ADDRESS_MASK = (1 << 48) - 1
Find = Callable[[str, str, str], None]


class Below(NamedTuple):
    """What lies under a node.  ``last``: the last block mapped, from the node's first; -1: none."""

    blocks: int
    last: int
    newest: int
    alone: bool  # its tree may change it in place


class Slots:
    """What maps say of slots, as bits."""

    def __init__(self, count: int) -> None:
        self.count = count
        size = -(-count // 8)
        self.mapped = bytearray(size)
        self.again = bytearray(size)
        self.owned = bytearray(size)  # OWNED, in a node that its tree may change in place

    @staticmethod
    def cut(bits: bytearray, first: int, count: int) -> int:
        """Bits of a run of slots, as a number."""
        piece = bits[first >> 3 : (first + count + 7) >> 3]
        return (int.from_bytes(piece, "little") >> (first & 7)) & ((1 << count) - 1)


def ones(bits: int, limit: int = 1 << 62) -> Iterator[int]:
    """The positions of set bits, at most so many."""
    raw = bits.to_bytes(-(-bits.bit_length() // 8), "little")
    for at, byte in enumerate(raw):
        for bit in range(8) if byte else ():
            if byte >> bit & 1:
                if limit <= 0:
                    return
                limit -= 1
                yield 8 * at + bit


class MapsCheck:
    """The checks of all maps of one commit."""

    def __init__(
        self, audit: Audit, reader: Reader, state: State, slots: Slots, find: Find
    ) -> None:  # fmt: skip
        self._audit = audit
        self._reader = reader
        self._state = state
        self.slots = slots
        self._find = find
        self._known: dict[int, Below | None] = {}  # None: damaged, and told
        self.nodes = 0

    def free(self, turns: Turns) -> None:
        """Take apart what was remembered of nodes."""
        turns.empty(self._known)

    def check(self, where: str, inode: Inode, epoch: int) -> None:
        """One file, whose map was last shared in ``epoch``."""
        if inode.size > FILE_BYTES_MAX or (inode.root and not 1 <= inode.height <= HEIGHT_MAX):
            self._find("F4", where, f"{inode.size} bytes in {inode.height} levels are too many")
        if not inode.root:
            if inode.blocks:
                self._find("F4", where, f"{inode.blocks} blocks and no map")
            return
        below = self._node(where, inode.root, inode.height - 1, epoch, alone=True)
        if below is None:
            return
        if below.blocks != inode.blocks:
            self._find("F4", where, f"{inode.blocks} blocks, its map has {below.blocks}")
        if (below.last + 1) * BLOCK_BYTES >= inode.size + BLOCK_BYTES:
            self._find("F4", where, f"block {below.last} is mapped past its end")

    def subtree(self, where: str, node_id: int, level: int, epoch: int) -> bool:
        """A subtree that was cut off; whether its top is whole and of that level."""
        raw = self._read(where, node_id)
        if raw is None or raw[5] != level:
            return False
        self._node(where, node_id, level, epoch, alone=True)
        return True

    def _node(
        self, where: str, node_id: int, level: int, epoch: int, *, alone: bool
    ) -> Below | None:  # fmt: skip
        if node_id in self._known:
            known = self._known[node_id]
            if known is not None and (known.alone or known.newest > epoch):
                self._find("F11", where, f"extent node {node_id}: another reference owns it")
            return known
        self.nodes += 1
        self._known[node_id] = None
        raw = self._read(where, node_id)
        if raw is None:
            return None
        own_level, birth = raw[5], HEADER.unpack_from(raw)[5]
        if own_level != level:
            self._find("F4", where, f"extent node {node_id} is at level {own_level}, not {level}")
            return None
        if node_id >= self._state.next_node or birth > self._state.epoch:
            self._find("F1", where, f"extent node {node_id}: id or birth not below its counter")
        if birth > epoch and not alone:
            self._find("F11", where, f"extent node {node_id} is owned below a shared node")
        below = self._below(where, node_id, raw, epoch)
        self._known[node_id] = below
        return below

    def _read(self, where: str, node_id: int) -> memoryview | None:
        try:
            raw = self._reader.node(node_id)
        except KeyError:
            self._find("F2", where, f"extent node {node_id} is missing")
            return None
        if not self._audit.sound(node_id, raw) or is_namespace(raw):
            self._find("F2", where, f"extent node {node_id} fails its check")
            return None
        return raw

    def _below(self, where: str, node_id: int, raw: memoryview, epoch: int) -> Below:
        header = HEADER.unpack_from(raw)
        level, used, birth, blocks = header[2], header[3], header[5], header[7]
        alone = birth > epoch
        if level:
            counted, last, newest, entry_count = self._interior(where, node_id, raw, epoch, birth)
        else:
            counted, last, newest, entry_count = self._leaf(where, node_id, raw, birth, alone=alone)
        if counted != blocks or used != entry_count:
            self._find("F4", where, f"extent node {node_id}: header does not match its entries")
        return Below(counted, last, newest, alone)

    def _interior(
        self, where: str, node_id: int, raw: memoryview, epoch: int, birth: int
    ) -> tuple[int, int, int, int]:  # fmt: skip
        level: int = raw[5]
        span = self._audit.fanout**level
        counted = used = 0
        last, newest = -1, birth
        for index, child, value in entries(raw):
            if not child:
                self._find("F4", where, f"extent node {node_id}: blocks below no child")
                continue
            used += 1
            below = self._node(where, child, level - 1, epoch, alone=birth > epoch)
            if below is None:
                counted += value
                last = max(last, index * span)
                continue
            if below.blocks != value:
                self._find("F4", where, f"extent node {node_id}: its counts are not its children's")
            counted += below.blocks
            newest = max(newest, below.newest)
            if below.last >= 0:
                last = index * span + below.last
        return counted, last, newest, used

    def _leaf(
        self, where: str, node_id: int, raw: memoryview, birth: int, *, alone: bool
    ) -> tuple[int, int, int, int]:  # fmt: skip
        slots = self.slots
        malformed = self._audit.tally(
            raw, alone=alone, mapped=slots.mapped, again=slots.again, owned=slots.owned
        )
        if malformed:
            problem = f"extent node {node_id}: {malformed} entries name no slot or no such flags"
            self._find("F4", where, problem)
        used = [index for index, _, _ in entries(raw)]
        return len(used), used[-1] if used else -1, birth, len(used)

    def entry(self, inode: Inode, block: int) -> tuple[int, int] | None:
        """(slot, checksum) of a file's block; None for a hole and where the map is damaged."""
        node_id, level = inode.root, inode.height - 1
        if not node_id or block >= self._audit.fanout ** (level + 1):
            return None
        while self._known.get(node_id) is not None:
            raw = self._reader.node(node_id)
            index, block = divmod(block, self._audit.fanout**level)
            word, value = ENTRY.unpack_from(raw, HEADER_BYTES + ENTRY.size * index)
            if not word:
                return None
            if not level:
                address: int = word & ADDRESS_MASK
                return (address, value) if address < self.slots.count else None
            node_id, level = word, level - 1
        return None
