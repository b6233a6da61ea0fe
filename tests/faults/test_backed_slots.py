"""A full disk on which some free slots take space already, not the lowest: those are written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import OTHERS, fill, small_disk, small_tmpfs

from engine import ROOT_INO, Store, Volume, errors, fsck

BLOCK = 4096
FREED = 100  # slots that are free and take space
KINDS = ("tmpfs", "ext4", "xfs")  # where a block is overwritten in its place


@contextlib.contextmanager
def disk_of(kind: str) -> Iterator[Path]:
    with small_tmpfs() if kind == "tmpfs" else small_disk(kind) as disk:
        (disk / OTHERS).touch()
        yield disk


def opened(path: Path) -> Store:
    return Store.open(path, log_bytes=4 << 20)


@contextlib.contextmanager
def made(path: Path) -> Iterator[tuple[Store, Volume, int]]:
    """A store with a log and a file, beneath whose slots all is punched."""
    Store.create(path, slab_slots=1 << 12)
    store = opened(path)
    try:
        yield (store, *_punched_below(store))
    finally:
        store.abandon()


def _punched_below(store: Store) -> tuple[Volume, int]:
    lab = store.create_volume("lab")
    low = lab.create(ROOT_INO, b"low", 0o644, 0, 0).ino
    disk = lab.create(ROOT_INO, b"disk", 0o644, 0, 0).ino
    store.commit()
    lab.write(disk, 0, b"warm")
    store.sync()
    assert store.log.ready
    lab.write(low, 0, os.urandom(3000 * BLOCK))
    lab.write(disk, 0, os.urandom(500 * BLOCK))
    store.commit()
    lab.unlink(ROOT_INO, b"low")
    store.commit()
    store.reclaim()
    store.commit()
    assert store.trim() >= 3000 * BLOCK
    return lab, disk


def free_scattered(store: Store, lab: Volume, disk: int) -> None:
    """So many slots become free, none beside another, so that no run of them is remembered."""
    for n in range(FREED):
        lab.write(disk, 2 * n * BLOCK, os.urandom(BLOCK))
    store.commit()


def write_all(lab: Volume, disk: int, data: bytes) -> None:
    for at in range(0, len(data), 10 * BLOCK):
        lab.write(disk, at, data[at : at + 10 * BLOCK])


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_finds_them(kind: str) -> None:
    with disk_of(kind) as disk, made(disk / "store") as (store, lab, ino):
        free_scattered(store, lab, ino)
        fill(disk)
        data = os.urandom(FREED * BLOCK)
        write_all(lab, ino, data)
        with pytest.raises(errors.NoSpace):
            lab.write(ino, FREED * BLOCK, os.urandom(FREED * BLOCK))
        store.commit()
        assert lab.read(ino, 0, len(data)) == data
        write_all(lab, ino, data[::-1])  # what that commit has freed
        store.commit()
        assert fsck.check(store, data=True).clean


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_synced_finds_them_when_the_store_is_opened(kind: str) -> None:
    """The power went after the sync; what is punched is not known any more."""
    with disk_of(kind) as disk, made(disk / "store") as (store, lab, ino):
        free_scattered(store, lab, ino)
        fill(disk)
        data = os.urandom(FREED * BLOCK)
        write_all(lab, ino, data)
        commits = store.pool.state.commits
        store.sync()
        assert store.pool.state.commits == commits, "it took no commit"
        store.abandon()
        with opened(disk / "store") as again:
            found = again.volume("lab")
            assert found.read(ino, 0, len(data)) == data
            found.unlink(ROOT_INO, b"disk")
            again.commit()
            assert fsck.check(again, data=True).clean
