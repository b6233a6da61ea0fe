"""The fingerprint index at the store: it may forget, it never misleads; and what it keeps on disk.

Tables are tiny here, so that some thousand blocks make many runs and merges.
"""

import errno
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_files import MAGIC, MAGIC_OLD, aged, ends_at, entries_of, entry_at, resealed

from engine import ROOT_INO, Store, Volume, fingerprints
from engine.fsck import check_path
from engine.repair import repair
from native import fingerprints as fronts
from native.fingerprints import Front

BLOCK = 4096
INDEX_SLOTS = 256
BLOCKS = 1500
DEEDS = ("write", "write", "write", "delete", "commit", "freeze", "crash", "open")


def content(n: int) -> bytes:
    return struct.pack("<Q", n + 1) * (BLOCK // 8)


def contents(first: int, count: int) -> bytes:
    return b"".join(content(n) for n in range(first, first + count))


def opened(path: Path) -> Store:
    return Store.open(path, index_slots=INDEX_SLOTS)


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "RUNS_KEPT", 4)
    monkeypatch.setattr(fingerprints, "MERGED_MIN", 3)
    monkeypatch.setattr(fingerprints, "FRONT_ENTRIES_MIN", 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Store.create(tmp_path / "store", fanout=16, slab_slots=8192)
    with opened(tmp_path / "store") as store:
        store.create_volume("lab")
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = opened(path)
    yield made
    made.close()


def write(volume: Volume, name: bytes, data: bytes) -> int:
    """A file of this content; returns how many new slots it took."""
    before = volume.pool.core.allocated_slots
    ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
    for at in range(0, len(data), 64 * BLOCK):
        volume.write(ino, at, data[at : at + 64 * BLOCK])
    return volume.pool.core.allocated_slots - before


def run_count(store: Store) -> int:
    return store.fingerprints.figures().runs


def front(store: Store, part: int) -> Front:
    found = fronts.front(store.pool.core, part)
    assert found is not None
    return found


def files(path: Path) -> list[Path]:
    return sorted((path / "index").glob("*.run"))


def test_nothing_is_forgotten_without_a_crash(path: Path) -> None:
    with opened(path) as store:
        lab = store.volume("lab")
        assert write(lab, b"a", contents(0, BLOCKS)) == BLOCKS
        assert run_count(store) > 16, "too few runs to tell anything"
        assert store.fingerprints.figures().forgotten == 0
        assert write(lab, b"b", contents(0, BLOCKS)) == 0
        store.fingerprints.settle()
        assert write(lab, b"c", contents(0, BLOCKS)) == 0
    with opened(path) as store:
        assert write(store.volume("lab"), b"d", contents(0, BLOCKS)) == 0
        merged = [run for part in range(16) for run in store.fingerprints.runs(part)]
        assert any(run.low < run.high for run in merged), "no merge was tried"
    assert check_path(path, data=True).findings == []


def test_a_killed_process_forgets_its_tables_at_most(path: Path) -> None:
    store = opened(path)
    lab = store.volume("lab")
    write(lab, b"a", contents(0, BLOCKS))
    store.fingerprints.settle()
    in_runs = store.fingerprints.figures().run_entries
    store.commit()
    store.abandon()
    with opened(path) as store:
        assert write(store.volume("lab"), b"b", contents(0, BLOCKS)) == BLOCKS - in_runs


def test_entries_of_freed_slots_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge is due for them alone, however few runs there are."""
    monkeypatch.setattr(fingerprints, "RUNS_KEPT", 1000)
    lab = store.volume("lab")
    for n in range(4):
        write(lab, b"x", contents(n * BLOCKS, BLOCKS))
        lab.unlink(ROOT_INO, b"x")
        store.commit()
        store.reclaim()
        store.commit()
    store.fingerprints.settle()
    bound = 1.5 * BLOCKS + 16 * 80
    assert store.fingerprints.figures().run_entries < bound < 4 * BLOCKS


def test_a_run_of_the_few_that_are_left_of_many_is_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "RUNS_KEPT", 1000)
    with opened(path) as store:
        lab = store.volume("lab")
        write(lab, b"left", contents(0, 8))
        write(lab, b"gone", contents(0, 4 * BLOCKS))
        store.fingerprints.settle()
        lab.unlink(ROOT_INO, b"gone")
        store.commit()
        store.reclaim()
        store.commit()
        write(lab, b"more", contents(4 * BLOCKS, 16))
        store.fingerprints.freeze(1)
        store.fingerprints.settle()
        entries = store.fingerprints.figures().run_entries
    assert check_path(path).findings == []
    with opened(path) as store:
        assert store.fingerprints.figures().run_entries >= entries


def test_a_damaged_page_is_noticed_and_forgotten(path: Path) -> None:
    with opened(path) as store:
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
    for file in files(path):
        raw = bytearray(file.read_bytes())
        raw[8 + 9] ^= 1  # an address
        file.write_bytes(raw)
    assert {finding.check for finding in check_path(path).findings} == {"F17"}
    with opened(path) as store:
        taken = write(store.volume("lab"), b"b", contents(0, BLOCKS))
        assert store.fingerprints.figures().damaged > 0
        assert taken > 0
        read = store.volume("lab").read(store.volume("lab").resolve("/b").ino, 0, BLOCKS * BLOCK)
        assert read == contents(0, BLOCKS)
    repair(path)
    assert check_path(path, data=True).findings == []


def test_entries_that_name_other_blocks_are_not_believed(path: Path) -> None:
    """Whole runs, every checksum right, and each address another block's."""
    with opened(path) as store:
        seed = store.pool.superblock.hash_seed
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
    for file in files(path):
        raw = bytearray(file.read_bytes())
        for i in range(entries_of(raw)):
            at = entry_at(i) + 8
            raw[at : at + 5] = (1 + i % BLOCKS).to_bytes(5, "little")
        file.write_bytes(resealed(bytes(raw), seed))
    with opened(path) as store:
        lab = store.volume("lab")
        write(lab, b"b", contents(0, BLOCKS))
        assert store.fingerprints.figures().damaged == 0
        assert lab.read(lab.resolve("/b").ino, 0, BLOCKS * BLOCK) == contents(0, BLOCKS)
    assert check_path(path, data=True).findings == []


def test_runs_of_earlier_versions_are_read(path: Path) -> None:
    with opened(path) as store:
        seed = store.pool.superblock.hash_seed
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
    for file in files(path):
        file.write_bytes(aged(file.read_bytes(), seed))
    assert check_path(path, data=True).findings == []
    with opened(path) as store:
        lab = store.volume("lab")
        assert write(lab, b"b", contents(0, BLOCKS)) == 0
        assert write(lab, b"c", contents(BLOCKS, BLOCKS)) == BLOCKS
        assert store.fingerprints.figures().misled < BLOCKS // 2, "filters that refuse nothing"
        store.fingerprints.settle()
        assert write(lab, b"d", contents(0, 2 * BLOCKS)) == 0
    assert check_path(path, data=True).findings == []


@pytest.mark.parametrize("sealed", [True, False])
def test_ends_that_are_not_the_keys_are_found(path: Path, sealed: bool) -> None:
    """By the key or, in what follows the last, by the checksum."""
    with opened(path) as store:
        seed = store.pool.superblock.hash_seed
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
    for file in files(path):
        raw = bytearray(file.read_bytes())
        raw[ends_at(raw) + (0 if sealed else entries_of(raw))] ^= 1
        file.write_bytes(resealed(bytes(raw), seed) if sealed else raw)
    assert {finding.check for finding in check_path(path).findings} == {"F17"}
    repair(path)
    assert check_path(path, data=True).findings == []


def test_a_footer_of_neither_version_is_no_run(path: Path) -> None:
    """Nor one whose layout is the other's, every checksum right."""
    with opened(path) as store:
        seed = store.pool.superblock.hash_seed
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
    first, second, third = files(path)[:3]
    for file, raw in (
        (first, resealed(first.read_bytes(), seed, magic=MAGIC + (1 << 56))),
        (second, resealed(second.read_bytes(), seed, magic=MAGIC_OLD)),
        (third, resealed(aged(third.read_bytes(), seed), seed, magic=MAGIC)),
    ):
        file.write_bytes(raw)
    assert len(check_path(path).findings) == 3
    with opened(path):
        assert not {first, second, third} & set(files(path))


def test_fronts_are_made_when_a_store_is_opened_and_grow_with_it(path: Path) -> None:
    with opened(path) as store:
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
        store.fingerprints.settle()
        rooms = [front(store, part).room for part in range(16)]
        write(store.volume("lab"), b"b", contents(BLOCKS, BLOCKS))
        store.fingerprints.settle()
        for part in range(16):
            entries = sum(run.entries for run in store.fingerprints.runs(part))
            assert entries <= front(store, part).held <= front(store, part).room
            assert front(store, part).room > rooms[part]
    with opened(path) as store:
        assert store.fingerprints.figures().front_bytes == 0, "opening takes the time of fronts"
        store.fingerprints.settle()
        assert all(front(store, part).held > 0 for part in range(16))


def test_few_entries_have_no_front(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "FRONT_ENTRIES_MIN", BLOCKS)
    write(store.volume("lab"), b"a", contents(0, BLOCKS))
    store.fingerprints.settle()
    assert store.fingerprints.figures().front_bytes == 0


def test_a_front_forgets_what_a_merge_has_left_out(store: Store) -> None:
    lab = store.volume("lab")
    write(lab, b"x", contents(0, 3 * BLOCKS))
    store.fingerprints.settle()
    lab.unlink(ROOT_INO, b"x")
    store.commit()
    store.reclaim()
    store.commit()
    write(lab, b"y", contents(4 * BLOCKS, BLOCKS))
    store.fingerprints.freeze(1)
    store.fingerprints.settle()
    for part in range(16):
        entries = sum(run.entries for run in store.fingerprints.runs(part))
        assert front(store, part).held <= 1.25 * entries


def test_a_front_is_made_beside_no_other_job_of_its_partition(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It, or what the other makes, would be of no use."""
    index = store.fingerprints
    monkeypatch.setattr(fingerprints, "FRONT_ENTRIES_MIN", BLOCKS)
    write(store.volume("lab"), b"a", contents(0, BLOCKS))
    index.settle()
    monkeypatch.setattr(fingerprints, "FRONT_ENTRIES_MIN", 8)
    index.beside = True
    index.freeze(1)
    busy = {making.part for making in (index.begin(), index.begin()) if making is not None}
    assert len(busy) == 2
    monkeypatch.setattr(fingerprints, "RUNS_KEPT", 1)
    monkeypatch.setattr(fingerprints, "MERGED_MIN", 2)
    assert min(len(index.runs(part)) for part in range(16)) > 1, "merges are not due"
    begun = []
    while (making := index.begin(merge=True)) is not None:
        begun.append((making.kind, making.part))
    expected = [("merge" if part in busy else "front", part) for part in range(16)]
    assert sorted(begun, key=lambda each: each[1]) == expected
    assert store.pool.core.index_frozen > 2
    assert index.begin() is None, "a run beside a front"
    index.drop_jobs()


def test_a_front_is_not_begun_beside_a_merge(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    index = store.fingerprints
    monkeypatch.setattr(fingerprints, "FRONT_ENTRIES_MIN", BLOCKS)
    write(store.volume("lab"), b"a", contents(0, BLOCKS))
    index.settle()
    index.beside = True
    monkeypatch.setattr(fingerprints, "RUNS_KEPT", 1)
    monkeypatch.setattr(fingerprints, "MERGED_MIN", 2)
    merge = index.begin(merge=True)
    assert merge is not None
    assert merge.kind == "merge"
    monkeypatch.setattr(fingerprints, "FRONT_ENTRIES_MIN", 8)
    for _ in range(15):
        front = index.begin(merge=True)
        assert front is not None
        assert front.kind == "front"
        assert front.part != merge.part
    assert index.begin(merge=True) is None
    assert merge.step(1000)
    index.finish(merge)
    assert index.begin(merge=True) is not None, "what was busy is not looked at again"
    index.drop_jobs()


def age_a_run(path: Path) -> None:
    """The first partition of a store has one of an earlier version."""
    with opened(path) as store:
        seed = store.pool.superblock.hash_seed
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
        store.fingerprints.settle()
    old = next(file for file in files(path) if file.name[0] == "0")
    old.write_bytes(aged(old.read_bytes(), seed))


def test_runs_of_earlier_versions_are_written_anew_to_have_a_front(path: Path) -> None:
    age_a_run(path)
    with opened(path) as store:
        store.fingerprints.settle()
        assert front(store, 0).held > 0
        assert write(store.volume("lab"), b"b", contents(0, BLOCKS)) == 0
    assert all(b"RMTRUN02" in file.read_bytes() for file in files(path))
    assert check_path(path, data=True).findings == []


def test_an_old_run_that_there_is_no_room_to_write_anew_stops_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age_a_run(path)
    monkeypatch.setattr(fingerprints, "RUNS_KEPT", 1000)
    step, tried = fingerprints.Making.step, []

    def full(making: fingerprints.Making, entries: int) -> bool:
        if making.kind != "merge":
            return step(making, entries)
        tried.append(making.part)
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(fingerprints.Making, "step", full)
    with opened(path) as store:
        store.fingerprints.settle()
        assert tried == [0]
        assert store.fingerprints.paused is None
        write(store.volume("lab"), b"b", contents(BLOCKS, BLOCKS))
        store.fingerprints.freeze(1)
        store.fingerprints.settle()
        assert store.pool.core.index_frozen == 0
        assert fronts.front(store.pool.core, 0) is None
        assert write(store.volume("lab"), b"c", contents(0, 2 * BLOCKS)) == 0


def test_a_run_whose_ends_are_damaged_is_written_anew_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad disk would have it so for ever."""
    monkeypatch.setattr(fingerprints, "RUNS_KEPT", 1000)
    with opened(path) as store:
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
    damaged = next(file for file in files(path) if file.name[0] == "5")
    raw = bytearray(damaged.read_bytes())
    raw[ends_at(raw)] ^= 1
    damaged.write_bytes(raw)
    with opened(path) as store:
        index, core = store.fingerprints, store.pool.core
        index.settle()
        assert index.paused is None
        assert not fronts.bars_front(core, 5)
        assert all(front(store, part).held for part in range(16))
        assert write(store.volume("lab"), b"b", contents(0, BLOCKS)) == 0

        install = fronts.FrontJob.install
        monkeypatch.setattr(fronts.FrontJob, "install", lambda job: install(job) and False)
        monkeypatch.setattr(fronts, "bars_front", lambda core, part: part == 5)
        monkeypatch.setattr(fingerprints, "FRONT_STALE_SHARE", 0)  # all are due
        begun = [index.begin(merge=True) for _ in range(16)]
        assert {making.kind for making in begun if making is not None} == {"front"}
        for making in begun:
            assert making is not None
            while not making.step(BLOCKS):
                pass
            index.finish(making)
        monkeypatch.setattr(fingerprints, "FRONT_STALE_SHARE", 1000)
        assert index.begin(merge=True) is None
        monkeypatch.undo()
    assert check_path(path, data=True).findings == []


@pytest.mark.parametrize("cut", [1, 4096])
def test_a_torn_run_is_thrown_away(path: Path, cut: int) -> None:
    with opened(path) as store:
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
    torn = files(path)[0]
    os.truncate(torn, torn.stat().st_size - cut)
    with opened(path) as store:
        assert not torn.exists()
        lab = store.volume("lab")
        assert write(lab, b"b", contents(0, BLOCKS)) < BLOCKS
        assert lab.read(lab.resolve("/b").ino, 0, BLOCKS * BLOCK) == contents(0, BLOCKS)


def test_runs_that_a_crash_left_beside_what_was_made_of_them_are_removed(path: Path) -> None:
    with opened(path) as store:
        lab = store.volume("lab")
        write(lab, b"a", contents(0, 600))
        older = {file.name: file.read_bytes() for file in files(path)}
        write(lab, b"b", contents(1000, BLOCKS))
        store.fingerprints.settle()
        assert write(lab, b"c", contents(5000, 900)) == 900
    left = {file.name for file in files(path)}
    assert set(older) - left, "no merge was tried"
    for name, raw in older.items():
        (path / "index" / name).write_bytes(raw)
    (path / "index" / "0-merge.new").write_bytes(b"half")
    with opened(path):
        assert not (set(older) - left) & {file.name for file in files(path)}
        assert not (path / "index" / "0-merge.new").exists()


def test_an_index_that_cannot_be_written_stops_nothing(path: Path) -> None:
    with opened(path) as store:
        (path / "index" / "fingerprints").unlink()
        (path / "index").rmdir()
        lab = store.volume("lab")
        write(lab, b"a", contents(0, BLOCKS))
        assert store.fingerprints.paused
        assert lab.read(lab.resolve("/a").ino, 0, BLOCKS * BLOCK) == contents(0, BLOCKS)
        store.commit()
        assert store.failed is None


def test_a_file_that_cannot_be_removed_is_no_failure_of_a_write(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the file's map has blocks past its size, and its writer hears of a lost write."""
    unlink = Path.unlink

    def failing(file: Path, missing_ok: bool = False) -> None:
        if file.suffix in (".run", ".new"):
            raise OSError(errno.EIO, "the disk is bad")
        unlink(file, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing)
        with opened(path) as store:
            lab = store.volume("lab")
            write(lab, b"a", contents(0, BLOCKS))
            store.fingerprints.settle()
            assert lab.read(lab.resolve("/a").ino, 0, BLOCKS * BLOCK) == contents(0, BLOCKS)
            assert store.fingerprints.paused is None
            assert len(files(path)) > run_count(store), "no merge was tried"
        with opened(path) as store:
            assert write(store.volume("lab"), b"b", contents(0, BLOCKS)) == 0
            assert len(files(path)) > run_count(store)
    with opened(path) as store:
        assert len(files(path)) == run_count(store)
    assert check_path(path, data=True).findings == []


def test_a_job_that_ended_is_not_ended_again(store: Store) -> None:
    """By its second end another job may have the name of its file."""
    index = store.fingerprints
    index.beside = True
    write(store.volume("lab"), b"a", contents(0, BLOCKS))
    ended = index.begin()
    assert ended is not None
    index.give_up(ended)
    begun = index.begin()
    assert begun is not None
    assert begun.file == ended.file
    index.fail(ended, MemoryError())
    assert begun.file.exists()
    assert index.paused == "MemoryError"
    index.give_up(begun)


def test_random_days(path: Path) -> None:
    """Writes, deletions, merges, crashes and reopens; every byte is as the model has it."""
    rng = random.Random(7)
    store = opened(path)
    model: dict[bytes, bytes] = {}
    durable: dict[bytes, bytes] = {}
    for day in range(200):
        lab = store.volume("lab")
        deed = rng.choice(DEEDS)
        name = b"f%d" % rng.randrange(12)
        if deed == "write" and name not in model:
            model[name] = contents(rng.randrange(400), rng.randrange(1, 300))
            write(lab, name, model[name])
        elif deed == "delete" and name in model:
            lab.unlink(ROOT_INO, name)
            del model[name]
            store.reclaim()
        elif deed == "commit":
            store.commit()
            durable = dict(model)
        elif deed == "freeze":
            store.fingerprints.freeze(1)
            store.fingerprints.turn(rng.randrange(64))
        elif deed == "crash":
            store.abandon()
            store, model = opened(path), dict(durable)
        elif deed == "open":
            store.close()
            store, durable = opened(path), dict(model)
        if day % 25 == 24:
            lab = store.volume("lab")
            for each, data in model.items():
                assert lab.read(lab.resolve("/" + each.decode()).ino, 0, len(data)) == data
    store.close()
    assert check_path(path, data=True).findings == []


def test_hostile_runs_harm_nothing(path: Path, tmp_path: Path) -> None:
    with opened(path) as store:
        seed = store.pool.superblock.hash_seed
        write(store.volume("lab"), b"a", contents(0, BLOCKS))
    good = {file: file.read_bytes() for file in files(path)}
    rng = random.Random(3)
    for _ in range(12):
        for file, raw in good.items():
            bad = bytearray(raw)
            for _ in range(rng.randrange(1, 6)):
                at = rng.choice((rng.randrange(len(bad)), len(bad) - 4096 + rng.randrange(64)))
                bad[at] = rng.choice((0, 1, 255, rng.randrange(256)))
            file.write_bytes(resealed(bytes(bad), seed))
        check_path(path)
        store = opened(path)
        lab = store.volume("lab")
        write(lab, b"b", contents(0, 200))
        assert lab.read(lab.resolve("/b").ino, 0, 200 * BLOCK) == contents(0, 200)
        store.fingerprints.settle()
        store.abandon()
        for file in files(path):
            file.unlink()
