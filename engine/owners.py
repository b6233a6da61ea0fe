"""Whose is it: the files, snapshots and orphans that a set of slots, or damaged nodes, belong to.

A walk over all namespaces of one commit.  Subtrees that trees share are walked once and remembered
if something was found in them (mostly nothing is), so that a thousand clones cost what one costs,
plus a line for each in the answer.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from engine import errors, keys
from engine.inode import Inode
from engine.meta import Reader
from engine.nodes import Node, decode, is_namespace
from engine.trace import ENTRY, NodeIds, entries, orphans, volume_records
from engine.volume_record import FLAG_SNAPSHOT, VolumeRecord
from native import HEADER_BYTES
from native.audit import Audit

ADDRESS_MASK = (1 << 48) - 1
NODES_CACHED = 4096
DEPTH_MAX = 4096


class Hit(NamedTuple):
    """An entry of a map: the file's block, its slot and checksum; ``lost``: a node of the map
    that is damaged, and everything below it with it (then the slot means nothing)."""

    block: int
    address: int
    checksum: int
    lost: int = 0


@dataclass(frozen=True)
class Owner:
    """A file with hits.  ``path`` is None for an orphan, and when a directory tree is damaged."""

    volume_id: int
    volume: str
    ino: int
    path: str | None
    hits: tuple[Hit, ...]

    def __str__(self) -> str:
        if self.path is not None:
            return f"{self.volume}:{self.path}"
        return f"{self.volume}: deleted inode {self.ino}" if self.ino else f"{self.volume}:"


class Owners:
    """One walk.  ``judge`` says of a wanted (slot, checksum) whether it counts as a hit."""

    def __init__(
        self, audit: Audit, reader: Reader, seed: int, wanted: bytearray,
        judge: Callable[[int, int], bool],
    ) -> None:  # fmt: skip
        self._audit = audit
        self._reader = reader
        self._seed = seed
        self._wanted = wanted
        self._judge = judge
        self._nothing = NodeIds()
        self._hits: dict[int, tuple[Hit, ...]] = {}
        self._inodes: dict[int, tuple[tuple[Inode, tuple[Hit, ...]], ...]] = {}
        self._cache: dict[int, Node] = {}

    def run(self) -> Iterator[Owner]:
        """All owners, volume by volume; any thread."""
        records = volume_records(self._reader)
        names = {record.id: record.name for record in records}
        for record in records:
            label = record.name
            if record.flags & FLAG_SNAPSHOT:
                label = f"{names.get(record.parent_id, '?')}@{label}"
            if record.root:
                yield from self._volume(record, label)
        for volume_id, inode in orphans(self._reader):
            hits = self.map(inode)
            if hits:
                yield Owner(volume_id, names.get(volume_id, "?"), inode.ino, None, hits)

    def _volume(self, record: VolumeRecord, label: str) -> Iterator[Owner]:
        found = self._names(record.root, None)
        paths = {inode.ino: self.path(record.root, inode) for inode, _ in found if inode.ino}
        astray = {ino for ino, path in paths.items() if path is None}
        if astray:
            paths.update(self._by_any_name(record.root, astray))
        for inode, hits in found:
            yield Owner(record.id, label, inode.ino, paths.get(inode.ino), hits)

    # --- maps

    def map(self, inode: Inode) -> tuple[Hit, ...]:
        """The hits of one file."""
        return self._extent(inode.root, inode.height - 1) if inode.root else ()

    def _extent(self, node_id: int, level: int) -> tuple[Hit, ...]:
        if node_id in self._nothing:
            return ()
        known = self._hits.get(node_id)
        if known is not None:
            return known
        try:
            raw = self._reader.node(node_id)
            sound = self._audit.sound(node_id, raw) and not is_namespace(raw) and raw[5] == level
        except KeyError:
            sound = False
        if not sound:
            found: tuple[Hit, ...] = (Hit(0, 0, 0, node_id),)
        elif level:
            found = self._interior(raw, level)
        else:
            found = tuple(self._leaf(raw))
        if found:
            self._hits[node_id] = found
        else:
            self._nothing.add(node_id)
        return found

    def _interior(self, raw: memoryview, level: int) -> tuple[Hit, ...]:
        span = self._audit.fanout**level
        found: list[Hit] = []
        for index, child, _ in entries(raw):
            if child:
                below = self._extent(child, level - 1)
                found += [hit._replace(block=hit.block + index * span) for hit in below]
        return tuple(found)

    def _leaf(self, raw: memoryview) -> Iterator[Hit]:
        for index in self._audit.find(raw, self._wanted):
            word, checksum = ENTRY.unpack_from(raw, HEADER_BYTES + ENTRY.size * index)
            if self._judge(word & ADDRESS_MASK, checksum):
                yield Hit(index, word & ADDRESS_MASK, checksum)

    # --- names

    def _node(self, node_id: int) -> Node | None:
        """A namespace node, or None when it is damaged."""
        node = self._cache.get(node_id)
        if node is None:
            try:
                node = decode(node_id, self._reader.node(node_id), self._seed)
            except (KeyError, errors.Corrupt):
                return None
            if len(self._cache) >= NODES_CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[node_id] = node
        return node

    def _names(
        self, node_id: int, level: int | None
    ) -> tuple[tuple[Inode, tuple[Hit, ...]], ...]:  # fmt: skip
        """Inodes below a namespace node that have hits; an inode 0 stands for a damaged node."""
        if node_id in self._nothing:
            return ()
        known = self._inodes.get(node_id)
        if known is not None:
            return known
        node = self._node(node_id)
        found: list[tuple[Inode, tuple[Hit, ...]]] = []
        if node is None or (level is not None and node.level != level):
            found.append((Inode(0, 0, 0, 0, 0), (Hit(0, 0, 0, node_id),)))
        elif node.level:
            for child in node.vals:
                found += self._names(child, node.level - 1)  # type: ignore[arg-type]
        else:
            found += self._inodes_of(node)
        if found:
            self._inodes[node_id] = tuple(found)
        else:
            self._nothing.add(node_id)
        return tuple(found)

    def _inodes_of(self, node: Node) -> Iterator[tuple[Inode, tuple[Hit, ...]]]:
        for key, value in zip(node.keys, node.vals, strict=True):
            if key[:1] != b"I":
                continue
            try:
                inode = Inode.unpack(keys.ino_of_inode_key(key), value)  # type: ignore[arg-type]
            except (struct.error, errors.Corrupt):
                continue
            hits = self.map(inode)
            if hits:
                yield inode, hits

    def _get(self, root: int, key: bytes) -> bytes | None:
        node = self._node(root)
        while node is not None and node.level:
            level = node.level
            child: int = node.vals[max(bisect_right(node.keys, key) - 1, 0)]  # type: ignore[assignment]
            node = self._node(child)
            if node is not None and node.level >= level:
                return None
        if node is None:
            return None
        found = dict(zip(node.keys, node.vals, strict=True)).get(key)
        return found if isinstance(found, bytes) else None

    def path(self, root: int, inode: Inode) -> str | None:
        """A path by the last name made for the inode and its parents; None when it is gone."""
        parts: list[str] = []
        while inode.ino != keys.ROOT_INO and len(parts) < DEPTH_MAX:
            try:
                value = self._get(root, keys.cookie_key(inode.parent, inode.parent_cookie)) or b""
                entry = keys.unpack_by_cookie(keys.cookie_key(0, 0), value)
                parent = self._get(root, keys.inode_key(inode.parent)) or b""
                if entry.ino != inode.ino:
                    return None
                inode = Inode.unpack(inode.parent, parent)
            except (struct.error, errors.Corrupt):
                return None
            parts.append(entry.name.decode(errors="surrogateescape"))
        return "/" + "/".join(reversed(parts)) if inode.ino == keys.ROOT_INO else None

    def _by_any_name(self, root: int, inos: set[int]) -> dict[int, str]:
        """Paths of inodes whose last-made name is gone while an older one is left."""
        found: dict[int, str] = {}
        pending, level = [root], 1 << 8
        while pending:
            node = self._node(pending.pop())
            if node is None or node.level > level:
                continue
            if node.level:
                pending += node.vals  # type: ignore[arg-type]
                continue
            for key, value in zip(node.keys, node.vals, strict=True):
                if key[:1] == b"D" and isinstance(value, bytes) and len(value) == 18:
                    entry = keys.unpack_by_name(key[9:], value)
                    if entry.ino in inos and entry.ino not in found:
                        path = self._path_of_entry(root, keys.ino_of_inode_key(key), entry.name)
                        if path is not None:
                            found[entry.ino] = path
        return found

    def _path_of_entry(self, root: int, directory: int, name: bytes) -> str | None:
        try:
            parent = Inode.unpack(directory, self._get(root, keys.inode_key(directory)) or b"")
        except (struct.error, errors.Corrupt):
            return None
        above = self.path(root, parent)
        text = name.decode(errors="surrogateescape")
        return None if above is None else f"{above.rstrip('/')}/{text}"
