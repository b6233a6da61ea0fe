"""One test for each rule that keeps data alive, each of which fails when its rule is left out.

The random walks (test_model.py) find that *something* is wrong; these say *what*.  Fan-out and
slabs are tiny, so that a handful of blocks makes several levels and ``overwrite_free_slots`` can
write to every slot that is not in use: what was freed too early reads wrong right after it.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, Volume, errors, fsck
from engine.trim import Trim

BLOCK = 4096
FANOUT = 4
SLAB_SLOTS = 64


class Rig:
    """A store with a volume ``v`` and the few moves that all tests here make."""

    def __init__(self, path: Path) -> None:
        self.path = path
        Store.create(path, fanout=FANOUT, records_max=4, slab_slots=SLAB_SLOTS)
        self.store = Store.open(path)
        self.v = self.store.create_volume("v")
        self.fills = 0

    def file(self, name: bytes, *blocks: bytes, volume: Volume | None = None) -> int:
        target = volume or self.v
        ino = target.create(ROOT_INO, name, 0o644, 0, 0).ino
        target.write(ino, 0, b"".join(blocks))
        return ino

    def slot(self, ino: int, block: int = 0) -> int:
        """The address of a block's slot."""
        for extent in self.v.extents(ino):
            if extent.block <= block < extent.block + extent.count:
                return extent.address + block - extent.block
        raise AssertionError("a hole")

    def garbage(self, name: bytes, *blocks: bytes) -> None:
        """Allocated blocks that nothing reaches: only gc finds what clones have shared."""
        ino = self.file(name, *blocks)
        self.store.clone_file(self.v, ino, self.v, ROOT_INO, b"twin")
        for each in (name, b"twin"):
            self.v.unlink(ROOT_INO, each)
        assert self.store.reclaim()

    def overwrite_free_slots(self) -> None:
        """Punch every slot that may be punched, then put new content into every slot that may be
        taken; with no commit."""
        trim = Trim(self.store.pool, run_min=1)
        while runs := trim.take():
            trim.punch(runs)
            trim.give(runs, punched=True)
        self.fills += 1
        free = self.store.pool.core.free_slots
        self.file(b"fill%d" % self.fills, *unique(free, f"fill{self.fills}"))
        assert self.store.pool.core.free_slots == 0

    def commit_and_overwrite_free_slots(self) -> None:
        """The same, after all that was freed has become free, and with nothing in memory."""
        self.store.commit()
        self.overwrite_free_slots()
        self.store.commit()
        self.forget()

    def forget(self) -> None:
        """Drop what is cached of clean state: the next access reads what is stored."""
        self.store.pool.core.forget()
        self.store.pool.nodes._nodes.clear()
        for volume in self.store.volumes():
            volume.drop_caches()

    def crash(self) -> None:
        self.store.abandon()
        self.store = Store.open(self.path)
        self.v = self.store.volume("v")

    def check(self) -> None:
        """The whole store is sound, as it is and as a crash would leave it."""
        self.store.commit()
        assert fsck.check(self.store, data=True).findings == []
        self.crash()
        assert fsck.check(self.store, data=True).findings == []


def unique(count: int, label: str) -> list[bytes]:
    """Blocks that no other call makes."""
    return [hashlib.sha256(f"{label}.{n}".encode()).digest() * (BLOCK // 32) for n in range(count)]


A, B, C, D, E, F, G, H = unique(8, "block")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "store")
    yield made
    made.check()
    made.store.close()


# --- Blocks: a freed slot is neither punched nor reused before the commit that frees it is durable
# and every read that began earlier has ended


def test_a_freed_slot_is_not_reused_before_a_commit_that_frees_it(rig: Rig) -> None:
    ino = rig.file(b"f", A, B)
    rig.store.commit()
    rig.v.write(ino, 0, C + D)
    rig.overwrite_free_slots()
    rig.crash()
    assert rig.v.read(ino, 0, 2 * BLOCK) == A + B


def test_a_freed_slot_is_not_reused_while_that_commit_is_not_durable(rig: Rig) -> None:
    ino = rig.file(b"f", A, B)
    rig.store.commit()
    rig.v.write(ino, 0, C + D)
    assert rig.store.capture() is not None
    rig.overwrite_free_slots()
    rig.crash()
    assert rig.v.read(ino, 0, 2 * BLOCK) == A + B


def test_a_slot_freed_after_the_capture_waits_for_the_next_commit(rig: Rig) -> None:
    ino = rig.file(b"f", A, B)
    commit = rig.store.capture()
    assert commit is not None
    rig.v.write(ino, 0, C + D)
    commit.write()
    rig.store.finish(commit)
    rig.overwrite_free_slots()
    rig.crash()
    assert rig.v.read(ino, 0, 2 * BLOCK) == A + B


def test_a_freed_slot_is_not_reused_while_a_read_that_began_earlier_goes_on(rig: Rig) -> None:
    core = rig.store.pool.core
    ino = rig.file(b"f", A, B)
    rig.store.commit()
    plan = core.plan_read(rig.v.data_tree(rig.v.inode(ino)), 0, 2)
    pin = rig.store.pool.pin()
    rig.v.write(ino, 0, C + D)
    rig.store.commit()
    rig.store.commit()
    rig.overwrite_free_slots()
    rig.store.commit()
    found = bytearray(2 * BLOCK)
    core.run_read(plan, 0, found)
    assert found == A + B

    assert core.pending_slots == 2
    rig.store.pool.unpin(pin)
    rig.store.release_freed()
    assert core.pending_slots == 0


def test_a_read_that_began_after_the_capture_does_not_hold_up_earlier_slots(rig: Rig) -> None:
    core = rig.store.pool.core
    ino = rig.file(b"f", A)
    rig.store.commit()
    rig.v.write(ino, 0, B)
    commit = rig.store.capture()
    assert commit is not None
    pin = rig.store.pool.pin()
    commit.write()
    rig.store.finish(commit)
    assert core.pending_slots == 0
    rig.store.pool.unpin(pin)


# --- Dedup


def test_a_dedup_hit_on_a_slot_that_is_not_allocated_is_a_miss(rig: Rig) -> None:
    first = rig.file(b"f", A)
    rig.store.commit()
    freed = rig.slot(first)
    rig.v.write(first, 0, B)
    second = rig.file(b"g", A)  # the fingerprint is known, and the slot still holds these bytes
    assert rig.slot(second) != freed
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(second, 0, BLOCK) == A


def test_a_dedup_hit_sets_the_shared_bit(rig: Rig) -> None:
    owner, other = rig.file(b"f", A), rig.file(b"g", A)
    assert rig.slot(owner) == rig.slot(other)
    rig.v.write(owner, 0, B)
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(other, 0, BLOCK) == A


def test_equal_blocks_of_one_write_set_the_shared_bit(rig: Rig) -> None:
    ino = rig.file(b"f", A, A, A)
    rig.v.write(ino, 0, B)
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(ino, 0, 3 * BLOCK) == B + A + A


def test_the_shared_bit_is_in_the_commit_of_the_hit(rig: Rig) -> None:
    owner = rig.file(b"f", A)
    rig.store.commit()
    other = rig.file(b"g", A)
    rig.store.commit()
    rig.crash()
    assert rig.store.pool.core.shared(rig.slot(other))
    rig.v.write(owner, 0, B)
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(other, 0, BLOCK) == A


def test_dedup_is_resolved_before_what_is_overwritten_is_released(rig: Rig) -> None:
    ino = rig.file(b"f", A, B)
    slots = [rig.slot(ino, 0), rig.slot(ino, 1)]
    rig.v.write(ino, 0, B + A)
    assert [rig.slot(ino, 1), rig.slot(ino, 0)] == slots
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(ino, 0, 2 * BLOCK) == B + A


@pytest.mark.parametrize("known", [True, False])
def test_writing_what_is_there_changes_nothing(rig: Rig, known: bool) -> None:
    core = rig.store.pool.core
    ino = rig.file(b"f", A)
    rig.store.commit()
    if not known:  # the index forgets, the map does not
        core.index_insert(core.hash(A), SLAB_SLOTS - 1)
    slot = rig.slot(ino)
    rig.v.write(ino, 0, A)
    assert core.dirty_nodes == 0
    assert (rig.slot(ino), core.shared(slot)) == (slot, False)
    rig.v.write(ino, 0, B)
    assert not core.allocated(slot)  # still owned: its space came back at once


def test_dedup_compares_bytes(rig: Rig) -> None:
    core = rig.store.pool.core
    ino = rig.file(b"f", A)
    core.index_insert(core.hash(B), rig.slot(ino))  # as if A and B had one fingerprint
    other = rig.file(b"g", B)
    assert rig.v.read(other, 0, BLOCK) == B
    assert rig.v.read(ino, 0, BLOCK) == A


# --- Ownership by epoch


def test_a_tree_in_a_snapshotted_volume_copies_before_it_changes(rig: Rig) -> None:
    """The larger of the file's and the volume's shared epoch is what counts."""
    ino = rig.file(b"f", A, B, C, D, E)
    snapshot = rig.store.create_snapshot(rig.v, "s")
    rig.v.write(ino, 0, F)
    rig.v.punch(ino, BLOCK, BLOCK)
    rig.v.setattr(ino, size=3 * BLOCK)
    rig.commit_and_overwrite_free_slots()
    assert snapshot.read(ino, 0, 8 * BLOCK) == A + B + C + D + E
    assert rig.v.read(ino, 0, 8 * BLOCK) == F + bytes(BLOCK) + C


def test_a_range_clone_of_one_entry_shares_its_source(rig: Rig) -> None:
    source, target = rig.file(b"f", A, B, C, D), rig.file(b"g", E, F, G)
    rig.store.clone_range(rig.v, source, 0, rig.v, target, 2 * BLOCK, BLOCK)
    rig.v.write(source, 0, H)
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(target, 0, 4 * BLOCK) == E + F + A


def test_a_range_clone_of_a_subtree_shares_its_target(rig: Rig) -> None:
    """Both files were born in this epoch: without the mark, the target would own the leaf."""
    source = rig.file(b"f", A, B, C, D, *unique(4, "more"))
    target = rig.file(b"g", *unique(8, "other"))
    rig.store.clone_range(rig.v, source, 0, rig.v, target, 0, FANOUT * BLOCK)
    rig.v.write(target, 0, H)
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(source, 0, FANOUT * BLOCK) == A + B + C + D
    assert rig.v.read(target, 0, FANOUT * BLOCK) == H + B + C + D


def test_a_range_clone_of_one_entry_within_one_file_shares_it(rig: Rig) -> None:
    ino = rig.file(b"f", A, B, C, D, E, F)
    rig.store.clone_range(rig.v, ino, 0, rig.v, ino, 5 * BLOCK, BLOCK)
    rig.v.write(ino, 0, H)
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(ino, 0, 6 * BLOCK) == H + B + C + D + E + A


def test_a_range_clone_of_a_subtree_within_one_file_shares_it(rig: Rig) -> None:
    ino = rig.file(b"f", A, B, C, D, *unique(8, "more"))
    rig.store.clone_range(rig.v, ino, 0, rig.v, ino, 2 * FANOUT * BLOCK, FANOUT * BLOCK)
    rig.v.write(ino, 0, H)
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(ino, 2 * FANOUT * BLOCK, FANOUT * BLOCK) == A + B + C + D


def test_a_name_never_leads_into_another_volume(rig: Rig) -> None:
    """Rename and link have one volume by their signature; what a front end could still do wrong is
    to pass an inode of another one.  (The mount's EXDEV: tests/fusefs/test_mount.py.)"""
    ino = rig.file(b"f", A)
    other = rig.store.create_volume("other")
    with pytest.raises(errors.Stale):
        other.link(ino, ROOT_INO, b"g")
    with pytest.raises(errors.NotFound):
        other.rename(ROOT_INO, b"f", ROOT_INO, b"g")
    assert other.readdir(ROOT_INO) == []


def test_a_clone_of_a_deleted_open_file_needs_no_name(rig: Rig) -> None:
    """A link is refused: the orphan has left its volume's tree, its totals and its epoch."""
    ino = rig.file(b"f", A)
    rig.v.hold(ino)
    rig.v.unlink(ROOT_INO, b"f")
    with pytest.raises(errors.NotFound):
        rig.v.link(ino, ROOT_INO, b"g")
    twin = rig.store.clone_file(rig.v, ino, rig.v, ROOT_INO, b"g")
    rig.v.release(ino)
    rig.store.gc()
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(twin.ino, 0, BLOCK) == A


# --- Restore


def test_restore_bumps_the_epoch_and_shares_what_it_restores(rig: Rig) -> None:
    """That the tree counts as shared is what keeps the snapshot alive.

    The bump alone cannot be missed in what is read: every node of a snapshot was born at or before
    the shared epoch that its volume got when it was taken, and a volume's shared epoch never falls.
    So the bump is looked at directly.
    """
    ino = rig.file(b"f", A, B, C, D, E)
    snapshot = rig.store.create_snapshot(rig.v, "s")
    epoch = rig.store.pool.state.epoch
    rig.v.write(ino, 0, F)
    rig.store.restore(rig.v, "s")
    assert rig.store.pool.state.epoch == epoch + 1
    assert rig.v.record.shared_epoch == epoch
    rig.v.write(ino, 0, G)
    rig.v.create(ROOT_INO, b"new", 0o644, 0, 0)
    rig.commit_and_overwrite_free_slots()
    assert snapshot.read(ino, 0, 5 * BLOCK) == A + B + C + D + E
    assert [e.name for e in snapshot.readdir(ROOT_INO)] == [b"f"]
    assert rig.v.read(ino, 0, 5 * BLOCK) == G + B + C + D + E


def test_clones_made_between_snapshot_and_restore_keep_their_bytes(rig: Rig) -> None:
    """The restored inode knows nothing of the clone: its own shared epoch is from before it."""
    ino = rig.file(b"f", A, B, C, D, E)
    rig.store.create_snapshot(rig.v, "s")
    rig.v.write(ino, 0, F)
    twin = rig.store.clone_file(rig.v, ino, rig.v, ROOT_INO, b"g").ino
    other = rig.store.clone_volume(rig.v, "other")
    past = rig.store.clone_volume(rig.store.snapshot(rig.v, "s"), "past")
    rig.store.restore(rig.v, "s")
    for volume, block in ((rig.v, G), (past, H)):
        volume.write(ino, 0, block)
        volume.write(ino, 4 * BLOCK, block)
    rig.commit_and_overwrite_free_slots()
    for clone in (ino, twin):
        assert other.read(clone, 0, 5 * BLOCK) == F + B + C + D + E
    assert past.read(ino, 0, 5 * BLOCK) == H + B + C + D + H
    assert rig.v.read(ino, 0, 5 * BLOCK) == G + B + C + D + G


def test_restore_is_refused_while_files_are_open(rig: Rig) -> None:
    ino = rig.file(b"f", A)
    rig.store.create_snapshot(rig.v, "s")
    rig.v.hold(ino)
    rig.v.write(ino, 0, B)
    with pytest.raises(errors.Busy):
        rig.store.restore(rig.v, "s")
    assert rig.v.read(ino, 0, BLOCK) == B
    rig.v.release(ino)
    rig.store.restore(rig.v, "s")
    assert rig.v.read(ino, 0, BLOCK) == A


def test_a_forced_restore_makes_handles_stale(rig: Rig) -> None:
    rig.store.create_snapshot(rig.v, "s")
    named, unlinked = rig.file(b"f", A), rig.file(b"g", B)
    for ino in (named, unlinked):
        rig.v.hold(ino)
    rig.v.unlink(ROOT_INO, b"g")
    rig.store.commit()
    rig.store.restore(rig.v, "s", force=True)
    for ino in (named, unlinked):
        with pytest.raises(errors.Stale):
            rig.v.read(ino, 0, BLOCK)
        with pytest.raises(errors.Stale):
            rig.v.write(ino, 0, C)
        rig.v.release(ino)
    assert rig.v.create(ROOT_INO, b"h", 0o644, 0, 0).ino > max(named, unlinked)
    rig.store.gc()
    assert rig.store.pool.core.allocated_slots == 0


# --- The orphan table


def orphans(store: Store) -> list[bytes]:
    reader = store.pool.reader()
    try:
        return [bytes(key) for key, _ in reader.items("orphans")]
    finally:
        reader.close()


@pytest.mark.parametrize("staged", [False, True])
def test_orphans_are_committed_and_a_root_of_gc(rig: Rig, staged: bool) -> None:
    if staged:
        ino = rig.v.create_staged(0o644, 0, 0).ino
    else:
        ino = rig.file(b"f", B)
        rig.v.hold(ino)
        rig.v.unlink(ROOT_INO, b"f")
    rig.v.write(ino, 0, A + B + C + D + E)
    rig.store.commit()
    assert len(orphans(rig.store)) == 1
    rig.store.gc()
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(ino, 0, 5 * BLOCK) == A + B + C + D + E
    rig.v.release(ino)
    rig.store.commit()
    assert orphans(rig.store) == []


def test_an_orphan_keeps_its_effective_epoch(rig: Rig) -> None:
    """The snapshot marked the volume, not the file; an orphan is in no volume any more."""
    ino = rig.file(b"f", A, B, C, D, E)
    snapshot = rig.store.create_snapshot(rig.v, "s")
    rig.v.hold(ino)
    rig.v.unlink(ROOT_INO, b"f")
    rig.v.write(ino, 0, F)
    rig.commit_and_overwrite_free_slots()
    assert snapshot.read(ino, 0, 5 * BLOCK) == A + B + C + D + E
    assert rig.v.read(ino, 0, BLOCK) == F
    rig.v.release(ino)


def test_the_orphan_table_is_emptied_at_open(rig: Rig) -> None:
    ino = rig.file(b"f", A)
    rig.v.hold(ino)
    rig.v.unlink(ROOT_INO, b"f")
    rig.v.write(rig.v.create_staged(0o644, 0, 0).ino, 0, B)
    rig.store.commit()
    assert len(orphans(rig.store)) == 2
    rig.crash()
    rig.store.gc()
    assert orphans(rig.store) == []
    assert rig.store.pool.core.allocated_slots == 0


# --- Reclaim


@pytest.mark.parametrize("changed", ["source", "clone"])
def test_copying_a_node_clears_its_owned_flags(rig: Rig, changed: str) -> None:
    source = rig.file(b"f", A, B, C, D)
    clone = rig.store.clone_file(rig.v, source, rig.v, ROOT_INO, b"g").ino
    writer, reader = (source, clone) if changed == "source" else (clone, source)
    rig.v.write(writer, 0, E)  # copies the leaf; the copy may be changed in place
    rig.v.write(writer, BLOCK, F)
    rig.v.punch(writer, 2 * BLOCK, BLOCK)
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(reader, 0, 4 * BLOCK) == A + B + C + D


def test_a_range_clone_takes_no_owned_flags_along(rig: Rig) -> None:
    source, target = rig.file(b"f", A, B, C, D), rig.file(b"g", E, F, G)
    rig.store.clone_range(rig.v, source, 0, rig.v, target, 2 * BLOCK, BLOCK)
    rig.v.write(target, 2 * BLOCK, H)
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(source, 0, BLOCK) == A


def test_what_is_queued_keeps_the_epoch_that_was_in_force(rig: Rig) -> None:
    """Cut off under the volume's epoch, under the file's, and as an orphan."""
    names = (b"f", b"g", b"h", b"i", b"j")
    inos = [rig.file(name, *unique(FANOUT**2, str(name))) for name in names]
    rig.store.create_snapshot(rig.v, "s")
    other = rig.store.create_volume("other")
    twin = rig.store.clone_file(rig.v, inos[1], other, ROOT_INO, b"twin").ino
    rig.v.hold(inos[2])
    rig.v.write(inos[1], 0, A)  # a root of its own, with shared nodes below
    for name in (b"f", b"g", b"h"):
        rig.v.unlink(ROOT_INO, name)
    rig.v.release(inos[2])
    rig.v.punch(inos[3], 0, FANOUT * BLOCK)  # cuts a leaf
    rig.v.setattr(inos[4], size=0)  # cuts the root
    rig.store.commit()
    rig.crash()  # the queue is committed, with its epochs
    assert rig.store.reclaim()
    rig.commit_and_overwrite_free_slots()
    snapshot = rig.store.snapshot(rig.v, "s")
    other = rig.store.volume("other")
    for volume, ino, name in (*((snapshot, *each) for each in zip(inos, names, strict=True)),
                              (other, twin, b"g")):  # fmt: skip
        assert volume.read(ino, 0, 64 * BLOCK) == b"".join(unique(FANOUT**2, str(name)))


def test_the_queue_is_a_root_of_gc(rig: Rig) -> None:
    """Its nodes are walked later: gc must not delete them, nor free their slots a second time."""
    rig.file(b"f", *unique(40, "f"))
    rig.v.unlink(ROOT_INO, b"f")
    rig.store.commit()
    gc, commit = rig.store.start_gc()
    commit.write()
    rig.store.finish(commit)
    gc.open()
    assert gc.mark()
    while not gc.sweep():
        pass
    assert (gc.result.slots_freed, gc.result.nodes_freed) == (0, 0)
    rig.store.commit()
    rig.forget()
    assert rig.store.reclaim()
    assert rig.store.pool.core.allocated_slots == 0


# --- gc


def test_gc_spares_what_is_allocated_from_the_instant_of_its_capture(rig: Rig) -> None:
    rig.file(b"before", A)  # so there is a slab when gc starts
    gc, commit = rig.store.start_gc()
    early = rig.file(b"early", *unique(5, "early"))
    commit.write()
    rig.store.finish(commit)
    gc.open()
    late = rig.file(b"late", *unique(2 * SLAB_SLOTS, "late"))  # needs slabs that gc never saw
    assert gc.mark()
    while not gc.sweep():
        pass
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(early, 0, 5 * BLOCK) == b"".join(unique(5, "early"))
    assert rig.v.read(late, 0, 2 * SLAB_SLOTS * BLOCK) == b"".join(unique(2 * SLAB_SLOTS, "late"))


@pytest.mark.parametrize("when", ["captured", "durable", "marked"])
def test_gc_spares_garbage_that_dedup_has_brought_back(rig: Rig, when: str) -> None:
    rig.garbage(b"f", A)
    rig.store.commit()
    ino = rig.v.create(ROOT_INO, b"g", 0o644, 0, 0).ino
    gc, commit = rig.store.start_gc()
    if when == "captured":
        rig.v.write(ino, 0, A)
    commit.write()
    rig.store.finish(commit)
    gc.open()
    if when == "durable":
        rig.v.write(ino, 0, A)
    assert gc.mark()
    if when == "marked":
        rig.v.write(ino, 0, A)
    while not gc.sweep():
        pass
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(ino, 0, BLOCK) == A


def test_gc_marks_the_commit_it_captured_and_no_earlier_one(rig: Rig) -> None:
    """What is dirty when gc starts is neither touched nor in any durable commit before its own."""
    rig.store.commit()
    ino = rig.file(b"f", A, B, C, D, E)
    rig.store.gc()
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(ino, 0, 5 * BLOCK) == A + B + C + D + E


@pytest.mark.parametrize("marked", [False, True])
def test_gc_spares_nodes_that_are_committed_while_it_runs(rig: Rig, marked: bool) -> None:
    gc, commit = rig.store.start_gc()
    commit.write()
    rig.store.finish(commit)
    gc.open()
    if marked:
        assert gc.mark()
    ino = rig.file(b"f", A, B, C, D, E)
    rig.store.commit()
    assert marked or gc.mark()
    while not gc.sweep():
        pass
    rig.store.commit()
    rig.forget()
    assert rig.v.read(ino, 0, 5 * BLOCK) == A + B + C + D + E


@pytest.mark.parametrize("root", ["volume", "snapshot", "clone", "past"])
def test_gc_marks_from_every_root(rig: Rig, root: str) -> None:
    """The file is left in one place only."""
    ino = rig.file(b"f", A, B, C, D, E)
    keeper = rig.v
    if root != "volume":
        keeper = rig.store.create_snapshot(rig.v, "s")
        if root == "clone":
            keeper = rig.store.clone_volume(rig.v, "other")
        if root == "past":
            keeper = rig.store.clone_volume(keeper, "other")
        rig.v.unlink(ROOT_INO, b"f")
        if root != "snapshot":
            rig.store.remove_snapshot(rig.v, "s")
    rig.store.gc()
    rig.commit_and_overwrite_free_slots()
    assert keeper.read(ino, 0, 5 * BLOCK) == A + B + C + D + E


def test_gc_visits_a_shared_node_once(rig: Rig) -> None:
    ino = rig.file(b"f", *unique(200, "f"))
    alone = rig.store.gc().nodes_visited
    for n in range(10):
        rig.store.clone_volume(rig.v, f"clone{n}")
        rig.store.create_snapshot(rig.v, f"s{n}")
    assert rig.store.gc().nodes_visited == alone
    rig.v.write(ino, 0, A)  # one path of the file and one of the namespace are copied
    grown = rig.store.gc().nodes_visited - alone
    assert 0 < grown < 12


def test_gc_frees_what_nothing_reaches_and_nothing_else(rig: Rig) -> None:
    kept = rig.file(b"kept", A, B)
    rig.store.commit()
    rig.garbage(b"gone", *unique(20, "gone"))
    result = rig.store.gc()
    assert result.slots_freed == 20
    assert result.nodes_freed >= 5  # its five leaves at least
    again = rig.store.gc()
    assert (again.slots_freed, again.nodes_freed) == (0, 0)
    assert rig.store.pool.core.allocated_slots == 2
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(kept, 0, 2 * BLOCK) == A + B


def test_a_gc_that_stops_anywhere_is_harmless(rig: Rig) -> None:
    kept = rig.file(b"kept", A, B, C, D, E)
    rig.garbage(b"gone", *unique(100, "gone"))
    rig.store.commit()
    for stage in range(4):
        gc, commit = rig.store.start_gc()
        commit.write()
        rig.store.finish(commit)
        if stage:
            gc.open()
            gc.mark(1 if stage == 1 else 1 << 30)
        if stage == 3:
            gc.sweep()
        gc.close()
        rig.crash()
        assert rig.v.read(kept, 0, 5 * BLOCK) == A + B + C + D + E
    assert rig.store.gc().slots_freed == 100


def test_a_second_gc_is_refused_while_one_runs(rig: Rig) -> None:
    """It would forget what was touched since the first; the first would free what is alive."""
    rig.file(b"before", G)
    first, commit = rig.store.start_gc()
    ino = rig.file(b"f", A, B, C, D, E)
    commit.write()
    rig.store.finish(commit)
    first.open()
    assert first.mark()
    with pytest.raises(errors.Busy):
        rig.store.start_gc()
    while not first.sweep():
        pass
    rig.commit_and_overwrite_free_slots()
    assert rig.v.read(ino, 0, 5 * BLOCK) == A + B + C + D + E
    rig.garbage(b"gone", F)
    second, commit = rig.store.start_gc()
    first.close()  # again: it has ended, and must not disarm the second
    commit.write()
    rig.store.finish(commit)
    second.open()
    assert second.mark()
    while not second.sweep():
        pass
    assert second.result.slots_freed == 1
