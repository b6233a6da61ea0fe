"""Serve a mount from start to unmount, inside the caller's trio program."""

import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pyfuse3
import trio

from engine import Store, Volume, errors
from fusefs import extra
from fusefs.known import Known
from fusefs.operations import Operations

OPTIONS = {"default_permissions", "nosuid", "nodev", "allow_other"}


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
    flags: Iterable[str] = (),
    source: str | None = None,
    real_blocks: bool = False,
    nonempty: bool = False,
    known: Known | None = None,
    before_close: Callable[[], None] = lambda: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount, say so, and answer requests until the mount goes away or the task is cancelled.

    ``flags`` are the kernel's (ro, noexec, ...), ``source`` what is said to be mounted.  ``known``
    notes what the kernel is told.  ``before_close`` ends what still uses the session:
    closing frees it, and its descriptor's number may be another file's at once.
    """
    check_mountpoint(mountpoint, nonempty=nonempty)
    operations = Operations(
        store, volume=volume, durable=durable, admit=admit, real_blocks=real_blocks, known=known
    )
    calls = extra.Calls(admit, *operations.callbacks())
    named = escaped(source or f"ramet:{store.path}")
    pyfuse3.init(
        operations, str(mountpoint), OPTIONS | {*flags, f"fsname={named}", "subtype=ramet"}
    )
    try:
        async with trio.open_nursery() as nursery:
            calls.nursery = nursery
            task_status.started()
            await pyfuse3.main()
            nursery.cancel_scope.cancel()  # who still waits is answered, before the session goes
    finally:
        before_close()
        pyfuse3.close(unmount=True)


def escaped(text: str) -> str:
    """For a comma-separated list of options."""
    return text.replace("\\", "\\\\").replace(",", "\\,")
