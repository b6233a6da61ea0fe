"""A block whose content is not what its map says: EIO, never bad bytes, and what heals it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import content, overwrite, slots_of

from engine import ROOT_INO, Inode, Store, Volume, errors

BLOCK = 4096
OLD, NEW = b"a" * BLOCK, b"b" * BLOCK


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as opened:
        opened.create_volume("lab")
        yield opened


def make(store: Store, data: bytes) -> tuple[Volume, Inode]:
    lab = store.volume("lab")
    inode = lab.create(ROOT_INO, b"f", 0o644, 0, 0)
    lab.write(inode.ino, 0, data)
    return lab, inode


def test_a_known_block_written_over_its_own_misdirected_copy_heals(store: Store) -> None:
    """The index knows the new content in the very slot that the old, damaged entry names."""
    lab, inode = make(store, OLD)
    [slot] = slots_of(lab, inode)
    overwrite(store, slot, NEW)
    store.pool.core.index_insert(store.pool.core.hash(NEW), slot)
    with pytest.raises(errors.Corrupt):
        lab.read(inode.ino, 0, BLOCK)
    lab.write(inode.ino, 0, NEW)
    assert lab.read(inode.ino, 0, BLOCK) == NEW
    assert store.pool.core.shared(slot)


def test_a_good_copy_written_again_takes_a_new_slot(store: Store) -> None:
    lab, inode = make(store, OLD + NEW)
    bad, _ = slots_of(lab, inode)
    store.commit()
    overwrite(store, bad, os.urandom(BLOCK))
    lab.write(inode.ino, 0, OLD)
    assert slots_of(lab, inode)[0] != bad
    assert lab.read(inode.ino, 0, 2 * BLOCK) == OLD + NEW


def test_a_rewrite_heals_only_the_reference_that_wrote_it(store: Store) -> None:
    lab, inode = make(store, OLD)
    twin = store.clone_file(lab, inode.ino, lab, ROOT_INO, b"g")
    [bad] = slots_of(lab, inode)
    overwrite(store, bad, os.urandom(BLOCK))
    lab.write(inode.ino, 0, OLD)
    assert lab.read(inode.ino, 0, BLOCK) == OLD
    with pytest.raises(errors.Corrupt):
        lab.read(twin.ino, 0, BLOCK)


def test_a_partial_write_over_a_bad_block_is_refused_and_changes_nothing(store: Store) -> None:
    lab, inode = make(store, OLD + NEW)
    bad, _ = slots_of(lab, inode)
    junk = os.urandom(BLOCK)
    overwrite(store, bad, junk)
    for offset, length in ((0, 10), (100, 50), (BLOCK - 1, 2)):
        with pytest.raises(errors.Corrupt):
            lab.write(inode.ino, offset, b"x" * length)
    assert content(store, bad) == junk
    assert lab.read(inode.ino, BLOCK, BLOCK) == NEW
    lab.write(inode.ino, 0, b"x" * BLOCK)
    assert lab.read(inode.ino, 0, 2 * BLOCK) == b"x" * BLOCK + NEW


def test_dedup_never_hands_out_a_damaged_slot(store: Store) -> None:
    lab, inode = make(store, OLD)
    [bad] = slots_of(lab, inode)
    overwrite(store, bad, NEW)
    other = lab.create(ROOT_INO, b"g", 0o644, 0, 0)
    lab.write(other.ino, 0, OLD)
    assert slots_of(lab, other) != [bad]
    assert lab.read(other.ino, 0, BLOCK) == OLD


def test_a_read_that_fails_returns_no_byte_and_is_counted_and_named(store: Store) -> None:
    lab, inode = make(store, OLD + NEW)
    _, bad = slots_of(lab, inode)
    overwrite(store, bad, OLD)
    buffer = memoryview(bytearray(2 * BLOCK))
    with pytest.raises(errors.Corrupt):
        lab.read(inode.ino, 0, 2 * BLOCK)
    with pytest.raises(errors.Corrupt):
        lab.read_into(inode.ino, BLOCK + 7, buffer[:9])
    assert bytes(buffer[:9]) == bytes(9)
    assert store.pool.corrupt_reads.count == 2
    assert list(store.pool.corrupt_reads.latest) == [("lab:/f", 1, bad)] * 2
