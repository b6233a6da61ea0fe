"""Serve a mount from start to unmount, inside the caller's trio program."""

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pyfuse3
import trio

from engine import Store, Volume, errors
from engine.cold import Work
from fusefs import at_once, extra
from fusefs.cold_requests import OnThread
from fusefs.invalidate import Drop
from fusefs.known import Known
from fusefs.operations import Operations

# pyfuse3 has one for each request that is under way, and reads no other when all of them wait. A
# buffer of 1 MiB goes with each, of which the kernel backs what its largest request has filled.
REQUESTS_MAX = 256
OPTIONS = {"default_permissions", "nosuid", "nodev", "allow_other"}


async def on_thread(work: Work) -> None:
    """Where nobody else has threads to spare."""
    await trio.to_thread.run_sync(work)


def check_mountpoint(path: Path, *, nonempty: bool = False) -> None:
    """Refuse what would hide somebody's files, unless told that it may."""
    if not path.is_dir():
        raise errors.NotADirectory(f"{path} is no directory; make it first")
    if os.path.ismount(path):
        raise errors.Busy(f"something is mounted at {path}; unmount it first")
    if not nonempty and any(path.iterdir()):
        raise errors.NotEmpty(f"{path} is not empty; mount at an empty directory")


async def serve(
    store: Store,
    mountpoint: Path,
    *,
    volume: Volume | None = None,
    durable: Callable[[], Awaitable[None]],
    admit: Callable[[], Awaitable[None]],
    full: Callable[[], bool],
    on_thread: OnThread = on_thread,
    flags: Iterable[str] = (),
    source: str | None = None,
    real_blocks: bool = False,
    nonempty: bool = False,
    known: Known | None = None,
    drop_pages: Drop | None = None,
    settled: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    before_close: Callable[[], None] = lambda: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount, say so, and answer requests until the mount goes away or the task is cancelled.

    ``full`` says whether ``admit`` would wait.  ``flags`` are the kernel's (ro, noexec, ...),
    ``source`` what is said to be mounted.  ``known`` notes what the kernel is told.
    ``drop_pages`` tells it what to drop, ``settled`` returns when it has.
    ``before_close`` ends what still uses the session: closing frees it, and its descriptor's number
    may be another file's at once.
    """
    check_mountpoint(mountpoint, nonempty=nonempty)
    operations = Operations(
        store, volume=volume, durable=durable, admit=admit, on_thread=on_thread,
        real_blocks=real_blocks, known=known, drop_pages=drop_pages, settled=settled,
    )  # fmt: skip
    cold = operations.cold
    before = cold.before_copy, cold.before_allocate, cold.before_seek
    calls = extra.Calls(admit, *operations.callbacks(), before)
    named = Option(f"fsname={escaped(source or f'ramet:{store.path}')}")
    pyfuse3.init(operations, str(mountpoint), OPTIONS | {*flags, named, "subtype=ramet"})
    async with contextlib.AsyncExitStack() as ending:  # from the last to the first
        ending.callback(pyfuse3.close, unmount=True)
        ending.callback(before_close)
        reads = at_once.begin(operations, full)
        ending.push_async_callback(reads.close)
        ending.callback(at_once.end)
        async with trio.open_nursery() as nursery:
            calls.nursery = nursery
            nursery.start_soon(reads.run)
            task_status.started()
            await pyfuse3.main(max_tasks=REQUESTS_MAX)
            nursery.cancel_scope.cancel()  # who still waits is answered, before the session goes


class Option(str):
    """One that names a path: pyfuse3 asks for ASCII, the kernel takes a path's bytes."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return str.encode(self, "utf-8", "surrogateescape")


def escaped(text: str) -> str:
    """For a comma-separated list of options."""
    return text.replace("\\", "\\\\").replace(",", "\\,")
