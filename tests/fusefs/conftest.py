"""Each test gets a mount of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounted import Mount, serve

from engine import Store


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    store, root = tmp_path / "store", tmp_path / "mnt"
    root.mkdir()
    Store.create(store)
    with Store.open(store) as opened:
        opened.create_volume("lab")
        opened.create_volume("other")
        opened.create_snapshot(opened.volume("lab"), "empty")
    served = serve(store, root)
    yield served
    if served.process.poll() is None:
        served.stop()
    assert not os.path.ismount(root)
