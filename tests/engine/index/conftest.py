"""A store with a small index, where merges and fronts are due soon."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_index import opened

from engine import Store, fingerprints


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
