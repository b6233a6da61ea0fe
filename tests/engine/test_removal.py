"""rm -r in steps: what is there between two of them, and what it leaves alone."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, Volume, errors, fsck
from engine.removal import STEP_NAMES, WHOLE_NAMES


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store", fanout=4, records_max=8, slab_slots=64)
    with Store.open(tmp_path / "store") as made:
        made.create_volume("v")
        yield made
        assert fsck.check(made, data=True).findings == []


def tree(volume: Volume, name: bytes, directories: int, files: int) -> int:
    """A directory with so many of so many files each; its number of names, with its own."""
    top = volume.mkdir(ROOT_INO, name, 0o755, 0, 0).ino
    for n in range(directories):
        below = volume.mkdir(top, b"d%d" % n, 0o755, 0, 0).ino
        for m in range(files):
            volume.create(below, b"f%d" % m, 0o644, 0, 0)
    return 1 + directories * (1 + files)


def result(steps: Generator[None, None, int]) -> tuple[int, int]:
    """How many steps there were, and how many names they say they removed."""
    count = 1
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return count, end.value
        count += 1


def test_a_small_tree_goes_in_one_step(store: Store) -> None:
    volume = store.volume("v")
    names = tree(volume, b"t", 3, 20)
    assert names == WHOLE_NAMES
    assert result(store.removal(volume, ROOT_INO, b"t")) == (1, names)
    assert volume.files == 1
    volume.create(ROOT_INO, b"f", 0o644, 0, 0)
    assert result(store.removal(volume, ROOT_INO, b"f")) == (1, 1)
    store.commit()


def test_a_large_tree_goes_in_short_steps_and_each_leaves_a_whole_store(store: Store) -> None:
    volume = store.volume("v")
    names = tree(volume, b"t", 7, 30)
    before = volume.files
    for n, _ in enumerate(store.removal(volume, ROOT_INO, b"t"), 1):
        assert volume.files == before - n * STEP_NAMES
        store.commit()
        assert fsck.check(store, data=True).findings == []
    assert volume.files == 1
    assert names > 10 * STEP_NAMES
    store.commit()


def test_a_removal_that_is_given_up_leaves_the_rest_and_can_be_repeated(store: Store) -> None:
    volume = store.volume("v")
    names = tree(volume, b"t", 5, 20)
    steps = store.removal(volume, ROOT_INO, b"t")
    next(steps)
    steps.close()
    assert volume.lookup(ROOT_INO, b"t").is_dir
    assert store.remove_tree(volume, ROOT_INO, b"t") == names - STEP_NAMES
    store.commit()


def test_what_is_moved_out_meanwhile_stays_and_what_is_made_meanwhile_goes(store: Store) -> None:
    volume = store.volume("v")
    names = tree(volume, b"t", 5, 20)
    top = volume.lookup(ROOT_INO, b"t").ino
    steps = store.removal(volume, ROOT_INO, b"t")
    next(steps)
    volume.rename(top, b"d0", ROOT_INO, b"half")  # the one that it is emptying
    volume.rename(top, b"d4", ROOT_INO, b"saved")
    volume.create(top, b"late", 0o644, 0, 0)
    _, removed = result(steps)
    assert removed == names - 21 - (21 - STEP_NAMES) + 1
    assert len(volume.readdir(volume.lookup(ROOT_INO, b"half").ino)) == 20 - STEP_NAMES
    assert len(volume.readdir(volume.lookup(ROOT_INO, b"saved").ino)) == 20
    store.commit()


def test_another_tree_of_the_same_name_is_not_removed(store: Store) -> None:
    volume = store.volume("v")
    tree(volume, b"t", 5, 20)
    store.create_snapshot(volume, "s")
    steps = store.removal(volume, ROOT_INO, b"t")
    next(steps)
    volume.rename(ROOT_INO, b"t", ROOT_INO, b"elsewhere")
    tree(volume, b"t", 1, 1)
    with pytest.raises(errors.Stale, match="look again"):
        next(steps)
    steps = store.removal(volume, ROOT_INO, b"elsewhere")
    next(steps)
    store.restore(volume, "s")
    with pytest.raises(errors.Stale, match="restored"):
        next(steps)
    store.commit()


def test_a_deep_tree_goes_from_the_bottom(store: Store) -> None:
    volume = store.volume("v")
    at = ROOT_INO
    for _ in range(200):
        at = volume.mkdir(at, b"d", 0o755, 0, 0).ino
        volume.create(at, b"f", 0o644, 0, 0)
    assert store.remove_tree(volume, ROOT_INO, b"d") == 400
    store.commit()
