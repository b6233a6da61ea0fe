"""Blocks with equal hashes and different bytes are never taken for each other.

1,250 pairs over five seeds, each store's own: the hash is equal by construction (collisions.py), so
what keeps the blocks apart is the comparison of bytes, in each of the three places where a write
may find an equal block.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
from collisions import BLOCK, pairs

from engine import ROOT_INO, Store, Volume, fsck

SEEDS = 5
PAIRS = 250

Pair = tuple[bytes, bytes]
Way = Callable[[Store, Volume, list[Pair]], dict[str, bytes]]


@pytest.fixture(params=range(SEEDS))
def path(tmp_path: Path) -> Path:
    """A store with a seed of its own, small nodes and small slabs."""
    Store.create(tmp_path / "s", fanout=4, records_max=16, slab_slots=512)
    return tmp_path / "s"


def make(volume: Volume, name: str, content: bytes) -> int:
    ino = volume.create(ROOT_INO, name.encode(), 0o644, 0, 0).ino
    volume.write(ino, 0, content)
    return ino


def in_two_calls(store: Store, volume: Volume, found: list[Pair]) -> dict[str, bytes]:
    """The second block's hash is in the index and leads to the first one's slot."""
    expected = {}
    for n, blocks in enumerate(found):
        for which, block in enumerate(blocks):
            make(volume, f"{n}.{which}", block)
            expected[f"{n}.{which}"] = block
    return expected


def in_one_call(store: Store, volume: Volume, found: list[Pair]) -> dict[str, bytes]:
    """Neither is known before: they meet in the table of one call."""
    expected = {str(n): one + two + one + two for n, (one, two) in enumerate(found)}
    for name, content in expected.items():
        make(volume, name, content)
    return expected


def one_over_the_other(store: Store, volume: Volume, found: list[Pair]) -> dict[str, bytes]:
    """The old entry's checksum is the new block's hash: that does not make it the same block."""
    expected = {}
    for n, (one, two) in enumerate(found):
        ino = make(volume, str(n), one)
        store.clone_file(volume, ino, volume, ROOT_INO, b"clone of %d" % n)
        volume.write(ino, 0, two)
        expected |= {str(n): two, f"clone of {n}": one}
    return expected


def check(volume: Volume, expected: dict[str, bytes]) -> None:
    """The contents are right, and no two different blocks lie in one slot."""
    slots: dict[int, bytes] = {}
    for name, content in expected.items():
        ino = volume.lookup(ROOT_INO, name.encode()).ino
        assert volume.read(ino, 0, len(content) + 1) == content
        for extent in volume.extents(ino):
            for i in range(extent.count):
                at = (extent.block + i) * BLOCK
                block = content[at : at + BLOCK]
                assert slots.setdefault(extent.address + i, block) == block


@pytest.mark.parametrize("write", [in_two_calls, in_one_call, one_over_the_other])
def test_equal_hashes_are_never_shared(path: Path, write: Way) -> None:
    with Store.open(path) as store:
        found = pairs(store.pool.superblock.hash_seed, PAIRS)
        volume = store.create_volume("v")
        expected = write(store, volume, found)
        check(volume, expected)
        store.commit()
        assert store.space().physical_bytes == 2 * PAIRS * BLOCK
        assert fsck.check(store, data=True).findings == []
        store.gc()
    with Store.open(path) as store:  # what the index file remembers misleads no one
        volume = store.volume("v")
        check(volume, expected)
        for n, (one, two) in enumerate(found):
            make(volume, f"again {n}", two + one)
            expected[f"again {n}"] = two + one
        check(volume, expected)
        store.commit()
        assert fsck.check(store, data=True).findings == []


@pytest.mark.parametrize("seed", [0, 1, 7, 1 << 63, (1 << 64) - 1])
def test_the_pairs_do_collide(seed: int) -> None:
    found = pairs(seed, PAIRS)
    assert len({block for blocks in found for block in blocks}) == 2 * PAIRS
    for one, two in found:
        assert xxhash.xxh3_64_digest(one, seed) == xxhash.xxh3_64_digest(two, seed)
        assert xxhash.xxh3_128_digest(one, seed) == xxhash.xxh3_128_digest(two, seed)
