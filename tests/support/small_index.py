"""A store whose fingerprint index has tables so small that some thousand blocks make many runs."""

import struct
from pathlib import Path

from engine import ROOT_INO, Store, Volume
from native import fingerprints as fronts
from native.fingerprints import Front

BLOCK = 4096
INDEX_SLOTS = 256
BLOCKS = 1500


def content(n: int) -> bytes:
    return struct.pack("<Q", n + 1) * (BLOCK // 8)


def contents(first: int, count: int) -> bytes:
    return b"".join(content(n) for n in range(first, first + count))


def opened(path: Path) -> Store:
    return Store.open(path, index_slots=INDEX_SLOTS)


def write(volume: Volume, name: bytes, data: bytes) -> int:
    """A file of this content; returns how many new slots it took."""
    before = volume.pool.core.allocated_slots
    ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
    for at in range(0, len(data), 64 * BLOCK):
        volume.write(ino, at, data[at : at + 64 * BLOCK])
    return volume.pool.core.allocated_slots - before


def with_a_file(path: Path) -> int:
    """BLOCKS blocks in a store, which is closed then; its hash seed."""
    with opened(path) as store:
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
        return store.pool.superblock.hash_seed


def run_count(store: Store) -> int:
    return store.fingerprints.figures().runs


def front(store: Store, part: int) -> Front:
    found = fronts.front(store.pool.core, part)
    assert found is not None
    return found


def files(path: Path) -> list[Path]:
    return sorted((path / "index").glob("*.run"))
