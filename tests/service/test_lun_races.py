"""Two commands change the same LUN, or the same target, while one of them waits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, errors
from service.addresses import Context
from service.luns import _add_lun, share_lun_add, share_lun_online, share_lun_rm
from service.presenter import Presenter
from service.share_records import Lun, Table, Target
from service.steps import run_here

LISTEN = "127.0.0.1:3260"


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        store.create_volume("lab")
        yield Context(store, tmp_path, presenter=Presenter(store, tmp_path))


def lun_of(context: Context, name: str, number: int) -> tuple[Target, Lun]:
    lab = context.store.volume("lab")
    inode = lab.create(ROOT_INO, name.encode(), 0o600, 0, 0)
    lab.setattr(inode.ino, size=4096)
    target = Target(lab.id, "", LISTEN, ["ALL"])
    return target, Lun(lab.id, inode.ino, "", number, False, True, f"lab:/{name}")


@pytest.mark.parametrize("call", ["offline", "rm"])
def test_a_lun_that_is_removed_meanwhile_does_not_come_back(context: Context, call: str) -> None:
    table = Table(context.store)
    target, lun = lun_of(context, "disk", 1)
    table.put(target)
    table.put(lun)

    def removed() -> None:
        table.delete(lun)
        table.delete(target)

    if call == "offline":
        steps = share_lun_online(context, "lab:/disk", False, False)
    else:
        steps = share_lun_rm(context, "lab:/disk", False, False)
    with pytest.raises(errors.Busy, match="somebody else"):
        run_here(steps, context.store.commit, removed)
    assert (table.luns(), table.targets()) == ([], [])


def test_a_target_that_another_lun_has_joined_stays(context: Context) -> None:
    """The first LUN of a target cannot be presented: a store that is not mounted."""
    unmounted = Context(context.store)
    table = Table(context.store)
    target, first = lun_of(context, "first", 1)
    _, second = lun_of(context, "second", 2)
    steps = _add_lun(unmounted, table, first, target, None, new=True)
    with pytest.raises(errors.InvalidArgument, match="not mounted"):
        run_here(steps, context.store.commit, lambda: table.put(second))
    assert (table.luns(), table.targets()) == ([second], [target])


@pytest.mark.parametrize("act", ["exchanged", "gone", "kept"])
def test_only_the_file_that_was_made_for_a_lun_is_taken_back(context: Context, act: str) -> None:
    lab, told = context.store.volume("lab"), []

    def meanwhile() -> None:
        if told:
            return
        told.append(True)
        if act != "kept":
            lab.rename(ROOT_INO, b"disk", ROOT_INO, b"aside")
        if act == "exchanged":
            lab.create(ROOT_INO, b"disk", 0o600, 0, 0)
        raise errors.Busy("the first reason")

    steps = share_lun_add(context, "lab:/disk", "", LISTEN, [], None, None, False, 4096)
    with pytest.raises((errors.Busy, RuntimeError)) as failed:  # nobody presents here
        run_here(steps, context.store.commit, meanwhile)
    reasons = [failed.value, failed.value.__context__]
    assert any("the first reason" in str(each) for each in reasons)
    names = {"exchanged": [b"aside", b"disk"], "gone": [b"aside"], "kept": []}
    assert sorted(entry.name for entry in lab.readdir(ROOT_INO)) == names[act]
