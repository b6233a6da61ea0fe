"""The fingerprint index made anew: known content dedups again, and only where it may."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, Volume
from service.addresses import Context
from service.integrity import rebuild_index
from service.steps import run_here

BLOCK = 4096
DATA = os.urandom(50 * BLOCK)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store", fanout=4, slab_slots=64)
    with Store.open(tmp_path / "store") as opened:
        opened.create_volume("lab")
        opened.create_volume("own", own_domain=True)
        yield opened


def write(volume: Volume, name: bytes) -> int:
    """How many new slots it took."""
    before = volume.pool.core.allocated_slots
    volume.write(volume.create(ROOT_INO, name, 0o644, 0, 0).ino, 0, DATA)
    return volume.pool.core.allocated_slots - before


def test_known_content_dedups_again_in_its_own_domain_only(store: Store) -> None:
    lab, own = store.volume("lab"), store.volume("own")
    assert write(own, b"a") == 50
    store.commit()
    store.fingerprints.clear()
    assert store.pool.core.index_len == 0
    assert run_here(rebuild_index(Context(store)), store.commit, lambda: None)["entries"] == 50
    assert write(own, b"b") == 0
    assert write(lab, b"c") == 50, "a block was found from a domain that does not have it"
    assert write(lab, b"d") == 0
