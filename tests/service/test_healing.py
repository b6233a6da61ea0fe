"""Bad blocks healed from a copy: only what was asked for, and never in the bad slot."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import content, overwrite, slots_of

from engine import ROOT_INO, Store, Volume, errors, fsck
from engine.heal import heal, heal_everywhere
from engine.scrub import scrub
from service.addresses import Context
from service.healing import scrub_repair
from service.steps import run_here

BLOCK = 4096
DATA = os.urandom(40 * BLOCK - 1000)
BAD = (0, 7, 8, 33, 39)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A file with five bad blocks, its clone, a snapshot of both, a range of it elsewhere."""
    Store.create(tmp_path / "store", fanout=4, records_max=6, slab_slots=64)
    (tmp_path / "good").write_bytes(DATA)
    with Store.open(tmp_path / "store") as opened:
        lab = opened.create_volume("lab")
        inode = lab.create(ROOT_INO, b"f", 0o644, 0, 0)
        lab.write(inode.ino, 0, DATA)
        opened.clone_file(lab, inode.ino, lab, ROOT_INO, b"twin")
        part = lab.create(ROOT_INO, b"part", 0o644, 0, 0)
        opened.clone_range(lab, inode.ino, 32 * BLOCK, lab, part.ino, BLOCK, 3 * BLOCK)
        opened.create_snapshot(lab, "monday")
        opened.commit()
        for block in BAD:
            overwrite(opened, slots_of(lab, inode)[block], os.urandom(BLOCK))
        yield opened
        opened.commit()
        assert fsck.check(opened).findings == []


def repaired(store: Store, address: str, good: object, *, everywhere: bool = False) -> dict:
    steps = scrub_repair(Context(store), address, str(good), everywhere)
    return run_here(steps, store.commit, lambda: None)


def reads(volume: Volume, path: str) -> bool:
    try:
        return volume.read(volume.resolve(path).ino, 0, 1 << 20) == DATA
    except errors.Corrupt:
        return False


def test_only_the_file_that_was_named_is_healed(store: Store, tmp_path: Path) -> None:
    lab = store.volume("lab")
    old = slots_of(lab, lab.resolve("/f"))
    bad = {block: content(store, old[block]) for block in BAD}
    told = repaired(store, "lab:/f", tmp_path / "good")
    assert (told["bad_blocks"], told["healed"], told["not_healed"]) == (5, 5, [])
    assert reads(lab, "/f")
    assert not reads(lab, "/twin")
    assert not reads(store.snapshot(lab, "monday"), "/f")
    new = slots_of(lab, lab.resolve("/f"))
    assert {block for block in range(40) if new[block] != old[block]} == set(BAD)
    assert {block: content(store, old[block]) for block in BAD} == bad, "a bad slot was written to"


def test_everywhere_heals_snapshots_clones_and_ranges_and_keeps_their_sharing(
    store: Store, tmp_path: Path
) -> None:
    lab = store.volume("lab")
    monday = store.snapshot(lab, "monday")
    roots = [v.resolve(p).root for v, p in ((lab, "/f"), (lab, "/twin"), (monday, "/f"))]
    before = store.pool.core.allocated_slots
    told = repaired(store, "lab:/f", tmp_path / "good", everywhere=True)
    assert told["also_healed"] == [
        "lab:/part", "lab:/twin", "lab@monday:/f", "lab@monday:/part", "lab@monday:/twin",
    ]  # fmt: skip
    store.commit()
    assert scrub(store.pool).clean
    assert reads(lab, "/f")
    assert reads(lab, "/twin")
    assert reads(monday, "/f")
    assert lab.read(lab.resolve("/part").ino, 2 * BLOCK, BLOCK) == DATA[33 * BLOCK : 34 * BLOCK]
    assert [v.resolve(p).root for v, p in ((lab, "/f"), (lab, "/twin"), (monday, "/f"))] == roots
    assert store.pool.core.allocated_slots <= before + len(BAD) + 1
    store.gc()
    assert scrub(store.pool).clean
    lab.write(lab.resolve("/f").ino, 0, bytes(BLOCK))
    assert reads(lab, "/twin"), "a write to one healed file reached another"


def test_a_copy_that_differs_heals_nothing(store: Store, tmp_path: Path) -> None:
    wrong = bytearray(DATA)
    wrong[7 * BLOCK] ^= 1
    (tmp_path / "wrong").write_bytes(wrong[: 33 * BLOCK])
    told = repaired(store, "lab:/f", tmp_path / "wrong")
    assert told["healed"] == 2
    assert [each["block"] for each in told["not_healed"]] == [7, 33, 39]
    assert not reads(store.volume("lab"), "/f")


def test_another_file_of_the_store_can_be_the_copy(store: Store) -> None:
    lab = store.volume("lab")
    copy = lab.create(ROOT_INO, b"copy", 0o644, 0, 0)
    lab.write(copy.ino, 0, DATA)
    assert repaired(store, "lab:/f", "lab:/copy")["healed"] == 5
    assert reads(lab, "/f")
    told = repaired(store, "lab:/twin", "lab@monday:/f")
    assert (told["healed"], len(told["not_healed"])) == (0, 5), "its copy has the same bad blocks"


def test_a_snapshot_is_healed_only_with_all_that_share_it(store: Store, tmp_path: Path) -> None:
    with pytest.raises(errors.ReadOnly):
        repaired(store, "lab@monday:/f", tmp_path / "good")
    repaired(store, "lab@monday:/f", tmp_path / "good", everywhere=True)
    assert reads(store.snapshot(store.volume("lab"), "monday"), "/f")


def test_a_block_that_was_written_meanwhile_is_left_alone(store: Store) -> None:
    lab = store.volume("lab")
    inode = lab.resolve("/f")
    plan = store.pool.core.plan_read(lab.data_tree(inode), 7, 1)
    old = (plan.addresses[0], plan.checksums[0])
    lab.write(inode.ino, 7 * BLOCK, b"n" * BLOCK)
    good = DATA[7 * BLOCK : 8 * BLOCK]
    for change in (heal, heal_everywhere):
        assert not change(lab, inode.ino, 7, *old, good)
    assert lab.read(inode.ino, 7 * BLOCK, BLOCK) == b"n" * BLOCK


def test_a_healed_block_stays_in_its_dedup_domain(store: Store, tmp_path: Path) -> None:
    own = store.create_volume("own", own_domain=True)
    inode = own.create(ROOT_INO, b"f", 0o644, 0, 0)
    data = os.urandom(BLOCK)
    own.write(inode.ino, 0, data)
    store.commit()
    overwrite(store, slots_of(own, inode)[0], os.urandom(BLOCK))
    (tmp_path / "own").write_bytes(data)
    assert repaired(store, "own:/f", tmp_path / "own")["healed"] == 1
    lab = store.volume("lab")
    other = lab.create(ROOT_INO, b"other", 0o644, 0, 0)
    lab.write(other.ino, 0, data)
    assert slots_of(lab, other) != slots_of(own, inode)
