"""Calls that do not return hold up nobody."""

import threading

import pytest

from engine import errors
from service.deadline import Tick, beside, within

NEVER = threading.Event()


def hangs(_: Tick) -> str:
    NEVER.wait()
    return "never"


def fails(_: Tick) -> str:
    raise errors.NotFound("no such thing")


def test_each_has_its_own_end() -> None:
    results = beside({"hangs": hangs, "fails": fails, "works": lambda _: "done"}, 0.2)
    assert results["works"] == "done"
    assert isinstance(results["fails"], errors.NotFound)
    assert isinstance(results["hangs"], errors.RametError)
    assert str(results["hangs"]) == "no answer in 0.2 s"


def test_who_gets_on_is_waited_for() -> None:
    def slow(tick: Tick) -> str:
        for _ in range(3):
            tick()
            NEVER.wait(1)  # longer in all than anybody may be silent
        return "done"

    assert beside({"slow": slow}, 2) == {"slow": "done"}


def test_one_alone_raises() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(errors.NotFound, match="thing"):
        within(5, lambda: fails(lambda: None))
    with pytest.raises(errors.RametError, match="no answer"):
        within(0.1, lambda: hangs(lambda: None))
