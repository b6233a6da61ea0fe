"""fsck: every invariant of docs/FORMAT.md, one named check each.  Read-only.

It works on one commit, read through its own transaction, with its own parsers where a shared one
would hide a bug of the writer (extent nodes), and never stops at the first finding.
"""

import os
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import xxhash

from engine import errors, keys
from engine.inode import Inode
from engine.meta import STATE_KEY, SUPERBLOCK_KEY, Reader, unpack_chunk_key, unpack_orphan_key
from engine.nodes import Node, decode
from engine.store import Store
from engine.superblock import BLOCK_BYTES, State, Superblock
from engine.volume_record import VolumeRecord
from native import HEADER_BYTES

_HEADER = struct.Struct("<IBBHQQQQQ")
_ENTRY = struct.Struct("<QQ")
_MAGIC_EXTENT = 0x584D5452  # 'RTMX'
_ADDRESS = (1 << 48) - 1
_MAPPED, _OWNED = 1, 2
SLOTS_PER_CHUNK = 8192


@dataclass(frozen=True)
class Finding:
    """One broken invariant: its name in docs/FORMAT.md, where, and what is wrong."""

    check: str
    where: str
    problem: str


@dataclass
class Report:
    """What a check of the whole store found."""

    findings: list[Finding] = field(default_factory=list)
    nodes: int = 0
    blocks: int = 0
    garbage_slots: int = 0

    @property
    def clean(self) -> bool:
        return not self.findings


@dataclass
class _Names:
    """What the walk of one namespace collects."""

    inodes: dict[int, Inode] = field(default_factory=dict)
    by_name: dict[tuple[int, bytes], tuple[int, int, int]] = field(default_factory=dict)
    by_cookie: dict[tuple[int, int], tuple[bytes, int, int]] = field(default_factory=dict)


class _Checker:
    def __init__(self, store: Store, reader: Reader, *, data: bool) -> None:
        self.store = store
        self.reader = reader
        self.data = data
        self.report = Report()
        self.superblock = Superblock.unpack(store.pool.meta.get("super", SUPERBLOCK_KEY))
        self.state = State.unpack(store.pool.meta.get("super", STATE_KEY))
        self.seed = self.superblock.hash_seed
        self.allocated: dict[tuple[int, int], bytes] = {}
        self.map_blocks: dict[int, int] = {}  # extent node -> blocks below, once checked
        self.mapped: set[int] = set()
        self.mapped_again: set[int] = set()
        self.owned_alone: dict[int, str] = {}  # OWNED, in a node that its tree owns

    def find(self, check: str, where: str, problem: str) -> None:
        self.report.findings.append(Finding(check, where, problem))

    def run(self) -> Report:
        for key, bits in self.reader.items("slots"):
            self._parsed("slots", partial(self._chunk, key, bits))
        for _, raw in self.reader.items("volumes"):
            self._parsed("volumes", partial(self._volume, raw))
        for key, raw in self.reader.items("orphans"):
            self._parsed("orphans", partial(self._orphan, key, raw))
        for address in self.mapped_again & self.owned_alone.keys():
            self.find("F9", self.owned_alone[address], "owned, mapped twice, not marked shared")
        total = sum(
            int.from_bytes(bits[: SLOTS_PER_CHUNK // 8], "little").bit_count()
            for bits in self.allocated.values()
        )
        self.report.blocks = len(self.mapped)
        self.report.garbage_slots = total - len(self.mapped)
        return self.report

    def _parsed(self, where: str, step: Callable[[], None]) -> None:
        """A record that does not parse is a finding, and the check goes on."""
        try:
            step()
        except errors.Corrupt as error:
            self.find("F1", where, str(error))

    def _chunk(self, key: bytes, bits: bytes) -> None:
        place = unpack_chunk_key(key)
        if len(bits) != SLOTS_PER_CHUNK // 4:
            raise errors.Corrupt(f"slots of {place}: {len(bits)} bytes")
        self.allocated[place] = bits

    def _orphan(self, key: bytes, raw: bytes) -> None:
        _, ino = unpack_orphan_key(key)
        inode = Inode.unpack(ino, raw)
        self._map(f"orphan inode {ino}", inode, inode.shared_epoch)

    # --- namespaces

    def _volume(self, raw: bytes) -> None:
        record = VolumeRecord.unpack(raw)
        where = f"volume {record.name} ({record.id})"
        if record.id >= self.state.next_volume:
            self.find("F1", where, "its id is not below the counter")
        names = _Names()
        for key, value in self._records(where, record.root):
            try:
                self._collect(names, key, value)
            except errors.Corrupt as error:
                self.find("F2", where, f"record {key!r} does not parse: {error}")
        self._entries(where, names)
        self._links(where, names)
        self._totals(where, record, names)
        for inode in names.inodes.values():
            if inode.ino >= self.state.next_ino and inode.ino != keys.ROOT_INO:
                self.find("F1", where, f"inode {inode.ino} is not below the counter")
            epoch = max(inode.shared_epoch, record.shared_epoch)
            self._map(f"{where} inode {inode.ino}", inode, epoch)

    def _records(self, where: str, root: int) -> Iterator[tuple[bytes, bytes]]:
        """All records of a namespace in order; nodes and their order are checked on the way."""
        pending: list[tuple[int, int | None, bytes, bytes | None]] = (
            [(root, None, b"", None)] if root else []
        )
        seen: set[int] = set()
        while pending:
            node_id, level, low, high = pending.pop()
            if node_id in seen:
                self.find("F3", where, f"node {node_id} is there twice")
                continue
            seen.add(node_id)
            node = self._namespace_node(where, node_id)
            if node is None:
                continue
            if level is not None and node.level != level:
                self.find("F3", where, f"node {node_id} is at level {node.level}, not {level}")
                continue
            counted = node.keys[node.level > 0 :]  # above a leaf the first is minus infinity
            rising = all(a < b for a, b in pairwise(counted))
            outside = [k for k in counted if k < low or (high and k >= high)]
            if not rising or outside:
                self.find("F3", where, f"keys of node {node_id} are out of order")
            if node.level:
                lows = [low, *node.keys[1:]]
                highs = [*node.keys[1:], high]
                ids: list[int] = node.vals  # type: ignore[assignment]
                children = zip(ids, lows, highs, strict=True)
                pending += reversed([(c, node.level - 1, a, b) for c, a, b in children])
            else:
                yield from zip(node.keys, node.vals, strict=True)  # type: ignore[misc]

    def _namespace_node(self, where: str, node_id: int) -> Node | None:
        self.report.nodes += 1
        if node_id >= self.state.next_node:
            self.find("F1", where, f"node {node_id} is not below the counter")
        try:
            return decode(node_id, self.reader.node(node_id), self.seed)
        except KeyError:
            self.find("F2", where, f"node {node_id} is missing")
        except errors.Corrupt as error:
            self.find("F2", where, str(error))
        return None

    @staticmethod
    def _collect(names: _Names, key: bytes, value: bytes) -> None:
        ino = keys.ino_of_inode_key(key)
        if key[:1] == b"I":
            names.inodes[ino] = Inode.unpack(ino, value)
        elif key[:1] == b"D":
            entry = keys.unpack_by_name(key[9:], value)
            names.by_name[ino, entry.name] = (entry.cookie, entry.ino, entry.kind)
        elif key[:1] == b"C":
            entry = keys.unpack_by_cookie(key, value)
            names.by_cookie[ino, entry.cookie] = (entry.name, entry.ino, entry.kind)

    def _entries(self, where: str, names: _Names) -> None:
        if len(names.by_name) != len(names.by_cookie):
            self.find("F5", where, "as many entries by name as by cookie there are not")
        for (parent, name), (cookie, child, kind) in names.by_name.items():
            at = f"{where} entry {name!r} of directory {parent}"
            if names.by_cookie.get((parent, cookie)) != (name, child, kind):
                self.find("F5", at, "its record by cookie differs or is missing")
            inode, directory = names.inodes.get(child), names.inodes.get(parent)
            if inode is None or inode.kind != kind:
                self.find("F5", at, f"inode {child} is missing or of another type")
            if directory is None or not directory.is_dir or cookie >= directory.next_cookie:
                self.find("F5", at, "its directory is missing, none, or behind its cookies")

    def _links(self, where: str, names: _Names) -> None:
        links = Counter(child for _, child, _ in names.by_name.values())
        subdirectories: Counter[int] = Counter()
        entries: Counter[int] = Counter()
        for (parent, _), (_, _, kind) in names.by_name.items():
            entries[parent] += 1
            subdirectories[parent] += stat.S_ISDIR(kind)
        for ino, inode in names.inodes.items():
            expected = links[ino]
            if inode.is_dir:
                if (expected != 1) != (ino == keys.ROOT_INO):
                    self.find("F6", where, f"directory {ino} has {expected} names")
                expected = 2 + subdirectories[ino]
            if inode.nlink != expected:
                self.find("F6", where, f"inode {ino}: nlink {inode.nlink}, {expected} names")
            if inode.is_dir and inode.entries != entries[ino]:
                self.find("F7", where, f"directory {ino}: count {inode.entries}, {entries[ino]}")

    def _totals(self, where: str, record: VolumeRecord, names: _Names) -> None:
        counted = (
            len(names.inodes),
            sum(i.blocks for i in names.inodes.values()),
            sum(i.size for i in names.inodes.values()),
        )
        stored = (record.files, record.blocks, record.logical_bytes)
        if counted != stored:
            self.find("F7", where, f"totals (inodes, blocks, bytes) {stored}, counted {counted}")

    # --- extent maps

    def _map(self, where: str, inode: Inode, epoch: int) -> None:
        if not inode.root:
            if inode.blocks:
                self.find("F4", where, f"{inode.blocks} blocks and no map")
            return
        blocks = self._extent_node(where, inode.root, inode.height - 1, epoch)
        if blocks != inode.blocks:
            self.find("F4", where, f"{inode.blocks} blocks, its map has {blocks}")

    def _extent_node(self, where: str, node_id: int, level: int, epoch: int) -> int:
        """Check a node and all below it, each once; returns the blocks mapped below."""
        known = self.map_blocks.get(node_id)
        if known is not None:
            return known
        self.report.nodes += 1
        self.map_blocks[node_id] = 0
        try:
            raw = bytearray(self.reader.node(node_id))
        except KeyError:
            self.find("F2", where, f"extent node {node_id} is missing")
            return 0
        if len(raw) != HEADER_BYTES + self.superblock.fanout * _ENTRY.size:
            self.find("F2", where, f"extent node {node_id}: {len(raw)} bytes")
            return 0
        header = _HEADER.unpack_from(raw)
        magic, kind, own_level, used, own_id, birth, checksum, blocks, _ = header
        raw[24:32] = bytes(8)
        if xxhash.xxh3_64_intdigest(raw, self.seed) != checksum:
            self.find("F2", where, f"extent node {node_id}: checksum differs")
            return 0
        if (magic, kind, own_id) != (_MAGIC_EXTENT, 1, node_id) or node_id >= self.state.next_node:
            self.find("F2", where, f"extent node {node_id}: another node's bytes")
            return 0
        if own_level != level:
            self.find("F4", where, f"extent node {node_id} is at level {own_level}, not {level}")
            return 0
        entries = [e for e in _ENTRY.iter_unpack(raw[HEADER_BYTES:]) if e != (0, 0)]
        if level:
            below = [self._extent_node(where, child, level - 1, epoch) for child, _ in entries]
            if below != [count for _, count in entries]:
                self.find("F4", where, f"extent node {node_id}: its counts are not its children's")
            counted = sum(below)
        else:
            counted = len(entries)
            for word, block_checksum in entries:
                self._block(where, node_id, word, block_checksum, alone=birth > epoch)
        if counted != blocks or used != len(entries):
            self.find("F4", where, f"extent node {node_id}: header does not match its entries")
        self.map_blocks[node_id] = counted
        return counted

    def _block(
        self, where: str, node_id: int, word: int, checksum: int, *, alone: bool
    ) -> None:  # fmt: skip
        address, flags = word & _ADDRESS, word >> 48
        if not flags & _MAPPED:
            self.find("F4", where, f"extent node {node_id}: an entry without MAPPED")
            return
        slab, slot = divmod(address, self.superblock.slab_slots)
        chunk, bit = divmod(slot, SLOTS_PER_CHUNK)
        bits = self.allocated.get((slab, chunk))
        if bits is None or not bits[bit >> 3] >> (bit & 7) & 1:
            self.find("F8", where, f"slot {slab}:{slot} is mapped but not allocated")
        elif flags & _OWNED and alone:
            at = SLOTS_PER_CHUNK // 8 + (bit >> 3)
            if not bits[at] >> (bit & 7) & 1:
                self.owned_alone[address] = f"{where} slot {slab}:{slot}"
        if self.data and address not in self.mapped:
            content = b""
            if slab < self.state.slabs:
                fd = self.store.pool.slabs.fd(slab)
                content = os.pread(fd, BLOCK_BYTES, slot * BLOCK_BYTES)
            if xxhash.xxh3_64_intdigest(content, self.seed) != checksum:
                self.find("F10", where, f"slot {slab}:{slot}: content fails its checksum")
        if address in self.mapped:
            self.mapped_again.add(address)
        self.mapped.add(address)


def check(store: Store, *, data: bool = False) -> Report:
    """Check the store's last commit; ``data`` reads every block as well."""
    reader = store.pool.reader()
    try:
        return _Checker(store, reader, data=data).run()
    finally:
        reader.close()
