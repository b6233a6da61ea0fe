"""Clones of block ranges: all of them or none, from the state at the start of the call."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import Surgery
from engine_machine import clone_blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import ROOT_INO, Store, Volume, errors, fsck
from engine.block_range import BlockRange
from engine.ranges import RANGES_MAX, STEPS_MAX

BLOCK = 4096
FANOUT = 4
SIZES = {b"a": 70 * BLOCK, b"b": 37 * BLOCK + 1000, b"c": 64 * BLOCK}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_new(tmp_path / "store")
    yield made
    made.abandon()


def open_new(path: Path) -> Store:
    Store.create(path, fanout=FANOUT, records_max=8, slab_slots=256)
    store = Store.open(path)
    store.create_volume("v")
    return store


def pattern(blocks: int, start: int = 1) -> bytes:
    return b"".join((start + n).to_bytes(4, "big") * (BLOCK // 4) for n in range(blocks))


def make(volume: Volume, name: bytes, data: bytes) -> int:
    ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
    volume.write(ino, 0, data)
    return ino


def content(volume: Volume, ino: int) -> bytes:
    return volume.read(ino, 0, volume.inode(ino).size)


def findings(store: Store) -> list[fsck.Finding]:
    store.commit()
    return fsck.check(store, data=True).findings


def whole_after_gc(store: Store) -> None:
    assert findings(store) == []
    store.gc()
    report = fsck.check(store, data=True)
    assert report.findings == []
    assert report.garbage_slots == 0


# --- against plain bytes

RANGE = st.builds(BlockRange, st.integers(0, 69), st.integers(0, 80), st.integers(1, 70))
SPAN = st.integers(0, 4).map(lambda n: n * FANOUT**2)
ALIGNED = st.builds(BlockRange, SPAN, SPAN, st.integers(1, 40))
CALL = st.tuples(
    st.sampled_from(sorted(SIZES)), st.sampled_from(sorted(SIZES)), st.sampled_from(["v", "w"]),
    st.sampled_from(["v", "w"]), st.lists(RANGE | ALIGNED, min_size=1, max_size=7), st.booleans(),
)  # fmt: skip
OPERATION = CALL | st.tuples(
    st.sampled_from(["write", "clone", "reopen", "punch"]), st.sampled_from(sorted(SIZES)),
    st.integers(0, 70 * BLOCK), st.integers(1, 9 * BLOCK),
)  # fmt: skip
Files = dict[tuple[str, bytes], bytearray]


class Rig:
    """Two volumes of files with deep maps, and the bytes that they should hold."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = open_new(path)
        self.store.create_volume("w")
        self.files: Files = {}
        for letter, name in enumerate("vw"):
            for n, (file, size) in enumerate(SIZES.items()):
                data = pattern(size // BLOCK + 1, 1000 * letter + 100 * n)[:size]
                make(self.store.volume(name), file, data)
                self.files[name, file] = bytearray(data)

    def where(self, name: str, file: bytes) -> tuple[Volume, int]:
        volume = self.store.volume(name)
        return volume, volume.lookup(ROOT_INO, file).ino

    def call(
        self, source: bytes, target: bytes, from_volume: str, volume: str,
        ranges: list[BlockRange], extend: bool,
    ) -> None:  # fmt: skip
        past, now = self.files[from_volume, source], self.files[volume, target]
        expected = clone_blocks(now, past, ranges, extend=extend)
        ends = (*self.where(from_volume, source), *self.where(volume, target))
        if expected is None:
            with pytest.raises(errors.InvalidArgument, match="past the"):
                self.store.clone_ranges(*ends, ranges, extend=extend)
            return
        done = self.store.clone_ranges(*ends, ranges, extend=extend)
        assert done == sum(each.count for each in ranges)
        now[:] = expected

    def other(self, what: str, file: bytes, at: int, length: int) -> None:
        volume, ino = self.where("v", file)
        past = self.files["v", file]
        if what == "write":
            data = bytes([at % 251]) * length
            volume.write(ino, at, data)
            past.extend(bytes(max(at + length - len(past), 0)))
            past[at : at + length] = data
        elif what == "punch":
            volume.punch(ino, at, length)
            end = min(at + length, len(past))
            past[at:end] = bytes(max(end - at, 0))
        elif what == "clone":
            self.store.clone_file(volume, ino, self.store.volume("w"), ROOT_INO, file, replace=True)
            self.files["w", file] = bytearray(past)
        else:
            self.store.close()
            self.store = Store.open(self.path)

    def check(self) -> None:
        for (name, file), expected in self.files.items():
            volume, ino = self.where(name, file)
            assert content(volume, ino) == expected, (name, file)
        for name in "vw":
            volume = self.store.volume(name)
            blocks = [volume.lookup(ROOT_INO, file).blocks for file in SIZES]
            assert volume.referenced_bytes == sum(blocks) * BLOCK
            assert volume.logical_bytes == sum(len(self.files[name, file]) for file in SIZES)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=st.lists(OPERATION, min_size=1, max_size=14))
def test_any_ranges_are_what_plain_bytes_would_be(
    operations: list[tuple[object, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rig = Rig(tmp_path_factory.mktemp("ranges") / "store")
    try:
        for each in operations:
            (rig.call if len(each) == 6 else rig.other)(*each)  # type: ignore[arg-type]
            rig.check()
        whole_after_gc(rig.store)  # and fsck has counted every block again
        rig.check()
    finally:
        rig.store.abandon()


# --- what a call means


def test_two_halves_of_one_file_change_places(store: Store) -> None:
    lab = store.volume("v")
    data = pattern(40)
    ino = make(lab, b"f", data)
    assert store.clone_ranges(lab, ino, lab, ino, [BlockRange(0, 20, 20), BlockRange(20, 0, 20)])
    assert content(lab, ino) == data[20 * BLOCK :] + data[: 20 * BLOCK]


@pytest.mark.parametrize("shift", [1, 3, FANOUT, FANOUT**2])
def test_a_range_that_overlaps_itself_is_read_before_it_is_written(
    store: Store, shift: int
) -> None:
    lab = store.volume("v")
    data = pattern(60)
    there, back = make(lab, b"up", data), make(lab, b"down", data)
    store.clone_ranges(lab, there, lab, there, [BlockRange(0, shift, 60 - shift)])
    store.clone_ranges(lab, back, lab, back, [BlockRange(shift, 0, 60 - shift)])
    assert content(lab, there) == data[: shift * BLOCK] + data[: (60 - shift) * BLOCK]
    assert content(lab, back) == data[shift * BLOCK :] + data[-shift * BLOCK :]
    whole_after_gc(store)


def test_no_data_is_written_and_none_is_allocated(store: Store) -> None:
    lab, other = store.volume("v"), store.create_volume("w")
    source, target = make(lab, b"f", pattern(50)), make(other, b"lun", pattern(50, 900))
    before = store.pool.core.allocated_slots
    store.clone_ranges(lab, source, other, target, [BlockRange(3, 8, 30), BlockRange(40, 0, 5)])
    assert store.pool.core.allocated_slots == before
    assert other.referenced_bytes == 50 * BLOCK


def test_a_snapshot_is_a_source_and_never_a_target(store: Store) -> None:
    lab = store.volume("v")
    data = pattern(30)
    ino = make(lab, b"f", data)
    past = store.create_snapshot(lab, "s")
    lab.write(ino, 0, bytes(30 * BLOCK))
    store.clone_ranges(past, ino, lab, ino, [BlockRange(10, 2, 5)])
    assert content(lab, ino) == (
        bytes(2 * BLOCK) + data[10 * BLOCK : 15 * BLOCK] + bytes(23 * BLOCK)
    )
    with pytest.raises(errors.ReadOnly):
        store.clone_ranges(lab, ino, past, ino, [BlockRange(0, 0, 1)])


def test_a_lun_keeps_its_size_and_a_file_grows_when_asked(store: Store) -> None:
    lab = store.volume("v")
    source = make(lab, b"f", pattern(20)[: 19 * BLOCK + 77])
    lun = make(lab, b"lun", bytes(24 * BLOCK))
    past_end = [BlockRange(0, 0, 3), BlockRange(0, 20, 5)]
    with pytest.raises(errors.InvalidArgument, match=r"0:20:5 is past the target's end.*--extend"):
        store.clone_ranges(lab, source, lab, lun, past_end)
    assert content(lab, lun) == bytes(24 * BLOCK)
    store.clone_ranges(lab, source, lab, lun, past_end, extend=True)
    assert lab.inode(lun).size == 25 * BLOCK
    twin = make(lab, b"twin", b"")
    store.clone_ranges(lab, source, lab, twin, [BlockRange(0, 0, 20)], extend=True)
    assert content(lab, twin) == content(lab, source)
    with pytest.raises(errors.InvalidArgument, match="past the source's end: it has 20 blocks"):
        store.clone_ranges(lab, source, lab, lun, [BlockRange(1, 0, 20)])


def test_past_an_end_inside_a_block_all_is_zero(store: Store) -> None:
    """The source's last block is zero past its end, and so is the target's, whatever goes there."""
    lab = store.volume("v")
    whole = make(lab, b"whole", pattern(10))
    odd = make(lab, b"odd", pattern(6, 50)[: 5 * BLOCK + 10])
    store.clone_ranges(lab, odd, lab, whole, [BlockRange(5, 2, 1)])
    assert lab.read(whole, 2 * BLOCK, BLOCK) == pattern(1, 55)[:10].ljust(BLOCK, b"\0")
    store.clone_ranges(lab, whole, lab, odd, [BlockRange(8, 4, 2)])
    assert lab.inode(odd).size == 5 * BLOCK + 10
    lab.setattr(odd, size=6 * BLOCK)
    assert lab.read(odd, 5 * BLOCK, BLOCK) == pattern(1, 10)[:10].ljust(BLOCK, b"\0")
    whole_after_gc(store)


# --- all or nothing


def state(lab: Volume, ino: int) -> tuple[bytes, int, int, int]:
    return content(lab, ino), lab.inode(ino).blocks, lab.referenced_bytes, lab.inode(ino).change


def test_a_quota_half_way_changes_nothing(store: Store) -> None:
    lab, free = store.volume("v"), store.create_volume("free")
    source, target = make(free, b"f", pattern(40)), make(lab, b"g", pattern(5, 500))
    lab.setattr(target, size=200 * BLOCK)
    store.set_quota("v", 30 * BLOCK)
    before = state(lab, target)
    ranges = [BlockRange(0, 10, 20), BlockRange(0, 60, 20)]
    with pytest.raises(errors.QuotaExceeded):
        store.clone_ranges(free, source, lab, target, ranges)
    assert state(lab, target) == before
    whole_after_gc(store)
    store.set_quota("v", 45 * BLOCK)
    store.clone_ranges(free, source, lab, target, ranges)
    assert lab.referenced_bytes == 45 * BLOCK
    whole_after_gc(store)


def test_a_damaged_node_half_way_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with open_new(path) as store:
        lab = store.volume("v")
        source, target = make(lab, b"f", pattern(60)), make(lab, b"g", pattern(60, 700))
        store.commit()
        root = lab.inode(source).root
    with Surgery(path) as surgery:
        _, entries = surgery.extent(root)
        surgery.drop_node(entries[2][0])  # from block 32 or so on
    with Store.open(path) as store:
        lab = store.volume("v")
        before = state(lab, target)
        ranges = [BlockRange(1, 2, 8), BlockRange(9, 0, 50)]
        with pytest.raises(errors.Corrupt):
            store.clone_ranges(lab, source, lab, target, ranges)
        assert state(lab, target) == before
        lab.write(target, 0, pattern(60, 800))
        lab.unlink(ROOT_INO, b"f")
        store.reclaim()
        whole_after_gc(store)


def test_what_a_call_may_do_is_bounded(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("v")
        source, target = make(lab, b"f", pattern(3)), make(lab, b"g", b"")
        huge = (STEPS_MAX + 1) * 252
        for ino in (source, target):
            lab.setattr(ino, size=(huge + 1) * BLOCK)
        with pytest.raises(errors.InvalidArgument, match="multiple of 252 blocks"):
            store.clone_ranges(lab, source, lab, target, [BlockRange(0, 1, huge)])
        assert lab.inode(target).blocks == 0
        store.clone_ranges(lab, source, lab, target, [BlockRange(0, 0, huge)])
        assert content_head(lab, target, 3) == pattern(3)
        for ranges in ([], [BlockRange(0, 0, 1)] * (RANGES_MAX + 1)):
            with pytest.raises(errors.InvalidArgument, match=f"1 to {RANGES_MAX} ranges"):
                store.clone_ranges(lab, source, lab, target, ranges)
        ends = [BlockRange(0, n, 1) for n in range(RANGES_MAX)]
        assert store.clone_ranges(lab, source, lab, target, ends) == RANGES_MAX
        for wrong in (BlockRange(-1, 0, 1), BlockRange(0, -1, 1), BlockRange(0, 0, 0)):
            with pytest.raises(errors.InvalidArgument, match="positions are 0 or more"):
                store.clone_ranges(lab, source, lab, target, [wrong])


def content_head(volume: Volume, ino: int, blocks: int) -> bytes:
    return volume.read(ino, 0, blocks * BLOCK)


def test_a_clone_of_the_target_keeps_what_it_was(store: Store) -> None:
    lab = store.volume("v")
    source, target = make(lab, b"f", pattern(60)), make(lab, b"g", pattern(60, 300))
    twin = store.clone_file(lab, target, lab, ROOT_INO, b"twin").ino
    store.clone_ranges(lab, source, lab, target, [BlockRange(5, 9, 33)])
    again = store.clone_file(lab, target, lab, ROOT_INO, b"again").ino
    lab.write(source, 10 * BLOCK, os.urandom(20 * BLOCK))
    lab.write(target, 0, os.urandom(60 * BLOCK))
    assert content(lab, twin) == pattern(60, 300)
    expected = bytearray(pattern(60, 300))
    expected[9 * BLOCK : 42 * BLOCK] = pattern(60)[5 * BLOCK : 38 * BLOCK]
    assert content(lab, again) == expected
    whole_after_gc(store)
