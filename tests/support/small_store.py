"""A store with nodes of four entries, so that trees are deep, and one volume."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine import Store


@contextmanager
def small_store(path: Path, volume: str, *, slab_slots: int = 64) -> Iterator[Store]:
    """It is abandoned: a test that wants something on disk commits."""
    Store.create(path / "store", fanout=4, records_max=4, slab_slots=slab_slots)
    made = Store.open(path / "store")
    made.create_volume(volume)
    yield made
    made.abandon()
