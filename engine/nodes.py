"""Namespace nodes: their layout, and the cache that decides what is dirty, sealed or clean.

Nodes of namespace trees and of extent maps share one id space, one LMDB table and one header, but
not one cache: namespace nodes are kept decoded here (lists of keys and values), because a bisect
in a list is what makes a lookup cheap in Python.

Invariants:
- a dirty or sealed node is never evicted, so what LMDB holds for an uncached id is the newest;
- a sealed node is never changed: the next change makes a copy under the same id;
- ids in ``dead`` were owned by one tree alone and are deleted by the commit that seals them.

What has been here longest goes first, a few nodes at a time: to free thousands in one go is to keep
everybody waiting for tens of milliseconds, and a commit of many nodes leaves that many.
"""

import operator
import struct
from collections import OrderedDict
from collections.abc import Callable

import xxhash

from engine import errors
from engine.intents import Intents
from native import HEADER_BYTES, NODE_BYTES, Cold

MAGIC = 0x4E4D5452  # 'RTMN'
KIND_NAMESPACE = 2
BODY_BYTES = NODE_BYTES - HEADER_BYTES
EVICTED_BY_ONE = 4  # so many at most go for one that comes

_HEADER = struct.Struct("<IBBHQQQQQ")
_LENGTHS = struct.Struct("<HH")
_CHECKSUM = struct.Struct("<Q")
_CHECKSUM_OFFSET = 24
_ENTRY_BYTES = 4  # the two lengths before each record
_KEY_BYTES_MAX = 1 + 8 + 255 + 1 + 2  # an attribute's with the longest name
_VALUE_BYTES_MAX = 1024  # so a node holds three records at least, and every split fits


class Node:
    """A decoded node.  ``vals`` holds record values in a leaf, child node ids above."""

    __slots__ = ("birth", "id", "keys", "level", "size", "vals")

    def __init__(self, node_id: int, level: int, birth: int) -> None:
        self.id = node_id
        self.level = level
        self.birth = birth
        self.size = 0
        self.keys: list[bytes] = []
        self.vals: list[bytes] | list[int] = []

    def copy(self, node_id: int, birth: int) -> "Node":
        twin = Node(node_id, self.level, birth)
        twin.size = self.size
        twin.keys = self.keys.copy()
        twin.vals = self.vals.copy()
        return twin


def record_bytes(level: int, key: bytes, value: object) -> int:
    """Bytes that one record takes in a node's body."""
    return _ENTRY_BYTES + len(key) + (8 if level else len(value))  # type: ignore[arg-type]


def encode(node: Node, seed: int) -> bytes:
    """The node as it is stored, checksummed."""
    assert node.size <= BODY_BYTES
    parts = [b""]
    for key, value in zip(node.keys, node.vals, strict=True):
        assert isinstance(value, int | bytes)
        stored = value.to_bytes(8, "little") if isinstance(value, int) else value
        parts.append(_LENGTHS.pack(len(key), len(stored)))
        parts.append(key)
        parts.append(stored)
    parts[0] = _HEADER.pack(
        MAGIC, KIND_NAMESPACE, node.level, len(node.keys), node.id, node.birth, 0, node.size, 0
    )
    raw = bytearray(b"".join(parts))
    checksum = xxhash.xxh3_64_intdigest(raw, seed)
    _CHECKSUM.pack_into(raw, _CHECKSUM_OFFSET, checksum)
    return bytes(raw)


def is_namespace(raw: "bytes | memoryview") -> bool:
    """Whether a stored node belongs to a namespace tree (the alternative: an extent map)."""
    return len(raw) > _ENTRY_BYTES and raw[4] == KIND_NAMESPACE


def decode(
    node_id: int, stored: "bytes | memoryview", seed: int, *, ordered: bool = True
) -> Node:  # fmt: skip
    """Parse and check a stored node.  Corrupt names the first check that failed."""
    raw = bytearray(stored)
    if not HEADER_BYTES <= len(raw) <= NODE_BYTES:
        raise errors.Corrupt(f"namespace node {node_id}: {len(raw)} bytes; restore from a backup")
    magic, kind, level, used, own_id, birth, checksum, size, _ = _HEADER.unpack_from(raw)
    _CHECKSUM.pack_into(raw, _CHECKSUM_OFFSET, 0)
    if xxhash.xxh3_64_intdigest(raw, seed) != checksum:
        raise errors.Corrupt(f"namespace node {node_id}: checksum differs; run `ramet fsck`")
    if magic != MAGIC or kind != KIND_NAMESPACE or own_id != node_id:
        raise errors.Corrupt(f"namespace node {node_id}: another node's bytes; run `ramet fsck`")
    node = Node(node_id, level, birth)
    node.size = size
    position = HEADER_BYTES
    values: list[bytes] = []
    for _ in range(used):
        if position + _ENTRY_BYTES > len(raw):
            raise errors.Corrupt(f"namespace node {node_id}: cut short; run `ramet fsck`")
        key_length, value_length = _LENGTHS.unpack_from(raw, position)
        position += _ENTRY_BYTES
        end = position + key_length + value_length
        if end > len(raw) or (level and value_length != _CHECKSUM.size):
            raise errors.Corrupt(f"namespace node {node_id}: record past its end")
        if key_length > _KEY_BYTES_MAX or value_length > _VALUE_BYTES_MAX:
            raise errors.Corrupt(f"namespace node {node_id}: record too long; run `ramet fsck`")
        node.keys.append(bytes(raw[position : position + key_length]))
        values.append(bytes(raw[position + key_length : end]))
        position = end
    if position != len(raw) or size != len(raw) - HEADER_BYTES:
        raise errors.Corrupt(f"namespace node {node_id}: wrong length; run `ramet fsck`")
    keys = node.keys[1:] if level else node.keys  # above a leaf the first counts as minus infinity
    if ordered and (any(map(operator.ge, keys, keys[1:])) or (level and not used)):
        raise errors.Corrupt(f"namespace node {node_id}: keys out of order; run `ramet fsck`")
    node.vals = [int.from_bytes(v, "little") for v in values] if level else values
    return node


class NodeCache:
    """All namespace nodes in memory, and which of them the next commit has to store."""

    def __init__(
        self,
        load: Callable[[int], bytes],
        take_id: Callable[[], int],
        seed: int,
        limit: int,
        intents: Intents,
    ) -> None:
        self._load = load
        self._take_id = take_id
        self._seed = seed
        self._limit = limit
        self._intents = intents
        self.waits = True  # False: Cold for a node that no thread has just had read (``warmed``)
        self.warmed: set[int] = set()
        self._nodes: OrderedDict[int, Node] = OrderedDict()
        self.epoch = 1
        self.dirty: dict[int, Node] = {}
        self.sealed: dict[int, Node] = {}
        self.dead: list[int] = []

    def get(self, node_id: int) -> Node:
        node = self._nodes.get(node_id)
        if node is None:
            if not self.waits and node_id not in self.warmed:
                raise Cold(node=node_id)
            self.warmed.discard(node_id)
            try:
                raw = self._load(node_id)
            except KeyError:
                raise errors.Corrupt(
                    f"namespace node {node_id} is missing; run `ramet fsck`"
                ) from None
            node = decode(node_id, raw, self._seed)
            if node.birth > self.epoch:  # every tree that shares it would take it for its own
                raise errors.Corrupt(f"namespace node {node_id} is of a later epoch; run fsck")
            self._nodes[node_id] = node
            self.evict(EVICTED_BY_ONE)
        return node

    def create(self, level: int) -> Node:
        self._intents.changes += 1
        node = Node(self._take_id(), level, self.epoch)
        self._nodes[node.id] = self.dirty[node.id] = node
        return node

    def own(self, node: Node, shared_epoch: int) -> Node:
        """The node to change instead of ``node``: itself, or a copy."""
        self._intents.changes += 1
        node_id = node.id
        if node.birth > shared_epoch:
            changeable = self.dirty.get(node_id)
            if changeable is not None:
                return changeable
            if node_id in self.sealed:
                node = node.copy(node_id, node.birth)
        else:
            node = node.copy(self._take_id(), self.epoch)
            node_id = node.id
        self._nodes[node_id] = self.dirty[node_id] = node
        return node

    def discard(self, node: Node, shared_epoch: int) -> None:
        """A tree dropped its reference: delete the node if no other tree can have one."""
        if node.birth > shared_epoch:
            self._nodes.pop(node.id, None)
            self.dirty.pop(node.id, None)
            self.dead.append(node.id)

    def forget_dead(self, node_ids: list[int]) -> None:
        """gc found these unreachable: no tree can ask for them again."""
        for node_id in node_ids:
            self._nodes.pop(node_id, None)
            self.dirty.pop(node_id, None)
        self.dead.extend(node_ids)

    def seal(self) -> tuple[dict[int, Node], list[int]]:
        """Freeze what is dirty, in O(1); the caller gives it to one commit."""
        assert not self.sealed
        self.sealed, self.dirty = self.dirty, {}
        dead, self.dead = self.dead, []
        return self.sealed, dead

    def release(self) -> None:
        """The commit is durable (or lost with the store): its nodes are clean."""
        self.sealed = {}

    @property
    def crowded(self) -> bool:
        """Whether more are here than shall stay, and not because they have to."""
        return len(self._nodes) > self._limit + len(self.dirty) + len(self.sealed)

    def evict(self, count: int) -> None:
        """Drop at most so many clean ones, if there are too many."""
        nodes = self._nodes
        while count and len(nodes) > self._limit:
            count -= 1
            node_id = next(iter(nodes))
            if node_id in self.dirty or node_id in self.sealed:
                nodes.move_to_end(node_id)
            else:
                del nodes[node_id]
