"""The fingerprint index at the store: it may forget, it never misleads; and what it keeps on disk.

Tables are tiny here, so that some thousand blocks make many runs and merges.
"""

import errno
import os
import random
from pathlib import Path

import pytest
from run_files import entries_of, entry_at, resealed
from small_index import (
    BLOCK,
    BLOCKS,
    contents,
    files,
    opened,
    run_count,
    with_a_file,
    write,
)

from engine import ROOT_INO, Store, fingerprints
from engine.fsck import check_path
from engine.repair import repair

DEEDS = ("write", "write", "write", "delete", "commit", "freeze", "crash", "open")


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
    seed = with_a_file(path)
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
    seed = with_a_file(path)
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
