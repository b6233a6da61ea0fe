"""Public operations between their yields: what others do meanwhile."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import ROOT_INO, Store, errors
from service import datastores, operations
from service.addresses import Context
from service.operations import export_file
from service.steps import Steps, run_here


def test_an_export_does_not_go_on_into_a_restored_volume(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        ino = lab.create(ROOT_INO, b"a", 0o644, 0, 0).ino
        lab.write(ino, 0, b"1" * (16 << 20))
        store.create_snapshot(lab, "monday")
        lab.write(ino, 0, b"2" * (16 << 20))
        steps = export_file(Context(store, None), "lab:/a", str(tmp_path / "out"))
        check = next(steps)
        assert callable(check)
        check()
        write = steps.send(None)
        assert callable(write)
        write()
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600  # until it is whole
        store.restore(lab, "monday", force=True)
        lab.hold(ino)
        with pytest.raises(errors.Stale):
            steps.send(None)
        assert not (tmp_path / "out").exists()
        assert lab.held  # by the one who opened it after the restore
        lab.release(ino)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        for name in (b"a", b"b"):
            below = lab.mkdir(ROOT_INO, name, 0o755, 0, 0).ino
            for n in range(3):
                lab.create(below, b"%d" % n, 0o644, 0, 0)
        store.create_snapshot(lab, "one")
        yield Context(store, None)


def result(steps: Any) -> Any:
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
    return end.value.value


def test_a_dry_run_says_what_the_real_run_would(context: Context) -> None:
    store = context.store
    lab = store.volume("lab")
    snapshot = store.snapshot(lab, "one")

    def run(steps: Steps[Any]) -> None:
        run_here(steps, store.commit, lambda: None)

    for held, call in (
        (lab, lambda dry: datastores.volume_rm(context, "lab", dry)),
        (snapshot, lambda dry: datastores.volume_rm(context, "lab", dry)),
        (lab, lambda dry: operations.snapshot_restore(context, "lab", "one", False, dry)),
        (snapshot, lambda dry: operations.snapshot_rm(context, "lab", "one", dry)),
    ):
        inode = held.hold(held.resolve("/a/1").ino)
        for dry_run in (True, False):
            with pytest.raises(errors.Busy, match="are open"):
                run(call(dry_run))
        held.release(inode.ino)
        run(call(True))
    for dry_run in (True, False):
        with pytest.raises(errors.ReadOnly):
            result(operations.rm(context, "lab@one:/a", True, dry_run))
    assert [str(v) for v in (*store.volumes(), *store.snapshots(lab))] == ["lab", "lab@one"]
    assert lab.resolve("/a/1")


def test_du_leaves_out_what_is_removed_meanwhile(context: Context) -> None:
    lab = context.store.volume("lab")
    steps = operations.du(context, "lab:/")
    next(steps)
    context.store.remove_tree(lab, ROOT_INO, b"b")
    rows = {row["name"]: row["files"] for row in result(steps)}
    assert rows == {"a": 3, "b": 0, "total": 3}


def test_du_does_not_add_up_two_states_of_a_volume(context: Context) -> None:
    steps = operations.du(context, "lab:/")
    next(steps)
    context.store.restore(context.store.volume("lab"), "one")
    with pytest.raises(errors.Stale, match="ask again"):
        next(steps)
