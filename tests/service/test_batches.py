"""Long batches of clones: others have their turn between short steps, and it is all or none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, Volume, errors, fsck
from service.addresses import Context
from service.clones import CLONES_STEP, clone
from service.datastores import VOLUMES_STEP, volume_clone
from service.steps import Steps, Stopping
from service.work import JobCommand, Result, Work, queue, run

COUNT = 2 * VOLUMES_STEP + 5


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as opened:
        lab = opened.create_volume("lab")
        ino = lab.create(ROOT_INO, b"f", 0o644, 0, 0).ino
        lab.write(ino, 0, b"golden" * 2000)
        tree = lab.mkdir(ROOT_INO, b"tree", 0o755, 0, 0).ino
        for n in range(200):
            lab.create(tree, b"%d" % n, 0o644, 0, 0)
        yield opened
        opened.commit()
        assert fsck.check(opened, data=True).findings == []


def job(store: Store, command: JobCommand, *arguments: object) -> Steps[Result]:
    context = Context(store)
    work = Work(queue(context, command, arguments, ()))
    return run(context, work, command(context, work, *arguments))


def ended(steps: Steps[Result]) -> Result:
    while True:
        try:
            assert next(steps) is None
        except StopIteration as end:
            result: Result = end.value
            return result


def volumes(store: Store) -> list[str]:
    return [volume.name for volume in store.volumes()]


def names(volume: Volume) -> set[bytes]:
    return {entry.name for entry in volume.readdir(ROOT_INO, limit=1 << 20)}


def test_volume_clones_are_made_in_steps_and_each_is_the_source_of_its_step(store: Store) -> None:
    lab = store.volume("lab")
    ino = lab.lookup(ROOT_INO, b"f").ino
    steps, counts = job(store, volume_clone, "lab", "w-{n:03d}", COUNT, 0), []
    for _ in steps:
        counts.append(len(volumes(store)))
        lab.write(ino, 0, b"step %d" % len(counts))
        store.commit()
    assert counts == [1 + VOLUMES_STEP, 1 + 2 * VOLUMES_STEP]
    assert volumes(store) == ["lab", *(f"w-{n:03d}" for n in range(COUNT))]
    for n in range(COUNT):
        step = n // VOLUMES_STEP
        expected = b"step %d" % step if step else b"golden"
        assert store.volume(f"w-{n:03d}").read(ino, 0, 6) == expected


@pytest.mark.parametrize("meanwhile", ["the source goes", "a name is taken", "told to stop"])
def test_a_batch_of_volume_clones_that_ends_early_leaves_none(
    store: Store, meanwhile: str
) -> None:  # fmt: skip
    source = store.create_volume("source")
    steps = job(store, volume_clone, "source", "w-{n:03d}", COUNT, 0)
    assert next(steps) is None
    expected = ["lab", "source"]
    if meanwhile == "the source goes":
        store.remove_volume("source")
        expected = ["lab"]
    elif meanwhile == "a name is taken":
        store.create_volume(f"w-{COUNT - 1:03d}")
        expected.append(f"w-{COUNT - 1:03d}")
    with pytest.raises(errors.RametError):
        if meanwhile == "told to stop":
            steps.throw(Stopping("the daemon is stopping"))
        ended(steps)
    assert volumes(store) == expected
    assert source.removed == (meanwhile == "the source goes")


def test_clones_of_files_and_directories_are_made_in_steps(store: Store) -> None:
    lab = store.volume("lab")
    files = len(list(job(store, clone, "lab:/f", "lab:/f-{n}", 3 * CLONES_STEP, 1, False)))
    assert files == 3
    before = names(lab)
    seen = [names(lab) - before for _ in job(store, clone, "lab:/tree", "lab:/t-{n}", 3, 1, False)]
    assert len(seen) > 3 * 200 // 16
    assert {len(new) for new in seen} == {0, 1, 2, 3}
    assert names(lab) - before == {b"t-1", b"t-2", b"t-3"}


def test_a_directory_whose_clone_is_told_to_stop_was_never_there(store: Store) -> None:
    lab = store.volume("lab")
    before, files = names(lab), lab.files
    for after in (1, 5, 12, 20):
        steps = job(store, clone, "lab:/tree", "lab:/t-{n}", 3, 1, False)
        for _ in range(after):
            next(steps)
            store.commit()
        with pytest.raises(Stopping):
            steps.throw(Stopping("the daemon is stopping"))
            ended(steps)
        assert (names(lab), lab.files) == (before, files)
