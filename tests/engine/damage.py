"""Damage as media do it: a store's slots and records changed behind its back."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from engine import Inode, Store, Volume
from engine.meta import MAP_BYTES, TABLES

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


@contextmanager
def tables(path: Path) -> Iterator[Callable[[str], "lmdb._Database"]]:
    """The tables of a closed store, in one write transaction kept as ``tables.txn``."""
    env = lmdb.open(str(path / "meta"), map_size=MAP_BYTES, max_dbs=len(TABLES) + 8)
    try:
        yield lambda name: env.open_db(name.encode(), create=False, integerkey=name == "nodes")
    finally:
        env.close()
