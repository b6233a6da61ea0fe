"""A store has one owner; who waits for him to end keeps nobody out."""

import fcntl
import threading
from pathlib import Path

import pytest

from engine import Store, errors
from engine.owner import lock, wait_for_owner


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Store.create(tmp_path / "store")
    return tmp_path / "store"


def test_a_second_owner_is_refused_and_does_not_wait(path: Path) -> None:
    with Store.open(path):
        for _ in range(2):
            with pytest.raises(errors.StoreInUse, match="stop it first"):
                Store.open(path)
    Store.open(path).close()


def test_who_waits_for_the_end_keeps_nobody_out(path: Path) -> None:
    """Many of them, who have the lock at all times, but for instants."""
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            wait_for_owner(path)

    waiting = [threading.Thread(target=wait) for _ in range(4)]
    for each in waiting:
        each.start()
    try:
        for _ in range(20):
            Store.open(path).close()
    finally:
        over.set()
        for each in waiting:
            each.join()


def test_a_wait_ends_with_the_owner(path: Path) -> None:
    ended = threading.Event()

    def wait() -> None:
        wait_for_owner(path)
        ended.set()

    with Store.open(path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not ended.wait(0.05)
    waiting.join()
    assert ended.is_set()


def test_of_several_that_come_at_once_one_is_the_owner(path: Path) -> None:
    for _ in range(100):
        found: list[object] = []

        def own(found: list[object] = found) -> None:
            try:
                found.append(lock(path))
            except errors.StoreInUse as error:
                found.append(error)

        coming = [threading.Thread(target=own) for _ in range(4)]
        for each in coming:
            each.start()
        for each in coming:
            each.join()
        owners = [each for each in found if isinstance(each, int)]
        assert len(owners) == 1
        assert len(found) == 4
        with pytest.raises(errors.StoreInUse):
            lock(path)
        with open(owners[0], "rb") as file:
            fcntl.flock(file, fcntl.LOCK_UN)
