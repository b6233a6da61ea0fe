"""A store has one owner: the process that has the lock of its directory."""

import fcntl
import os
from pathlib import Path

from engine import errors


def lock(root: Path) -> int:
    """The store's lock, for one owner; NoSuchStore, StoreInUse.  The caller closes it.

    Who only waits for an owner to end takes it shared (``wait_for_owner``), and lets it go at once.
    """
    if not (root / "meta").is_dir():
        raise errors.NoSuchStore(f"{root} is no store; make one with `ramet init {root}`")
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while not _locked(fd, fcntl.LOCK_EX):
        if not _locked(fd, fcntl.LOCK_SH):
            os.close(fd)
            raise errors.StoreInUse(f"another process owns {root}; use its daemon or stop it first")
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.sched_yield()
    return fd


def _locked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_owner(root: Path) -> None:
    """Return when nobody owns the store, at some instant."""
    with (root / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
