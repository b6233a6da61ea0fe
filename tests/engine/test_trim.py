"""Free slots give their space back to the host's file system, and only free ones."""

import os
from pathlib import Path

from engine import ROOT_INO, Store, fsck
from engine.trim import Trim

BLOCK = 4096
MIB = 1 << 20


def on_disk(store: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (store / "slabs").iterdir())


def test_the_space_of_what_is_deleted_goes_back_to_the_host(tmp_path: Path) -> None:
    path = tmp_path / "store"
    Store.create(path, slab_slots=16_384)
    with Store.open(path) as store:
        lab = store.create_volume("lab")
        kept = lab.create(ROOT_INO, b"kept", 0o644, 0, 0).ino
        data = os.urandom(MIB)
        lab.write(kept, 0, data)
        gone = lab.create(ROOT_INO, b"gone", 0o644, 0, 0).ino
        for n in range(48):
            lab.write(gone, n * MIB, os.urandom(MIB))
        store.commit()
        full = store.space()
        lab.unlink(ROOT_INO, b"gone")
        store.reclaim()
        assert store.trim() < 48 * MIB  # the commit that frees them is not durable
        store.commit()
        assert store.trim() >= 48 * MIB
        assert store.trim() == 0
        assert on_disk(path) <= MIB + 64 * 1024
        store.pool.generation += 1  # the figures are taken once a commit
        empty = store.space()
        assert full.physical_bytes - empty.physical_bytes == 48 * MIB
        assert lab.read(kept, 0, MIB) == data
        again = lab.create(ROOT_INO, b"again", 0o644, 0, 0).ino
        lab.write(again, 0, data[::-1])
        store.commit()
        assert lab.read(again, 0, MIB) == data[::-1]
        assert fsck.check(store, data=True).clean


def test_slots_that_are_being_punched_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "store"
    Store.create(path, slab_slots=1024)
    with Store.open(path) as store:
        lab = store.create_volume("lab")
        ino = lab.create(ROOT_INO, b"a", 0o644, 0, 0).ino
        lab.write(ino, 0, os.urandom(BLOCK))
        trim = Trim(store.pool)
        runs = trim.take()
        assert sum(run.slots for run in runs) == 1023
        data = os.urandom(64 * BLOCK)
        lab.write(ino, 0, data)  # goes to a slab of its own
        trim.punch(runs)
        trim.give(runs, punched=True)
        assert lab.read(ino, 0, len(data)) == data
        assert store.pool.state.slabs == 2


def test_a_slot_that_a_reader_may_still_read_is_not_punched(tmp_path: Path) -> None:
    path = tmp_path / "store"
    Store.create(path, slab_slots=1024)
    with Store.open(path) as store:
        lab = store.create_volume("lab")
        ino = lab.create(ROOT_INO, b"a", 0o644, 0, 0).ino
        data = os.urandom(64 * BLOCK)
        lab.write(ino, 0, data)
        store.commit()
        plan = store.pool.core.plan_read(lab.data_tree(lab.file(ino)), 0, 64)
        pin = store.pool.pin()
        lab.punch(ino, 0, 64 * BLOCK)
        store.reclaim()
        store.commit()
        store.trim()
        seen = bytearray(64 * BLOCK)
        store.pool.core.run_read(plan, 0, seen)
        assert seen == data
        store.pool.unpin(pin)
        store.release_freed()
        assert store.trim() >= 64 * BLOCK
