"""A quota on referenced bytes: checked before anything changes, by every way in."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, Volume, errors

BLOCK = 4096


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store", slab_slots=4096)
    with Store.open(tmp_path / "store") as made:
        made.create_volume("free")
        made.create_volume("lab", quota_bytes=100 * BLOCK)
        yield made


def filled(volume: Volume, name: bytes, blocks: int) -> int:
    ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
    volume.write(ino, 0, os.urandom(blocks * BLOCK))
    return ino


def test_a_write_past_the_quota_changes_nothing(store: Store) -> None:
    lab = store.volume("lab")
    ino = filled(lab, b"a", 90)
    before = lab.read(ino, 0, 1 << 20)
    with pytest.raises(errors.QuotaExceeded, match="quota"):
        lab.write(ino, 85 * BLOCK, os.urandom(16 * BLOCK))
    assert lab.read(ino, 0, 1 << 20) == before
    lab.write(ino, 85 * BLOCK, os.urandom(15 * BLOCK))
    assert lab.referenced_bytes == 100 * BLOCK


def test_overwrites_truncates_and_deletes_always_go(store: Store) -> None:
    lab = store.volume("lab")
    ino = filled(lab, b"a", 100)
    lab.write(ino, 0, os.urandom(100 * BLOCK))
    lab.write(ino, 10, b"patched")
    with pytest.raises(errors.QuotaExceeded):
        lab.write(ino, 100 * BLOCK, b"x")
    lab.setattr(ino, size=50 * BLOCK)
    lab.write(ino, 50 * BLOCK, os.urandom(50 * BLOCK))
    lab.unlink(ROOT_INO, b"a")
    filled(lab, b"b", 100)


def clone_file(store: Store, ino: int) -> None:
    store.clone_file(store.volume("free"), ino, store.volume("lab"), ROOT_INO, b"new")


def clone_tree(store: Store, ino: int) -> None:
    store.clone_tree(store.volume("free"), ROOT_INO, store.volume("lab"), ROOT_INO, b"new")


def clone_range(store: Store, ino: int) -> None:
    lab = store.volume("lab")
    target = lab.lookup(ROOT_INO, b"a").ino
    store.clone_range(store.volume("free"), ino, 0, lab, target, 60 * BLOCK, 41 * BLOCK)


def publish(store: Store, ino: int) -> None:
    lab = store.volume("lab")
    staged = lab.create_staged(0o644, 0, 0)
    lab.write(staged.ino, 0, os.urandom(41 * BLOCK))
    try:
        lab.publish(staged.ino, ROOT_INO, b"new")
    finally:
        lab.release(staged.ino)


@pytest.mark.parametrize("way", [clone_file, clone_tree, clone_range, publish])
def test_every_way_in_is_checked(store: Store, way: Callable[[Store, int], None]) -> None:
    lab = store.volume("lab")
    filled(lab, b"a", 60)
    source = filled(store.volume("free"), b"source", 41)
    with pytest.raises(errors.QuotaExceeded):
        way(store, source)
    assert [e.name for e in lab.readdir(ROOT_INO)] == [b"a"]
    assert lab.referenced_bytes == 60 * BLOCK
    store.set_quota("lab", 101 * BLOCK)
    way(store, source)
    assert lab.referenced_bytes == 101 * BLOCK


def test_a_quota_survives_and_a_clone_has_none(store: Store, tmp_path: Path) -> None:
    store.clone_volume(store.volume("lab"), "twin")
    store.close()
    with Store.open(tmp_path / "store") as again:
        assert again.volume("lab").quota_bytes == 100 * BLOCK
        assert again.volume("twin").quota_bytes == 0


def test_domains_limit_dedup_and_not_cloning(store: Store) -> None:
    data = os.urandom(8 * BLOCK)
    private = [store.create_volume(f"private-{n}", own_domain=True) for n in range(2)]
    volumes = [store.volume("free"), store.volume("lab"), *private]
    for volume in volumes:
        for name in (b"a", b"b"):
            ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
            volume.write(ino, 0, data)
    assert store.pool.core.allocated_slots == 3 * 8  # shared, private-0, private-1
    clone = store.clone_file(private[0], private[0].lookup(ROOT_INO, b"a").ino, private[1],
                             ROOT_INO, b"clone")  # fmt: skip
    assert store.pool.core.allocated_slots == 3 * 8
    assert private[1].read(clone.ino, 0, 1 << 20) == data
    twin = store.clone_volume(private[0], "twin")
    twin.write(twin.create(ROOT_INO, b"c", 0o644, 0, 0).ino, 0, data)
    assert store.pool.core.allocated_slots == 4 * 8  # a clone has a domain of its own
