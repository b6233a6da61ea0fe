"""Scrub finds every bad block, names whose it is, and takes nothing good for bad."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import content, flip, overwrite, place, slots_of

from engine import ROOT_INO, Inode, Store, Volume, errors
from engine.scrub import Scrub, ScrubResult, scrub

BLOCK = 4096


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store", fanout=4, records_max=4, slab_slots=64)
    with Store.open(tmp_path / "store") as opened:
        opened.create_volume("lab")
        yield opened


def make(volume: Volume, name: bytes, blocks: int, parent: int = ROOT_INO) -> Inode:
    inode = volume.create(parent, name, 0o644, 0, 0)
    volume.write(inode.ino, 0, os.urandom(blocks * BLOCK))
    return inode


def owners(result: ScrubResult) -> dict[str, list[int]]:
    return {str(o): sorted(h.block for h in o.hits if not h.lost) for o in result.owners}


def test_a_sound_store_is_clean_and_each_slot_is_read_once(store: Store) -> None:
    lab = store.volume("lab")
    inode = make(lab, b"f", 300)
    for n in range(20):
        store.clone_file(lab, inode.ino, lab, ROOT_INO, b"c%d" % n)
    store.create_snapshot(lab, "s")
    store.clone_volume(lab, "other")
    store.commit()
    result = scrub(store.pool)
    assert result.clean
    assert result.blocks_checked == 300
    assert result.owners == []


@pytest.mark.parametrize("window_slots", [64, 100, 1 << 20])
def test_every_kind_of_bad_block_is_found_in_windows_of_any_size(
    store: Store, window_slots: int
) -> None:
    lab = store.volume("lab")
    inode = make(lab, b"f", 200)
    slots = slots_of(lab, inode)
    store.commit()
    overwrite(store, slots[3], bytes(BLOCK))
    overwrite(store, slots[70], content(store, slots[71]))
    flip(store, slots[150], random.Random(1))
    fd, at = place(store, slots[199])
    os.ftruncate(fd, at + 100)
    result = scrub(store.pool, window_slots=window_slots)
    assert owners(result) == {"lab:/f": [3, 70, 150, 199]}
    assert result.bad_blocks == 4
    assert result.blocks_checked == 200


def test_all_whose_block_it_is_are_named(store: Store) -> None:
    lab = store.volume("lab")
    vm = lab.mkdir(ROOT_INO, b"vm", 0o755, 0, 0)
    inode = make(lab, b"disk", 40, vm.ino)
    bad = slots_of(lab, inode)[33]
    store.create_snapshot(lab, "monday")
    store.clone_file(lab, inode.ino, lab, ROOT_INO, b"twin")
    store.clone_range(lab, inode.ino, 33 * BLOCK, lab, make(lab, b"part", 9).ino, 5 * BLOCK, BLOCK)
    store.clone_volume(store.snapshot(lab, "monday"), "test")
    lab.link(inode.ino, ROOT_INO, b"second")
    lab.unlink(ROOT_INO, b"second")  # the last name made is gone: an older one is told
    held = store.clone_file(lab, inode.ino, lab, ROOT_INO, b"gone").ino
    lab.hold(held)
    lab.unlink(ROOT_INO, b"gone")
    store.commit()
    flip(store, bad, random.Random(2))
    result = scrub(store.pool)
    assert owners(result) == {
        "lab:/vm/disk": [33], "lab:/twin": [33], "lab:/part": [5], "lab@monday:/vm/disk": [33],
        "test:/vm/disk": [33], f"lab: deleted inode {held}": [33],
    }  # fmt: skip
    assert result.bad_blocks == 1
    lab.release(held)


def test_a_block_that_two_maps_check_differently_is_bad_for_one_of_them(store: Store) -> None:
    """Stale content of a slot that was reused: the newer map is right, the older one is not."""
    lab = store.volume("lab")
    first = make(lab, b"a", 1)
    store.commit()
    [slot] = slots_of(lab, first)
    new = os.urandom(BLOCK)
    overwrite(store, slot, new)
    store.pool.core.index_insert(store.pool.core.hash(new), slot)
    second = lab.create(ROOT_INO, b"b", 0o644, 0, 0)
    lab.write(second.ino, 0, new)
    assert slots_of(lab, second) == [slot]
    store.commit()
    assert owners(scrub(store.pool)) == {"lab:/a": [0]}


def test_damaged_nodes_are_named_and_gone_around(store: Store) -> None:
    lab = store.volume("lab")
    inode, other = make(lab, b"f", 60), make(lab, b"g", 60)
    store.commit()
    reader = store.pool.reader()
    root = bytes(reader.node(inode.root))
    reader.close()
    store.pool.meta.write([(inode.root, root[:-1] + b"\xff")], [], [], [])
    flip(store, slots_of(lab, other)[7], random.Random(3))
    result = scrub(store.pool)
    assert (result.bad_nodes, result.bad_blocks) == (1, 1)
    assert owners(result) == {"lab:/f": [], "lab:/g": [7]}


def test_slots_reused_while_the_scrub_runs_are_not_taken_for_bad(store: Store) -> None:
    lab = store.volume("lab")
    inode = make(lab, b"f", 128)
    store.commit()
    run = Scrub(store.pool)
    assert run.open()
    run.mark()
    lab.write(inode.ino, 0, os.urandom(128 * BLOCK))
    store.commit()
    lab.write(inode.ino, 0, os.urandom(128 * BLOCK))
    store.commit()
    assert len(store.pool.core.index_export()) > 0
    for read in run.reads():
        read()
    assert run._suspects, "the old slots should look bad until they are judged"
    run.open_names()
    run.name()
    run.close()
    assert run.result.clean
    assert run.result.owners == []


def test_scrub_asks_for_a_commit_first(store: Store) -> None:
    make(store.volume("lab"), b"f", 1)
    with pytest.raises(errors.Busy):
        scrub(store.pool)


def test_clones_of_a_bad_file_share_one_walk_of_its_map(store: Store) -> None:
    lab = store.volume("lab")
    inode = make(lab, b"f", 16)
    bad = slots_of(lab, inode)[5]
    for n in range(500):
        store.clone_file(lab, inode.ino, lab, ROOT_INO, b"c%d" % n)
    store.commit()
    flip(store, bad, random.Random(4))
    result = scrub(store.pool)
    assert len(result.owners) == 501
    assert len({id(owner.hits) for owner in result.owners}) == 1
