"""What held a running base still is let go, also by the next daemon."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, Volume, errors
from hypervisor.machines import Directory, Machine
from service import moments
from service.addresses import Context
from service.steps import run_here

GOLDEN_UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c9"


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        top = lab.mkdir(ROOT_INO, b"golden", 0o755, 0, 0)
        disk = lab.create(top.ino, b"disk.raw", 0o644, 0, 0)
        lab.write(disk.ino, 0, os.urandom(8192))
        Directory(lab, "/golden", None).set_machine(Machine("golden", GOLDEN_UUID))
        yield Context(store)


def hold(context: Context, uri: str | None, *, quiesce: bool = False) -> moments.Moment:
    base = Directory(context.store.volume("lab"), "/golden", None)
    steps = moments.hold(context, base, uri, quiesce=quiesce)
    return run_here(steps, context.store.commit, lambda: None)


def test_a_base_that_nobody_knows_is_cloned_as_it_is(context: Context) -> None:
    moment = hold(context, None)
    assert (moment.consistency, moment.record) == ("unknown", None)
    assert hold(context, "test:///default").consistency == "off"
    with pytest.raises(errors.InvalidArgument, match="leave --quiesce out"):
        hold(context, None, quiesce=True)


def test_a_hypervisor_that_does_not_answer_may_run_it(context: Context) -> None:
    nowhere = "qemu+unix:///system?socket=/nonexistent/socket"
    lab = context.store.volume("lab")
    with pytest.raises(errors.RametError):
        hold(context, nowhere, quiesce=True)
    assert context.store.snapshots(lab) == []
    moment = hold(context, nowhere)
    assert moment.consistency == "crash"
    disk = lab.resolve("/golden/disk.raw")
    before = lab.read(disk.ino, 0, 8192)
    lab.write(disk.ino, 0, bytes(8192))
    clone = context.store.clone_tree(
        moment.base.volume, moment.base.inode.ino, lab, ROOT_INO, b"clone"
    )
    moments.release(context, moment)
    moments.release(context, moment)  # again is as good
    assert lab.read(lab.lookup(clone.ino, b"disk.raw").ino, 0, 8192) == before
    assert context.store.snapshots(lab) == []
    assert context.store.records.items(moments.PREFIX) == []


def test_what_a_crash_left_is_let_go_at_the_next_start(
    context: Context, capfd: pytest.CaptureFixture[str]
) -> None:
    store, nowhere = context.store, "qemu+unix:///system?socket=/nonexistent/socket"
    hold(context, nowhere)
    moments._note(context, moments.Record(uri=nowhere, uuid="some guest"))
    lab = store.volume("lab")
    store.rename_volume("lab", "other")
    store.commit()
    store.abandon()
    with Store.open(store.path) as again:
        assert len(again.snapshots(again.volume("other"))) == 1
        run_here(moments.recover(Context(again)), again.commit, lambda: None)
        assert again.snapshots(again.volume("other")) == []
        assert again.records.items(moments.PREFIX) == []
    assert lab.name == "other"
    assert "virsh domfsthaw" in capfd.readouterr().err


def test_a_damaged_record_keeps_no_daemon_from_starting(
    context: Context, capfd: pytest.CaptureFixture[str]
) -> None:
    store, nowhere = context.store, "qemu+unix:///system?socket=/nonexistent/socket"
    hold(context, nowhere)
    for n, damage in enumerate((b"", b"\xff", b"\x91" * 3000)):
        store.records.put(f"{moments.PREFIX}{n}", damage)
    run_here(moments.recover(context), store.commit, lambda: None)
    assert store.records.items(moments.PREFIX) == []
    assert store.snapshots(store.volume("lab")) == []
    assert capfd.readouterr().err.count("damaged") == 3


def test_a_snapshot_that_is_damaged_keeps_no_other_from_being_let_go(
    context: Context, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store, nowhere = context.store, "qemu+unix:///system?socket=/nonexistent/socket"
    for _ in range(2):
        hold(context, nowhere)
    lab = store.volume("lab")
    damaged = store.snapshots(lab)[0].record.name
    remove = store.remove_snapshot

    def remove_sound(volume: Volume, name: str, *, force: bool) -> None:
        if name == damaged:
            raise errors.Corrupt("a node is damaged")
        remove(volume, name, force=force)

    monkeypatch.setattr(store, "remove_snapshot", remove_sound)
    run_here(moments.recover(context), store.commit, lambda: None)
    assert "a node is damaged" in capfd.readouterr().err
    assert [each.record.name for each in store.snapshots(lab)] == [damaged]
    monkeypatch.undo()
    run_here(moments.recover(context), store.commit, lambda: None)
    assert store.snapshots(lab) == []
    assert store.records.items(moments.PREFIX) == []
