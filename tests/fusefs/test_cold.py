"""Requests that wait on a thread: others go on, and nothing is mixed up when they end.

Here they wait for nodes that are not in memory; a disk that stalls is in test_cold_answers.py.
"""

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from held_threads import Threads, nothing

from engine import ROOT_INO, Store
from fusefs.mount import serve

BLOCK = 4096
DEADLINE_S = 30
A, B = b"A" * (8 * BLOCK), b"B" * (8 * BLOCK)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Files ``a`` and ``b``; of ``a`` no node is in memory."""
    Store.create(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    lab = store.create_volume("lab")
    for name, data in ((b"a", A), (b"b", B)):
        lab.write(lab.create(ROOT_INO, name, 0o644, 0, 0).ino, 0, data)
    store.commit()
    store.pool.core.forget()
    ino = lab.lookup(ROOT_INO, b"b").ino
    lab.read(ino, 0, BLOCK)
    return store


def read(path: Path) -> bytes:
    return path.read_bytes()


def patch(path: Path) -> int:
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.pwrite(fd, b"patched", 5)
    finally:
        os.close(fd)


def cut(path: Path) -> int:
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.truncate(fd, 100) or 0
    finally:
        os.close(fd)


AFTER = {
    read: (A, A),
    patch: (7, A[:5] + b"patched" + A[12:]),
    cut: (0, A[:100]),
}


def others(root: Path) -> None:
    path = root / "lab/b"
    assert path.read_bytes() == B
    assert patch(path) == 7
    assert path.read_bytes() == B[:5] + b"patched" + B[12:]
    assert path.stat().st_size == len(B)


async def with_mount(
    store: Store, root: Path, threads: Threads, use: Callable[[trio.Nursery], Awaitable[None]]
) -> None:
    root.mkdir()

    async def start(task_status: trio.TaskStatus[None]) -> None:
        await serve(
            store, root, durable=nothing, admit=nothing, full=lambda: False, on_thread=threads.run,
            task_status=task_status,
        )  # fmt: skip

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(start)
            await use(nursery)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("call", AFTER)
def test_others_go_on_while_one_waits(
    store: Store, tmp_path: Path, call: Callable[[Path], object]
) -> None:
    root, threads, results = tmp_path / "mnt", Threads(), []

    async def ask() -> None:
        results.append(await trio.to_thread.run_sync(call, root / "lab/a"))

    async def use(_: trio.Nursery) -> None:
        async with trio.open_nursery() as asking:
            asking.start_soon(ask)
            await threads.waiting.wait()
            try:
                with trio.fail_after(DEADLINE_S):
                    await trio.to_thread.run_sync(others, root, abandon_on_cancel=True)
                assert not results
            finally:
                threads.released.set()

    trio.run(with_mount, store, root, threads, use)
    lab = store.volume("lab")
    assert (results[0], lab.read(lab.lookup(ROOT_INO, b"a").ino, 0, 1 << 20)) == AFTER[call]
    assert store.pool.oldest_pin() is None
    assert store.pool.meta.readers == 0
    store.close()


def test_a_mount_that_ends_waits_for_its_threads(store: Store, tmp_path: Path) -> None:
    root, threads = tmp_path / "mnt", Threads()

    def ask() -> bytes | int:
        try:
            return read(root / "lab/a")
        except OSError as error:
            return error.errno or -1

    answers: list[bytes | int] = []

    async def asking() -> None:
        answers.append(await trio.to_thread.run_sync(ask))

    async def use(nursery: trio.Nursery) -> None:
        beside.start_soon(asking)
        await threads.waiting.wait()
        nursery.cancel_scope.cancel()
        threads.released.set()

    async def main() -> None:
        nonlocal beside
        async with trio.open_nursery() as beside:
            await with_mount(store, root, threads, use)

    beside: trio.Nursery
    trio.run(main)
    assert answers in ([A], [errno.ECONNABORTED], [errno.ENOTCONN])
    assert store.pool.oldest_pin() is None
    assert store.pool.meta.readers == 0
    assert not os.path.ismount(root)
    store.close()
