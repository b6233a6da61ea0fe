"""Syncs that the intent log answers, beside commits and instead of them."""

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from test_commits import DEADLINE_S, Disk, run

from engine import ROOT_INO, Store, errors
from engine.intent_log import IntentLog, NoLog, Record
from service.commits import Committer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """With a durable file, inode 2 of ``lab``."""
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store", log_bytes=2 << 20) as made:
        lab = made.create_volume("lab")
        lab.write(lab.create(ROOT_INO, b"disk", 0o644, 0, 0).ino, 0, b"x" * 9000)
        made.want_log()
        made.make_log()
        made.log_made()
        made.commit()
        yield made


class LogDisk:
    """Holds each record until it is let go; counts those that were written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.written = 0
        self.error: Exception | None = None
        write = IntentLog.write

        def held(log: IntentLog, record: Record) -> None:
            self.begun.release()
            assert self.go.acquire(timeout=DEADLINE_S)
            if self.error is not None:
                raise self.error
            write(log, record)
            self.written += 1

        monkeypatch.setattr(IntentLog, "write", held)

    async def has_begun(self) -> None:
        assert await trio.to_thread.run_sync(self.begun.acquire, True, DEADLINE_S)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> LogDisk:
    return LogDisk(monkeypatch)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def write(store: Store, data: bytes) -> None:
    lab = store.volume("lab")
    lab.write(lab.lookup(ROOT_INO, b"disk").ino, 0, data)


def read(store: Store, size: int) -> bytes:
    lab = store.volume("lab")
    return lab.read(lab.lookup(ROOT_INO, b"disk").ino, 0, size)


def test_data_need_no_commit(store: Store, disk: Disk) -> None:
    path = store.path

    async def main(committer: Committer) -> None:
        for word in (b"one", b"two"):
            write(store, word)
            await committer.synced()

    run(store, main)
    assert disk.written == 0
    store.abandon()
    disk.go.release()
    with Store.open(path) as again:
        assert read(again, 3) == b"two"


def test_who_wants_a_commit_gets_one(store: Store, log: LogDisk, disk: Disk) -> None:
    """Who reads a commit afterwards, or needs the slots that it frees."""
    told: list[str] = []

    async def main(committer: Committer) -> None:
        write(store, b"a")
        committer.tell(lambda _: told.append("synced"))
        await log.has_begun()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.durable)
            await disk.has_begun()
            disk.go.release()
        assert not told
        assert not store.dirty
        log.go.release()

    run(store, main)
    assert told == ["synced"]
    assert disk.written == 1


def test_who_asks_while_a_record_is_written_shares_the_next(store: Store, log: LogDisk) -> None:
    told: list[str] = []

    async def main(committer: Committer) -> None:
        write(store, b"a")
        committer.tell(lambda _: told.append("a"))
        await log.has_begun()
        write(store, b"b")
        committer.tell(lambda _: told.append("b"))
        committer.tell(lambda _: told.append("c"))
        log.go.release()
        await log.has_begun()
        assert told == ["a"]
        log.go.release()
        await committer.synced()
        assert told == ["a", "b", "c"]

    run(store, main)
    assert log.written == 2


def test_a_record_does_not_wait_for_a_commit(store: Store, disk: Disk) -> None:
    async def main(committer: Committer) -> None:
        write(store, b"captured")
        async with committer.alone():
            commit = store.capture()
            assert commit is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(committer.write, commit)
                await disk.has_begun()
                write(store, b"after")
                await committer.synced()
                assert disk.written == 0
                disk.go.release()

    run(store, main)
    assert disk.written == 1


def test_a_name_does_not_wait_for_a_record(store: Store, log: LogDisk, disk: Disk) -> None:
    told: list[str] = []

    async def main(committer: Committer) -> None:
        write(store, b"a")
        committer.tell(lambda _: told.append("a"))
        await log.has_begun()
        store.volume("lab").create(ROOT_INO, b"new", 0o644, 0, 0)
        disk.go.release()
        await committer.synced()
        assert told == []
        log.go.release()
        await trio.testing.wait_all_tasks_blocked()

    run(store, main)
    assert told == ["a"]
    assert disk.written == 1


def test_a_record_without_room_becomes_a_commit(store: Store, log: LogDisk, disk: Disk) -> None:
    log.error = NoLog()

    async def main(committer: Committer) -> None:
        write(store, b"a")
        log.go.release()
        disk.go.release()
        await committer.synced()

    run(store, main)
    assert (log.written, disk.written) == (0, 1)


def test_a_record_that_fails_stops_the_store(store: Store, log: LogDisk) -> None:
    log.error = OSError(errno.EIO, "broken")
    told: list[errors.RametError | None] = []

    async def main(committer: Committer) -> None:
        write(store, b"a")
        committer.tell(told.append)
        await log.has_begun()
        write(store, b"b")
        committer.tell(told.append)
        log.go.release()
        with pytest.raises(errors.StoreFailed):
            await committer.synced()

    run(store, main)
    assert [type(each) for each in told] == [errors.StoreFailed] * 2
    assert "intent log" in (store.failed or "")


def test_a_commit_does_while_the_log_is_made(
    store: Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.log.close(remove=True)
    store.log.wanted = False
    go, prepare = threading.Event(), IntentLog.prepare

    def held(log: IntentLog) -> None:
        assert go.wait(DEADLINE_S)
        prepare(log)

    monkeypatch.setattr(IntentLog, "prepare", held)

    async def main(committer: Committer) -> None:
        write(store, b"a")
        disk.go.release()
        await committer.synced()
        assert disk.written == 1
        go.set()
        while not store.log.ready:
            await trio.sleep(0.01)
        write(store, b"b")
        disk.go.release()
        await committer.synced()  # it has the slots that are held for the log
        assert disk.written == 2
        write(store, b"c")
        await committer.synced()

    run(store, main)
    assert disk.written == 2


def test_a_commit_comes_before_the_log_is_full(store: Store, disk: Disk) -> None:
    """Nobody waits for it: records go to the other region meanwhile."""

    async def main(committer: Committer) -> None:
        for n in range(80):
            write(store, bytes([n]) * 9000)
            await committer.synced()
        await disk.has_begun()
        assert disk.written == 0
        disk.go.release()

    run(store, main)
    assert disk.written == 1
