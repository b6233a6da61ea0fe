"""Beside a load a task writes the fingerprint index, and writes do none of that work themselves."""

import struct
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import ROOT_INO, Store, fingerprints
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
        before = store.pool.core.allocated_slots
        lab.write(lab.create(ROOT_INO, b"g", 0o644, 0, 0).ino, 0, contents())
        assert store.pool.core.allocated_slots == before
