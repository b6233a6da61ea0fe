"""A daemon that is told to stop: in which order, and what it says at the end."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyfuse3
import pytest

from engine import ROOT_INO, Store, errors, fsck
from engine.accounting import Accounting
from engine.gc import Gc
from engine.scrub import Scrub
from fusefs.invalidate import Invalidator
from service import background, daemon
from service.addresses import Context
from service.rpc import Client
from service.steps import Steps, durable

DEADLINE_S = 60
Call = Callable[..., Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        lab.write(lab.create(ROOT_INO, b"f", 0o644, 0, 0).ino, 0, os.urandom(1 << 20))
    return tmp_path / "store"


class Asking(threading.Thread):
    """One request beside the daemon, which has this process's main thread."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._call()
        except Exception as error:
            self.error = error

    def ended(self) -> Exception | None:
        self.join(DEADLINE_S)
        assert not self.is_alive()
        return self.error


def ask(path: Path, method: str) -> Asking:
    client = Client.connect(path)
    assert client is not None
    asking = Asking(lambda: client.call(method))
    asking.start()
    return asking


def stop(path: Path) -> Asking:
    stopping = Asking(lambda: background.stop(str(path)))
    stopping.start()
    return stopping


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Call], None]:
    def add(call: Call) -> None:
        monkeypatch.setitem(daemon.CHANGES, call.__name__, call)

    return add


def test_work_that_is_stopped_undoes_what_it_did_durably(
    path: Path, command: Callable[[Call], None]
) -> None:
    done: list[str] = []
    clients: list[Asking] = []

    def half(context: Context) -> Steps[None]:
        lab = context.store.volume("lab")
        lab.mkdir(ROOT_INO, b"half", 0o755, 0, 0)
        clients.append(stop(path))
        try:
            while True:
                yield None
        finally:
            lab.rmdir(ROOT_INO, b"half")
            yield durable
            done.append("undone")

    command(half)
    daemon.serve(str(path), None, lambda: clients.append(ask(path, "half")))
    assert done == ["undone"]
    asked, stopped = clients if isinstance(clients[0].ended(), Exception) else clients[::-1]
    assert "went away" in str(asked.ended())
    assert stopped.ended() is None
    with Store.open(path) as store:
        assert [e.name for e in store.volume("lab").readdir(ROOT_INO)] == [b"f"]
        assert fsck.check(store).clean


def test_a_pass_on_a_thread_ends_when_the_daemon_stops(
    path: Path, command: Callable[[Call], None]
) -> None:
    seen: list[Exception] = []
    clients: list[Asking] = []

    def endless(context: Context) -> Steps[None]:
        reader = context.store.pool.reader()

        def visit() -> None:
            clients.append(stop(path))
            while True:
                list(reader.node_ids())

        try:
            yield visit
        except errors.Busy as error:
            seen.append(error)
            raise
        finally:
            reader.close()

    command(endless)
    daemon.serve(str(path), None, lambda: clients.append(ask(path, "endless")))
    assert [str(error)[:28] for error in seen] == ["the store is about to close;"]
    for client in clients:
        client.ended()


def passes(store: Store) -> Iterator[Callable[[], object]]:
    yield Accounting(store.pool).run
    yield lambda: fsck.check(store)
    gc = Gc(store.pool)
    gc.open()
    yield gc.mark
    for step in ("mark", "read"):
        run = Scrub(store.pool)
        assert run.open()
        if step == "mark":
            yield run.mark
        else:
            run.skip_window()
            run.open_names()
            yield run.name


def test_every_pass_can_be_interrupted(path: Path) -> None:
    with Store.open(path) as store:
        every = list(passes(store))
        store.pool.meta.interrupt()
        for each in every:
            with pytest.raises(errors.Busy, match="about to close"):
                each()
        run = Scrub(store.pool)
        run.open()
        with pytest.raises(errors.Busy, match="about to close"):
            next(run.reads())()


def test_stop_says_that_the_last_commit_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[Asking] = []

    def last_words() -> None:
        def broken(*_: object) -> None:
            raise OSError(errno.EIO, "the disk is gone")

        monkeypatch.setattr("engine.commit.Commit.write", broken)
        client = Client.connect(path)
        assert client is not None
        asking = Asking(lambda: client.call("volume_create", "new", 0, False))
        asking.start()
        clients.append(stop(path))

    with pytest.raises(errors.RametError, match="the disk is gone"):
        daemon.serve(str(path), None, last_words)
    error = clients[-1].ended()
    assert isinstance(error, errors.RametError)
    assert "the disk is gone" in str(error)
    assert Client.connect(path) is None


@pytest.mark.parametrize(("what", "logged"), [("runner.recover", 2), ("moments.recover", 1)])
def test_what_cannot_be_recovered_is_logged_and_the_store_served(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], what: str,
    logged: int,
) -> None:  # fmt: skip
    with Store.open(path) as store:
        jobs = Context(store).jobs
        for uri in ("", "test:///default"):
            job = jobs.create("clone", "a -> b")
            jobs.begin(job)
            job.uri = uri
            jobs.save(job, [])

    def damaged(*_: object) -> Steps[None]:
        raise errors.Corrupt("a node is damaged")
        yield None

    monkeypatch.setattr(f"service.{what}", damaged)
    clients: list[Asking] = []

    def ready() -> None:
        clients.append(ask(path, "status"))
        clients.append(stop(path))

    daemon.serve(str(path), None, ready)
    assert [each.ended() for each in clients] == [None, None]
    assert capfd.readouterr().err.count(": a node is damaged") == logged


def test_notices_end_before_the_session_does(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[bool] = []
    made: list[Invalidator] = []
    real_close, real_init = pyfuse3.close, Invalidator.__init__

    def remember(self: Invalidator, *arguments: Any) -> None:
        real_init(self, *arguments)
        made.append(self)

    def close(unmount: bool = True) -> None:
        alive.append(made[0]._thread.is_alive())
        real_close(unmount)

    monkeypatch.setattr(Invalidator, "__init__", remember)
    monkeypatch.setattr(pyfuse3, "close", close)
    root = tmp_path / "mnt"
    root.mkdir()
    daemon.serve(str(path), str(root), lambda: stop(path))
    daemon.serve(str(path), str(root), lambda: Asking(lambda: os.system(f"umount {root}")).start())
    assert alive == [False, False]
    assert not os.path.ismount(root)
