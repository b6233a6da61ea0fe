"""Mistakes in the commit protocol, to prove that the harness sees them.

Each is put into the workload's process by replacing a part of the engine; the engine itself knows
nothing of it.  A name that is gone from the engine is an AttributeError here, not a bug that is
silently absent.
"""

import os
import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from engine import Store, meta
from engine.commit import Commit
from engine.intent_log import IntentLog, Logged, Record
from engine.replay_room import ReplayRoom
from engine.slabs import SlabPool
from native import lib


def _replace(owner: Any, name: str, new: Callable[..., Any]) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more"
    setattr(owner, name, new)


def no_slab_fdatasync() -> None:
    """The map is durable, the blocks it names are wherever the page cache has them."""
    _replace(SlabPool, "sync", lambda _self, _slabs: None)


def map_before_data() -> None:
    """Both are made durable, in the wrong order."""
    write, sync = Commit.write, SlabPool.sync

    def map_first(self: Commit) -> None:
        delayed: list[Callable[[], None]] = []
        SlabPool.sync = lambda pool, slabs: delayed.append(partial(sync, pool, slabs))
        try:
            write(self)
        finally:
            SlabPool.sync = sync
        for each in delayed:
            each()

    _replace(Commit, "write", map_first)


def slot_reused_too_early() -> None:
    """Slots that a commit frees may be written before that commit is durable."""
    capture = Store.capture

    def release_at_capture(self: Store, *, force: bool = False) -> Commit | None:
        commit = capture(self, force=force)
        if commit is not None:
            lib.rmt_release_freed(self.pool.core._core, commit.sealed.c)
        return commit

    _replace(Store, "capture", release_at_capture)


def no_directory_fsync() -> None:
    """New names are left to the host file system: of slabs, and of the store itself."""
    fsync = os.fsync

    def files_only(fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            fsync(fd)

    _replace(os, "fsync", files_only)


def no_slab_directory_fsync() -> None:
    """The same of slabs alone: a slab's bytes are made durable, its name is not."""
    _replace(SlabPool, "_sync_names", lambda _self: None)


def lmdb_nosync() -> None:
    """The metadata's transactions return before they are on disk."""
    _replace(meta.lmdb, "open", partial(meta.lmdb.open, sync=False))


def no_log_fdatasync() -> None:
    """A record of the intent log is acknowledged before it is on disk."""

    def written(self: IntentLog, record: Record) -> None:
        os.pwrite(self._fd, record.raw, record.at)

    _replace(IntentLog, "write", written)


def log_of_the_last_commit() -> None:
    """Records are taken for superfluous: they name the commit before the one that has them."""
    record = IntentLog.record

    def named_wrong(self: IntentLog, commit: int, writes: Sequence[Logged]) -> Record | None:
        return record(self, commit - 1, writes)

    _replace(IntentLog, "record", named_wrong)


def log_forgets_captured_writes() -> None:
    """What was captured by a commit that is under way is taken for durable."""
    capture = Store.capture

    def forget(self: Store, *, force: bool = False) -> Commit | None:
        commit = capture(self, force=force)
        self.pool.intents.logged()
        self.pool.intents._durable = self.pool.generation - 1
        return commit

    _replace(Store, "capture", forget)


def log_without_room() -> None:
    """No space is allocated for what the log's records have."""
    _replace(ReplayRoom, "allocate", lambda _self: None)


BUGS = {
    "no-slab-fdatasync": no_slab_fdatasync,
    "map-before-data": map_before_data,
    "slot-reused-too-early": slot_reused_too_early,
    "no-directory-fsync": no_directory_fsync,
    "no-slab-directory-fsync": no_slab_directory_fsync,
    "lmdb-nosync": lmdb_nosync,
    "no-log-fdatasync": no_log_fdatasync,
    "log-of-the-last-commit": log_of_the_last_commit,
    "log-forgets-captured-writes": log_forgets_captured_writes,
    "log-without-room": log_without_room,
}
ON_A_FULL_DISK = {"log-without-room"}
