"""copy_file_range and fallocate wait for room among the dirty nodes, like every change."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from engine import ROOT_INO, Store
from fusefs.mount import serve

BLOCK = 4096
DEADLINE_S = 30


class Door:
    """Lets changes in when it is open; knows when one waits."""

    def __init__(self) -> None:
        self.room = trio.Event()
        self.waiting = trio.Event()

    def full(self) -> bool:
        return not self.room.is_set()

    async def admit(self) -> None:
        if not self.room.is_set():
            self.waiting.set()
            await self.room.wait()


async def nothing() -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    Store.create(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    lab = store.create_volume("lab")
    for name, letter in ((b"a", b"A"), (b"b", b"B")):
        lab.write(lab.create(ROOT_INO, name, 0o644, 0, 0).ino, 0, letter * (8 * BLOCK))
    return store


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A close after the end of the mount fails, and is not what is asked here."""
    fd = os.open(path, os.O_RDWR)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def copy(root: Path) -> int:
    with opened(root / "lab/a") as source, opened(root / "lab/b") as target:
        return os.copy_file_range(source, target, 2 * BLOCK, 0, 4 * BLOCK)


def grow(root: Path) -> int:
    with opened(root / "lab/b") as fd:
        os.posix_fallocate(fd, 0, 20 * BLOCK)
    return 0


def write(root: Path) -> int:
    with opened(root / "lab/b") as fd:
        return os.pwrite(fd, b"AB" * BLOCK, 3)


def contents(store: Store) -> bytes:
    lab = store.volume("lab")
    inode = lab.lookup(ROOT_INO, b"b")
    return lab.read(inode.ino, 0, inode.size)


AFTER = {
    copy: (2 * BLOCK, b"B" * (4 * BLOCK) + b"A" * (2 * BLOCK) + b"B" * (2 * BLOCK)),
    grow: (0, b"B" * (8 * BLOCK) + bytes(12 * BLOCK)),
    write: (2 * BLOCK, b"BBB" + b"AB" * BLOCK + b"B" * (6 * BLOCK - 3)),
}


@pytest.mark.parametrize("call", AFTER)
def test_they_wait_for_room_and_then_are_done(
    store: Store, tmp_path: Path, call: Callable[[Path], int]
) -> None:
    root = tmp_path / "mnt"
    root.mkdir()
    door, results = Door(), []

    async def ask() -> None:
        results.append(await trio.to_thread.run_sync(call, root))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(start_mount)
            async with trio.open_nursery() as asking:
                asking.start_soon(ask)
                await door.waiting.wait()
                assert contents(store) == b"B" * (8 * BLOCK)
                assert not results
                stat = await trio.to_thread.run_sync(os.stat, root / "lab/a")  # others go on
                assert stat.st_size == 8 * BLOCK
                door.room.set()
            nursery.cancel_scope.cancel()

    async def start_mount(task_status: trio.TaskStatus[None]) -> None:
        await serve(
            store, root, durable=nothing, admit=door.admit, full=door.full, task_status=task_status
        )

    trio.run(_within, main)
    assert (results[0], contents(store)) == AFTER[call]
    assert not os.path.ismount(root)
    store.close()


@pytest.mark.parametrize("call", AFTER)
def test_a_mount_that_ends_answers_who_waits(
    store: Store, tmp_path: Path, call: Callable[[Path], int]
) -> None:
    root = tmp_path / "mnt"
    root.mkdir()
    door, refused = Door(), []

    async def ask() -> None:
        with pytest.raises(OSError) as caught:
            await trio.to_thread.run_sync(call, root)
        refused.append(caught.value.errno)

    async def main() -> None:
        async with trio.open_nursery() as asking, trio.open_nursery() as nursery:
            await nursery.start(start_mount)
            asking.start_soon(ask)
            await door.waiting.wait()
            nursery.cancel_scope.cancel()

    async def start_mount(task_status: trio.TaskStatus[None]) -> None:
        await serve(
            store, root, durable=nothing, admit=door.admit, full=door.full, task_status=task_status
        )

    trio.run(_within, main)
    assert refused in ([errno.EIO], [errno.ECONNABORTED])  # the second: pyfuse3 ended first
    assert contents(store) == b"B" * (8 * BLOCK)
    store.close()


async def _within(main: Callable[[], object]) -> None:
    with trio.fail_after(DEADLINE_S):
        await main()  # type: ignore[misc]
