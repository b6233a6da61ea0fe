"""A store that does not open says why and lets go of everything, so that it opens once repaired."""

import os
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, errors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    Store.create(store, slab_slots=64)
    with Store.open(store) as opened:
        lab = opened.create_volume("lab")
        lab.write(lab.create(ROOT_INO, b"a", 0o644, 0, 0).ino, 0, os.urandom(500_000))
    return store


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_with_a_slab_missing(path: Path) -> None:
    slab = path / "slabs" / "00000001.slab"
    before = open_files()
    slab.rename(path / "aside")
    with pytest.raises(errors.Corrupt, match="missing"):
        Store.open(path)
    assert open_files() == before
    (path / "aside").rename(slab)
    with Store.open(path) as store:
        assert store.volume("lab").resolve("/a").size == 500_000


def test_with_empty_metadata(path: Path) -> None:
    data = path / "meta" / "data.mdb"
    before = open_files()
    data.rename(path / "aside")
    data.touch()
    with pytest.raises(errors.Corrupt, match="metadata"):
        Store.open(path)
    assert open_files() == before
    (path / "aside").rename(data)
    with Store.open(path) as store:
        assert store.volume("lab").resolve("/a").size == 500_000
