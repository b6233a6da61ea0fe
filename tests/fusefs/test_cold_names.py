"""Requests that change names or attributes wait on a thread before they begin, and never within."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio
from held_threads import Threads, nothing

from engine import ROOT_INO, Store, numbers
from fusefs.operations import Operations

BLOCK = 4096
DEADLINE_S = 30
CONTEXT: Any = SimpleNamespace(uid=0, gid=0, umask=0, pid=1)
Request = Callable[[Operations, Callable[[bytes], int]], Awaitable[object]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store", records_max=16, fanout=8)
    with Store.open(tmp_path / "store") as made:
        lab = made.create_volume("lab")
        for n in range(90):
            lab.create(ROOT_INO, b"other %d" % n, 0o644, 0, 0)
        ino = lab.create(ROOT_INO, b"file", 0o644, 0, 0).ino
        for n in range(100):
            lab.write(ino, n * 2 * BLOCK, b"data")
        lab.set_xattr(ino, b"user.a", b"b")
        lab.mkdir(ROOT_INO, b"dir", 0o755, 0, 0)
        made.commit()
        yield made


def forget(store: Store) -> None:
    store.pool.core.forget()
    store.pool.nodes._nodes.clear()
    store.volume("lab").drop_caches()


def attributes(size: int) -> pyfuse3.EntryAttributes:
    wanted = pyfuse3.EntryAttributes()
    wanted.st_size = size
    return wanted


SIZE: Any = SimpleNamespace(
    update_size=True, update_mode=False, update_uid=False, update_gid=False, update_atime=False,
    update_mtime=False,
)  # fmt: skip
REQUESTS: dict[str, Request] = {
    "create": lambda o, at: o.create(at(b""), b"new", 0o644, 0, CONTEXT),
    "mknod": lambda o, at: o.mknod(at(b""), b"new", 0o644, 0, CONTEXT),
    "mkdir": lambda o, at: o.mkdir(at(b""), b"new", 0o755, CONTEXT),
    "symlink": lambda o, at: o.symlink(at(b""), b"new", b"target", CONTEXT),
    "link": lambda o, at: o.link(at(b"file"), at(b""), b"new", CONTEXT),
    "unlink": lambda o, at: o.unlink(at(b""), b"file", CONTEXT),
    "rmdir": lambda o, at: o.rmdir(at(b""), b"dir", CONTEXT),
    "rename": lambda o, at: o.rename(at(b""), b"file", at(b"dir"), b"new", 0, CONTEXT),
    "cut": lambda o, at: o.setattr(at(b"file"), attributes(3 * BLOCK), SIZE, None, CONTEXT),
    "opendir": lambda o, at: o.opendir(at(b""), CONTEXT),
    "setxattr": lambda o, at: o.setxattr(at(b"file"), b"user.a", b"c", CONTEXT),
    "removexattr": lambda o, at: o.removexattr(at(b"file"), b"user.a", CONTEXT),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_waits_before_it_changes_anything(store: Store, name: str) -> None:
    lab, threads = store.volume("lab"), Threads()
    inos = {n: lab.lookup(ROOT_INO, n).ino for n in (b"file", b"dir")} | {b"": ROOT_INO}
    operations = Operations(
        store, volume=None, durable=nothing, admit=nothing, on_thread=threads.run
    )
    on_loop = 0
    load, read = store.pool.nodes._load, store.pool.core._load_node

    def counted(of: Callable[[int], bytes]) -> Callable[[int], bytes]:
        def loaded(node: int) -> bytes:
            nonlocal on_loop
            on_loop += node not in warm
            return of(node)

        return loaded

    warm: set[int] = set()
    warm_node = store.pool.meta.warm_node

    def warmed(node: int) -> None:
        warm.add(node)
        warm_node(node)

    async def main() -> None:
        done = False

        async def ask() -> None:
            nonlocal done
            await REQUESTS[name](operations, lambda n: numbers.join(lab.id, inos[n]))
            done = True

        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await threads.waiting.wait()
                assert not done
                assert not store.dirty
                threads.released.set()

    forget(store)
    store.pool.nodes._load, store.pool.core._load_node = counted(load), counted(read)
    store.pool.meta.warm_node = warmed  # type: ignore[method-assign]
    trio.run(main)
    assert warm
    assert on_loop == 0  # each node had been read by a thread
    assert store.dirty == (name != "opendir")
