"""Grouped commits: who is answered by which, and what happens when one cannot be written."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import ROOT_INO, Store, errors
from engine.commit import Commit
from service import commits
from service.commits import Committer

DEADLINE_S = 60
Main = Callable[[Committer], Awaitable[None]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as made:
        made.create_volume("lab")
        made.commit()
        yield made


class Disk:
    """Holds each commit until it is let go; counts those that were written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.written = 0
        self.error: Exception | None = None
        write = Commit.write

        def held(commit: Commit) -> None:
            self.begun.release()
            assert self.go.acquire(timeout=DEADLINE_S)
            if self.error is not None:
                raise self.error
            write(commit)
            self.written += 1

        monkeypatch.setattr(Commit, "write", held)

    async def has_begun(self) -> None:
        assert await trio.to_thread.run_sync(self.begun.acquire, True, DEADLINE_S)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def change(store: Store, name: bytes) -> None:
    store.volume("lab").create(ROOT_INO, name, 0o644, 0, 0)


def run(store: Store, main: Main) -> None:
    """``main`` beside a committer, which ends with it."""

    async def both() -> None:
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                committer = Committer(store)
                nursery.start_soon(committer.run)
                await trio.testing.wait_all_tasks_blocked()
                await main(committer)
                nursery.cancel_scope.cancel()

    trio.run(both)


def test_a_commit_has_what_was_done_when_it_was_asked_for(store: Store, disk: Disk) -> None:
    async def main(committer: Committer) -> None:
        change(store, b"a")
        committer.tell(lambda _: None)
        assert not store.dirty  # captured in the same step
        disk.go.release()

    run(store, main)
    assert disk.written == 1


def test_who_asks_while_a_commit_is_written_waits_for_the_next(store: Store, disk: Disk) -> None:
    told: list[str] = []

    async def main(committer: Committer) -> None:
        change(store, b"a")
        committer.tell(lambda _: told.append("a"))
        await disk.has_begun()
        change(store, b"b")
        committer.tell(lambda _: told.append("b"))
        committer.tell(lambda _: told.append("c"))
        disk.go.release()
        await disk.has_begun()
        assert told == ["a"]
        disk.go.release()
        await committer.durable()
        assert told == ["a", "b", "c"]

    run(store, main)
    assert disk.written == 2  # those who waited shared one; nothing new: there was nothing to do


def test_the_task_ends_when_its_commit_is_finished(store: Store, disk: Disk) -> None:
    told: list[object] = []

    async def main(committer: Committer) -> None:
        change(store, b"a")
        committer.tell(told.append)
        await disk.has_begun()
        trio.lowlevel.current_trio_token().run_sync_soon(disk.go.release)

    run(store, main)
    assert told == [None]
    assert disk.written == 1


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), RuntimeError("a mistake")])
def test_all_are_told_when_a_commit_cannot_be_written(
    store: Store, disk: Disk, error: Exception
) -> None:
    disk.error = error
    told: list[errors.RametError | None] = []

    async def main(committer: Committer) -> None:
        change(store, b"a")
        committer.tell(told.append)
        await disk.has_begun()
        change(store, b"b")
        committer.tell(told.append)
        disk.go.release()
        with pytest.raises(errors.StoreFailed):
            await committer.durable()
        with pytest.raises(errors.StoreFailed):
            await committer.durable()  # and so is everyone who comes later
        await committer.admit()

    run(store, main)
    assert [type(each) for each in told] == [errors.StoreFailed] * 2
    assert store.failed is not None


def test_who_cannot_be_told_keeps_no_answer_from_others(store: Store) -> None:
    told: list[object] = []

    def fails(_: object) -> None:
        raise RuntimeError("a mistake")

    async def main(committer: Committer) -> None:
        change(store, b"a")
        for each in (fails, told.append):
            committer.tell(each)
        await committer.durable()

    run(store, main)
    assert told == [None]


def test_a_commit_that_cannot_be_finished_ends_the_task(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    finish = store.finish

    def fails(commit: Commit) -> None:
        finish(commit)
        raise RuntimeError("a mistake")

    async def main(committer: Committer) -> None:
        change(store, b"a")
        committer.tell(told.append)
        await trio.sleep_forever()

    with monkeypatch.context() as patched, pytest.raises(ExceptionGroup) as raised:
        patched.setattr(store, "finish", fails)
        run(store, main)
    assert raised.group_contains(RuntimeError, match="a mistake")
    assert isinstance(told[0], errors.StoreFailed)


def test_who_is_alone_keeps_commits_from_beginning(store: Store, disk: Disk) -> None:
    told: list[object] = []

    async def main(committer: Committer) -> None:
        async with committer.alone():
            change(store, b"a")
            committer.tell(told.append)
            assert store.dirty
            commit = store.capture()
            assert commit is not None
            disk.go.release()
            await committer.write(commit)
            change(store, b"b")
            assert not told
        await disk.has_begun()
        disk.go.release()
        await committer.durable()
        assert told == [None]

    run(store, main)
    assert disk.written == 2


def test_who_wanted_to_be_alone_and_was_cancelled_leaves_the_turn_to_others(
    store: Store, disk: Disk
) -> None:
    seen: list[str] = []

    async def main(committer: Committer) -> None:
        async def alone(name: str, scope: trio.CancelScope) -> None:
            with scope:
                async with committer.alone():
                    seen.append(name)

        scopes = {name: trio.CancelScope() for name in ("gone", "late", "stays")}
        async with trio.open_nursery() as nursery, committer.alone():
            for name, scope in scopes.items():
                nursery.start_soon(alone, name, scope)
                await trio.testing.wait_all_tasks_blocked()
            scopes["gone"].cancel()
            await trio.testing.wait_all_tasks_blocked()
            scopes["late"].cancel()  # and is given the turn before it knows
        change(store, b"a")
        disk.go.release()
        await committer.durable()

    run(store, main)
    assert seen == ["stays"]


def test_what_nobody_asked_for_is_committed_in_the_end(
    store: Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "IDLE_COMMIT_S", 0.01)

    async def main(committer: Committer) -> None:
        change(store, b"a")
        await disk.has_begun()
        disk.go.release()

    run(store, main)
    assert disk.written == 1
