"""Each test gets a mount of its own, or shares its module's (``shared``) where it can."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import Ramet
from mounted import Mount, serve

from engine import Store


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with served(tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with served(tmp_path_factory.mktemp("shared")) as one:
        yield one


@contextmanager
def served(folder: Path) -> Iterator[Mount]:
    """Volumes lab and other, an empty snapshot of lab."""
    store, root = folder / "store", folder / "mnt"
    root.mkdir()
    Store.create(store)
    with Store.open(store) as opened:
        opened.create_volume("lab")
        opened.create_volume("other")
        opened.create_snapshot(opened.volume("lab"), "empty")
    one = serve(store, root)
    yield one
    if one.process.poll() is None:
        one.stop()
    assert not os.path.ismount(root)


@pytest.fixture
def one_volume(tmp_path: Path) -> Iterator[tuple[Ramet, Path]]:
    """A mount of the volume lab alone; its files have the blocks that are mapped."""
    ramet, root = Ramet(tmp_path / "store"), tmp_path / "mnt"
    root.mkdir()
    ramet.run("init", ramet.store)
    ramet.run("volume", "create", "lab", "--quota", "64M")
    ramet.run("mount", root, "-o", "volume=lab,real_blocks")
    yield ramet, root
    ramet.run("umount")
