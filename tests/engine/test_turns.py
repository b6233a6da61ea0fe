"""Passes on threads let others have the interpreter; in a command that is alone they do not."""

import itertools
import time
from pathlib import Path

import pytest

from engine import ROOT_INO, Store
from engine import turns as module
from engine.meta import Reader
from engine.turns import PORTION, Turns

DEADLINE_S = 60


@pytest.fixture
def store(tmp_path: Path) -> Store:
    Store.create(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    volume = store.create_volume("v")
    for n in range(200):
        volume.create(ROOT_INO, b"%d" % n, 0o644, 0, 0)
    store.commit()
    return store


def visit(reader: Reader) -> None:
    for node_id in list(reader.node_ids()):
        reader.node(node_id)
    list(reader.items("volumes"))


def test_a_pass_goes_away_from_time_to_time(store: Store) -> None:
    with store:
        store.pool.meta.beside = True
        reader, end = store.pool.reader(), time.monotonic() + DEADLINE_S
        while reader.turns.taken < 5:
            visit(reader)
            assert time.monotonic() < end
        reader.close()


def test_a_pass_that_is_alone_does_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORK_S", "WORK_ALONE_S"):
        monkeypatch.setattr(module, name, 0.0)
    with store:
        reader = store.pool.reader()
        visit(reader)
        assert reader.turns.taken == 0
        reader.close()


@pytest.mark.parametrize("what", ["node", "ids", "items", "commit"])
def test_each_kind_of_look_into_the_store_may_be_the_moment(
    store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    made: list[Turns] = []

    class Noted(Turns):
        def __init__(self, *, beside: bool) -> None:
            super().__init__(beside=beside)
            made.append(self)

    for name in ("WORK_S", "WORK_ALONE_S"):
        monkeypatch.setattr(module, name, 0.0)  # at each look
    monkeypatch.setattr("engine.meta.Turns", Noted)
    with store:
        store.pool.meta.beside = True
        if what == "commit":
            store.volume("v").create(ROOT_INO, b"new", 0o644, 0, 0)
            store.commit()
        else:
            reader = store.pool.reader()
            first = next(reader.node_ids())
            before = reader.turns.taken
            looks = {
                "node": lambda: reader.node(first),
                "ids": lambda: list(reader.node_ids()),
                "items": lambda: list(reader.items("volumes")),
            }
            looks[what]()
            assert reader.turns.taken > before
            reader.close()
        assert sum(each.taken for each in made) > 0


def test_containers_are_taken_apart_a_portion_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORK_S", "WORK_ALONE_S"):
        monkeypatch.setattr(module, name, 0.0)
    turns = Turns(beside=True)
    numbers = {n: [n] for n in range(4 * PORTION)}
    names = {str(n) for n in range(PORTION + 1)}
    turns.empty(numbers, names, [], [1])
    assert not numbers
    assert not names
    assert turns.taken == 4 + 2 + 1


def test_a_pass_works_longer_while_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only goes when it is looked at, a tenth of WORK_S each time."""
    clock = itertools.count(1.0, module.WORK_S / 10)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def looks() -> int:
        """At the clock, from one time away to the next."""
        turns = Turns(beside=True)
        counts = [0, 0]
        while turns.taken < 2:
            counts[turns.taken] += 1
            turns.give()
        return counts[1]

    module.busy.at = 0.0
    alone = looks()
    module.busy.at = next(clock) + 1000.0
    asked = looks()
    assert 2 * asked < alone <= 4 * asked
    module.busy.at = 0.0
