"""Beside a load a task writes the fingerprint index, and writes do none of that work themselves."""

import errno
import struct
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import ROOT_INO, Store, fingerprints
from native import fingerprints as fronts
from service.indexer import Indexer

BLOCK = 4096
BLOCKS = 1500


def contents() -> bytes:
    return b"".join(struct.pack("<Q", n + 1) * (BLOCK // 8) for n in range(BLOCKS))


def test_tables_are_written_and_merged_beside_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "RUNS_KEPT", 2)
    monkeypatch.setattr(fingerprints, "MERGED_MIN", 2)
    monkeypatch.setattr(fingerprints, "FRONT_ENTRIES_MIN", 8)
    Store.create(tmp_path / "store", fanout=16, slab_slots=8192)
    with Store.open(tmp_path / "store", index_slots=256) as store:
        lab, index = store.create_volume("lab"), store.fingerprints
        ino = lab.create(ROOT_INO, b"f", 0o644, 0, 0).ino

        async def load() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Indexer(store).run)
                await trio.testing.wait_all_tasks_blocked()
                data = contents()
                for at in range(0, len(data), 64 * BLOCK):
                    runs = index.figures().runs
                    lab.write(ino, at, data[at : at + 64 * BLOCK])
                    assert index.figures().runs == runs, "a write did the work of the task"
                    with trio.fail_after(30):
                        while index.due:
                            await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

        trio.run(load)
        assert not index.beside
        assert index.figures().forgotten == 0
        assert max(len(index.runs(part)) for part in range(16)) <= 2
        held = [front.held for part in range(16) if (front := fronts.front(store.pool.core, part))]
        assert len(held) == 16
        assert sum(held) >= index.figures().run_entries
        before = store.pool.core.allocated_slots
        lab.write(lab.create(ROOT_INO, b"g", 0o644, 0, 0).ino, 0, contents())
        assert store.pool.core.allocated_slots == before


async def until_nothing_is_due(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Indexer(store).run)
        with trio.fail_after(30):
            await trio.sleep(0.01)
            while store.fingerprints.due:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


def write(store: Store, name: bytes) -> None:
    lab = store.volume("lab")
    ino = lab.create(ROOT_INO, name, 0o644, 0, 0).ino
    data = contents()
    for at in range(0, len(data), 64 * BLOCK):
        lab.write(ino, at, data[at : at + 64 * BLOCK])


def test_what_a_turn_has_begun_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge half-way in a turn would keep its partition from all others, for good."""
    path = tmp_path / "store"
    Store.create(path, fanout=16, slab_slots=8192)
    with Store.open(path, index_slots=256) as store:
        store.create_volume("lab")
        write(store, b"f")
    monkeypatch.setattr(fingerprints, "RUNS_KEPT", 2)
    monkeypatch.setattr(fingerprints, "MERGED_MIN", 2)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "TURN_ENTRIES", 1)
        patch.setattr(fingerprints, "TURN_SHARE", 0)
        store = Store.open(path, index_slots=1 << 14)  # no table is full: a merge is due first
        assert not list((path / "index").glob("*.new")), "opening takes the time of a merge"
        store.fingerprints.turn(0)
    with store:
        assert list((path / "index").glob("*-merge.new")), "no merge was begun"
        trio.run(until_nothing_is_due, store)
        assert max(len(store.fingerprints.runs(part)) for part in range(16)) <= 2


def test_files_that_cannot_be_removed_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    Store.create(path, fanout=16, slab_slots=8192)
    with Store.open(path, index_slots=256) as store:
        store.create_volume("lab")
        unlink = Path.unlink

        def failing(file: Path, missing_ok: bool = False) -> None:
            if file.suffix in (".run", ".new"):
                raise OSError(errno.EIO, "the disk is bad")
            unlink(file, missing_ok=missing_ok)

        write(store, b"f")
        monkeypatch.setattr(fingerprints, "RUNS_KEPT", 2)
        monkeypatch.setattr(fingerprints, "MERGED_MIN", 2)
        monkeypatch.setattr(Path, "unlink", failing)
        store.fingerprints.freeze(1)
        trio.run(until_nothing_is_due, store)
        assert max(len(store.fingerprints.runs(part)) for part in range(16)) <= 2
        assert len(list((path / "index").glob("*.run"))) > 32, "nothing was left lying"
