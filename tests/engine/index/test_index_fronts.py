"""Runs' ends and fronts at the store: when they are made, of which runs, and when not."""

import errno
from pathlib import Path

import pytest
from run_files import MAGIC, MAGIC_OLD, aged, ends_at, entries_of, resealed
from small_index import BLOCKS, contents, files, front, opened, with_a_file, write

from engine import ROOT_INO, Store, fingerprints
from engine.fsck import check_path
from engine.repair import repair
from native import fingerprints as fronts


def test_runs_of_earlier_versions_are_read(path: Path) -> None:
    seed = with_a_file(path)
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
    seed = with_a_file(path)
    for file in files(path):
        raw = bytearray(file.read_bytes())
        raw[ends_at(raw) + (0 if sealed else entries_of(raw))] ^= 1
        file.write_bytes(resealed(bytes(raw), seed) if sealed else raw)
    assert {finding.check for finding in check_path(path).findings} == {"F17"}
    repair(path)
    assert check_path(path, data=True).findings == []


def test_a_footer_of_neither_version_is_no_run(path: Path) -> None:
    """Nor one whose layout is the other's, every checksum right."""
    seed = with_a_file(path)
    first, second, third = files(path)[:3]
    bad = {
        first: resealed(first.read_bytes(), seed, magic=MAGIC + (1 << 56)),
        second: resealed(second.read_bytes(), seed, magic=MAGIC_OLD),
        third: resealed(aged(third.read_bytes(), seed), seed, magic=MAGIC),
    }
    for file, raw in bad.items():
        file.write_bytes(raw)
    assert len(check_path(path).findings) == 3
    with opened(path):  # which may write a table under a number that is free now
        left = files(path)
        assert all(file not in left or file.read_bytes() != raw for file, raw in bad.items())


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
    monkeypatch.setattr(fingerprints, "RUNS_KEPT", 1000)  # merges leave one, now and then
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
