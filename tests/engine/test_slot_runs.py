"""Slots that were freed together are taken again together, and none while it holds a block."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import ROOT_INO, Store, Volume, fsck

BLOCK = 4096
FILE_BLOCKS = 1024


def slots(store: Store, volume: Volume, ino: int) -> list[tuple[int, int]]:
    tree = volume.data_tree(volume.inode(ino))
    return [(e.address, e.count) for e in store.pool.core.lookup(tree, 0, FILE_BLOCKS)]


def test_what_was_freed_in_runs_is_taken_next_and_in_order(tmp_path: Path) -> None:
    Store.create(tmp_path / "store", slab_slots=16_384)
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        inodes = [lab.create(ROOT_INO, b"%d" % n, 0o644, 0, 0).ino for n in range(3)]
        for ino in inodes:
            lab.write(ino, 0, os.urandom(256 * BLOCK))
        before = slots(store, lab, inodes[1])
        store.commit()
        lab.write(inodes[1], 0, os.urandom(256 * BLOCK))
        assert slots(store, lab, inodes[1]) != before  # they are free when that is durable
        store.commit()
        ino = lab.create(ROOT_INO, b"new", 0o644, 0, 0).ino
        lab.write(ino, 0, os.urandom(100 * BLOCK))
        lab.write(ino, 100 * BLOCK, os.urandom(156 * BLOCK))
        assert slots(store, lab, ino) == before
        store.commit()
        assert fsck.check(store, data=True).clean


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("write", "write", "write", "punch", "commit", "backed", "trim", "clone")),
        st.integers(0, FILE_BLOCKS - 1), st.integers(1, 300), st.integers(0, 3),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=60)
@given(STEPS, st.integers(0, 1 << 30))
def test_no_slot_is_taken_that_holds_a_block(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, int]], seed: int
) -> None:
    path = tmp_path_factory.mktemp("runs") / "store"
    choose = random.Random(seed)
    Store.create(path, slab_slots=1024)  # runs end where slabs do
    with Store.open(path) as store:
        lab = store.create_volume("lab")
        model = {
            lab.create(ROOT_INO, b"%d" % n, 0o644, 0, 0).ino: bytearray(FILE_BLOCKS * BLOCK)
            for n in range(4)
        }
        inodes = list(model)
        for ino in inodes:
            lab.setattr(ino, size=FILE_BLOCKS * BLOCK)
        for what, first, count, which in steps:
            ino = inodes[which]
            at, end = first * BLOCK, min(first + count, FILE_BLOCKS) * BLOCK
            if what == "write":
                model[ino][at:end] = data = choose.randbytes(end - at)
                lab.write(ino, at, data)
            elif what == "punch":
                model[ino][at:end] = bytes(end - at)
                lab.punch(ino, at, end - at)
            elif what == "clone":
                other = inodes[which - 1]
                store.clone_range(lab, other, at, lab, ino, at, end - at)
                model[ino][at:end] = model[other][at:end]
            elif what == "commit":
                store.commit()
            elif what == "backed":
                store.pool.core.learn_holes()
                store.pool.core.backed_first(on=count % 2 == 0)
            else:
                store.trim()
        for ino, content in model.items():
            assert lab.read(ino, 0, len(content)) == content
        store.commit()
        assert fsck.check(store, data=True).clean
