"""Damage as media do it: a store's slots and records changed behind its back."""

import hashlib
import os
import random
from bisect import bisect_left, bisect_right
from dataclasses import replace
from pathlib import Path

import xxhash

from engine import Inode, Store, Volume, keys
from engine.fsck_maps import HEADER
from engine.meta import STATE_KEY, SUPERBLOCK_KEY, Meta
from engine.nodes import Node, decode, encode, record_bytes
from engine.superblock import State, Superblock
from engine.trace import ENTRY
from engine.volume_record import VolumeRecord
from native import HEADER_BYTES

BLOCK = 4096
FLIP, ZERO, MISDIRECT, STALE = "flip", "zero", "misdirect", "stale"


def slots_of(volume: Volume, inode: Inode) -> list[int]:
    """The slot address of each mapped block of a file, in order."""
    tree, found, at = volume.data_tree(inode), [], 0
    end = -(-inode.size // BLOCK)
    while at < end:
        step = min(end - at, 1 << 16)
        for extent in volume.pool.core.lookup(tree, at, step):
            found += range(extent.address, extent.address + extent.count)
        at += step
    return found


def place(store: Store, address: int) -> tuple[int, int]:
    slab, slot = divmod(address, store.pool.superblock.slab_slots)
    return store.pool.slabs.fd(slab), slot * BLOCK


def content(store: Store, address: int) -> bytes:
    fd, at = place(store, address)
    return os.pread(fd, BLOCK, at)


def overwrite(store: Store, address: int, data: bytes) -> None:
    fd, at = place(store, address)
    assert os.pwrite(fd, data, at) == BLOCK


def flip(store: Store, address: int, rng: random.Random) -> None:
    data = bytearray(content(store, address))
    data[rng.randrange(BLOCK)] ^= 1 << rng.randrange(8)
    overwrite(store, address, bytes(data))


class Surgery:
    """Changes records of a closed store, as whole and checksummed as the engine would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta = Meta(path / "meta")
        raw = self.meta.get("super", SUPERBLOCK_KEY)
        self.superblock = Superblock.unpack(raw)
        self.seed = self.superblock.hash_seed

    def __enter__(self) -> "Surgery":
        return self

    def __exit__(self, *_: object) -> None:
        self.meta.close()

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.meta.write((), (), [(table, key, value)], ())

    def delete(self, table: str, key: bytes) -> None:
        self.meta.write((), (), (), [(table, key)])

    def put_node(self, node_id: int, raw: bytes) -> None:
        self.meta.write([(node_id, raw)], (), (), ())

    def drop_node(self, node_id: int) -> None:
        self.meta.write((), [node_id], (), ())

    # --- counters and volumes

    def state(self) -> State:
        return State.unpack(self.meta.get("super", STATE_KEY))

    def set_state(self, **changes: int) -> None:
        self.put("super", STATE_KEY, replace(self.state(), **changes).pack())

    def volume(self, name: str) -> VolumeRecord:
        records = [VolumeRecord.unpack(raw) for _, raw in self.meta.items("volumes")]
        return next(record for record in records if record.name == name)

    def set_volume(self, name: str, /, **changes: object) -> None:
        record = self.volume(name)
        key = record.id.to_bytes(8, "big")
        self.put("volumes", key, replace(record, **changes).pack())  # type: ignore[arg-type]

    # --- namespaces

    def leaf(self, name: str, key: bytes) -> Node:
        """The leaf of a volume's namespace that has, or would have, a key."""
        node = self.node(self.volume(name).root)
        while node.level:
            node = self.node(node.vals[max(bisect_right(node.keys, key) - 1, 0)])
        return node

    def node(self, node_id: int) -> Node:
        return decode(node_id, self.meta.read_node(node_id), self.seed)

    def store(self, node: Node) -> None:
        node.size = sum(
            record_bytes(node.level, k, v) for k, v in zip(node.keys, node.vals, strict=True)
        )
        self.put_node(node.id, encode(node, self.seed))

    def set_record(self, name: str, key: bytes, value: bytes | None) -> None:
        """Put a record into the leaf where it belongs, or take it out (None)."""
        node = self.leaf(name, key)
        at = bisect_left(node.keys, key)
        if at < len(node.keys) and node.keys[at] == key:
            del node.keys[at], node.vals[at]
        if value is not None:
            node.keys.insert(at, key)
            node.vals.insert(at, value)  # type: ignore[arg-type]
        self.store(node)

    def record(self, name: str, key: bytes) -> bytes:
        node = self.leaf(name, key)
        return node.vals[node.keys.index(key)]  # type: ignore[return-value]

    def inode(self, name: str, ino: int) -> Inode:
        return Inode.unpack(ino, self.record(name, keys.inode_key(ino)))

    def set_inode(self, name: str, ino: int, /, **changes: int) -> None:
        inode = self.inode(name, ino)
        for field, value in changes.items():
            setattr(inode, field, value)
        self.set_record(name, keys.inode_key(ino), inode.pack())

    # --- extent nodes

    def extent(self, node_id: int) -> tuple[list[int], list[tuple[int, int]]]:
        """(header fields, entries)."""
        raw = self.meta.read_node(node_id)
        return list(HEADER.unpack_from(raw)), list(ENTRY.iter_unpack(raw[HEADER_BYTES:]))

    def set_extent(self, node_id: int, header: list[int], words: list[tuple[int, int]]) -> None:
        header = [*header[:6], 0, *header[7:]]
        raw = bytearray(HEADER.pack(*header) + b"".join(ENTRY.pack(*pair) for pair in words))
        raw[24:32] = xxhash.xxh3_64_intdigest(raw, self.seed).to_bytes(8, "little")
        self.put_node(node_id, bytes(raw))

    def first_leaf(self, root: int) -> int:
        """The leaf of a map's first block."""
        header, words = self.extent(root)
        return self.first_leaf(words[0][0]) if header[2] else root


def fingerprint(path: Path) -> dict[str, bytes]:
    """Every file of a store but LMDB's table of readers, by content."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).digest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock.mdb"
    }
