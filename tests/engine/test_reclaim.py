"""What is deleted comes back without gc, a little at a time, whatever happens in between."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_store import small_store

from engine import ROOT_INO, Store, Volume, fsck

BLOCK = 4096
TIB = 1 << 40


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with small_store(tmp_path, "lab", slab_slots=1024) as made:
        yield made


def filled(volume: Volume, name: bytes, blocks: int = 50) -> int:
    ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
    volume.write(ino, 0, os.urandom(blocks * BLOCK))
    return ino


def garbage(store: Store) -> int:
    """Slots that are allocated and that nothing reaches, after a commit."""
    store.commit()
    report = fsck.check(store, data=True)
    assert report.findings == []
    return report.garbage_slots


def queue(store: Store) -> int:
    return len(store.pool.reclaim)


def test_a_deleted_file_comes_back_without_gc(store: Store) -> None:
    lab = store.volume("lab")
    kept = filled(lab, b"kept", 10)
    filled(lab, b"gone")
    store.commit()
    lab.unlink(ROOT_INO, b"gone")
    assert queue(store) == 1
    assert store.pool.core.allocated_slots == 60
    assert store.reclaim()
    assert store.pool.core.allocated_slots == 10
    assert garbage(store) == 0
    assert len(lab.read(kept, 0, 1 << 20)) == 10 * BLOCK
    assert store.gc().nodes_freed == 0  # the nodes went as well


@pytest.mark.parametrize("size", [0, 3 * BLOCK + 5, TIB // 2])
def test_a_cut_of_a_huge_file_takes_few_steps(store: Store, size: int) -> None:
    lab = store.volume("lab")
    ino = lab.create(ROOT_INO, b"huge", 0o644, 0, 0).ino
    lab.setattr(ino, size=TIB)
    places = [n * (TIB // 64) for n in range(64)]
    for at in places:
        lab.write(ino, at, os.urandom(2 * BLOCK))
    store.commit()
    lab.setattr(ino, size=size)
    height = 20
    assert queue(store) <= 3 * height
    assert store.reclaim()
    stays = sum(2 for at in places if at < size)
    assert store.pool.core.allocated_slots == stays
    assert garbage(store) == 0


def test_the_queue_goes_on_after_a_crash(store: Store, tmp_path: Path) -> None:
    lab = store.volume("lab")
    filled(lab, b"gone", 200)
    store.commit()
    lab.unlink(ROOT_INO, b"gone")
    for _ in range(20):
        store.pool.reclaim.step(0)
    store.commit()
    left = queue(store)
    assert left
    for _ in range(20):
        store.pool.reclaim.step(0)  # not committed: done again
    store.abandon()
    with Store.open(tmp_path / "store") as again:
        assert queue(again) == left
        assert again.reclaim()
        assert again.pool.core.allocated_slots == 0
        assert garbage(again) == 0


def test_what_a_clone_shares_stays(store: Store) -> None:
    lab = store.volume("lab")
    ino = filled(lab, b"golden")
    golden = lab.read(ino, 0, 1 << 20)
    clone = store.clone_file(lab, ino, lab, ROOT_INO, b"clone").ino
    lab.write(ino, 7 * BLOCK, os.urandom(BLOCK))
    lab.unlink(ROOT_INO, b"golden")
    debt = store.pool.core.debt_blocks
    assert store.reclaim()
    assert store.pool.core.debt_blocks > debt
    assert lab.read(clone, 0, 1 << 20) == golden
    assert (
        store.pool.core.allocated_slots == 50
    )  # the one block that was the golden image's own went
    assert garbage(store) == 0
    lab.unlink(ROOT_INO, b"clone")
    assert store.reclaim()
    assert store.gc().slots_freed == 50  # nobody can tell whose it was but gc


def test_what_dedup_shares_stays(store: Store) -> None:
    lab = store.volume("lab")
    first, second = filled(lab, b"a"), lab.create(ROOT_INO, b"b", 0o644, 0, 0).ino
    lab.write(second, 0, lab.read(first, 0, 20 * BLOCK))
    lab.unlink(ROOT_INO, b"a")
    assert store.reclaim()
    assert store.pool.core.allocated_slots == 20
    assert garbage(store) == 0


def test_an_unlinked_open_file_comes_back_when_it_is_closed(store: Store, tmp_path: Path) -> None:
    lab = store.volume("lab")
    for name in (b"a", b"b"):
        lab.hold(filled(lab, name))
        lab.unlink(ROOT_INO, name)
    assert queue(store) == 0
    lab.release(lab.pool.state.next_ino - 2)
    assert store.reclaim()
    assert store.pool.core.allocated_slots == 50
    store.commit()
    store.abandon()  # the other one was open in a crash
    with Store.open(tmp_path / "store") as again:
        assert again.reclaim()
        assert again.pool.core.allocated_slots == 0
        assert garbage(again) == 0


def test_a_removed_volume_comes_back(store: Store) -> None:
    gone, kept = store.create_volume("gone"), store.create_volume("kept")
    for n in range(20):
        filled(gone, b"%d" % n, 5)
    filled(kept, b"a", 5)
    store.commit()
    store.remove_volume("gone")
    assert store.reclaim()
    assert store.pool.core.allocated_slots == 5
    assert garbage(store) == 0
    assert store.gc().nodes_freed == 0


def test_a_restore_gives_back_what_was_written_since(store: Store) -> None:
    lab = store.volume("lab")
    filled(lab, b"a")
    store.create_snapshot(lab, "s")
    filled(lab, b"b")
    store.commit()
    store.restore(lab, "s")
    assert store.reclaim()
    assert store.pool.core.allocated_slots == 50
    assert garbage(store) == 0


def test_range_clones_give_back_what_they_replace(store: Store) -> None:
    lab = store.volume("lab")
    one, two = filled(lab, b"one", 64), filled(lab, b"two", 64)
    store.clone_range(lab, one, 0, lab, two, 0, 64 * BLOCK)
    assert store.reclaim()
    store.gc()
    assert store.pool.core.allocated_slots == 64
    assert garbage(store) == 0


def test_a_damaged_entry_stops_nothing(store: Store) -> None:
    lab = store.volume("lab")
    filled(lab, b"a")
    store.commit()
    lab.unlink(ROOT_INO, b"a")
    store.pool.reclaim.add_map(999_999, 3, 0)
    assert store.reclaim()
    assert store.pool.core.allocated_slots == 0
