"""What the kernel is told of changes that did not come through its mount: enough, and no more."""

from collections.abc import Iterator
from pathlib import Path

import pyfuse3
import pytest
import trio

from engine import ROOT_INO, Store
from fusefs.invalidate import Invalidator, all_volumes

Told = list[tuple[object, ...]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as opened:
        opened.create_volume("lab")
        yield opened


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Notices as they would go to the kernel."""
    made: Told = []
    monkeypatch.setattr(pyfuse3, "invalidate_entry", lambda *which: made.append(which))
    monkeypatch.setattr(pyfuse3, "invalidate_inode", lambda number: made.append((number,)))
    return made


@pytest.fixture
def notices(store: Store, told: Told) -> Iterator[Invalidator]:
    made = Invalidator(store, all_volumes)
    yield made
    made.close()


def test_what_is_written_into_new_files_is_not_told(
    store: Store, notices: Invalidator, told: Told
) -> None:
    lab = store.volume("lab")
    root = all_volumes(lab.id, ROOT_INO)
    with notices.foreign():
        for n in range(20):
            top = lab.mkdir(ROOT_INO, b"vm-%d" % n, 0o755, 0, 0)
            for name in (b"disk", b"seed", b"xml"):
                lab.write(lab.create(top.ino, name, 0o644, 0, 0).ino, 0, name)
    trio.run(notices.settled)
    assert told == [*((root, b"vm-%d" % n) for n in range(20)), (root,)]


def test_each_name_and_each_inode_that_was_there_is_told_once_a_stretch(
    store: Store, notices: Invalidator, told: Told
) -> None:
    lab = store.volume("lab")
    root = all_volumes(lab.id, ROOT_INO)
    there = lab.create(ROOT_INO, b"there", 0o644, 0, 0)
    for data in (b"one", b"two"):
        with notices.foreign():
            lab.write(there.ino, 0, data)
            lab.write(there.ino, 3, data)
            lab.unlink(ROOT_INO, b"old") if data == b"two" else lab.create(
                ROOT_INO, b"old", 0o644, 0, 0
            )
        trio.run(notices.settled)
        number = all_volumes(lab.id, there.ino)
        assert sorted(told, key=str) == sorted([(number,), (root, b"old"), (root,)], key=str)
        told.clear()


def test_a_file_of_an_earlier_stretch_is_told_and_changes_of_the_mount_are_not(
    store: Store, notices: Invalidator, told: Told
) -> None:
    lab = store.volume("lab")
    with notices.foreign():
        made = lab.create(ROOT_INO, b"made", 0o644, 0, 0)
    trio.run(notices.settled)
    told.clear()
    lab.write(made.ino, 0, b"by the mount itself")
    trio.run(notices.settled)
    assert told == []
    with notices.foreign(), pytest.raises(ZeroDivisionError):
        lab.write(made.ino, 0, b"by another door, which then fails")
        raise ZeroDivisionError
    trio.run(notices.settled)
    assert told == [(all_volumes(lab.id, made.ino),)]


def test_a_removed_volume_takes_all_names_below_it_along(
    store: Store, notices: Invalidator, told: Told
) -> None:
    lab = store.volume("lab")
    with notices.foreign():
        store.rename_volume("lab", "old-lab")
    trio.run(notices.settled)
    assert set(told) == {(pyfuse3.ROOT_INODE, b"lab"), (all_volumes(lab.id, ROOT_INO),)}
