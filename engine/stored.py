"""A store as it lies on disk, for fsck and repair: whether it could be opened or not.

``Stored`` has what a pass over the store needs (constants, one commit's reader, slab files) of a
closed store.  Of an open one the pool has the same.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from engine import errors
from engine.meta import STATE_KEY, SUPERBLOCK_KEY, Meta, Reader
from engine.slabs import SlabPool
from engine.superblock import State, Superblock

INDEX = "index"


class Source(Protocol):
    """What a pass over a store works on; the pool of an open store is one."""

    @property
    def meta(self) -> Meta: ...
    @property
    def superblock(self) -> Superblock: ...
    @property
    def state(self) -> State: ...
    @property
    def slabs(self) -> SlabPool: ...
    def reader(self) -> Reader: ...


class Stored:
    """A closed store.  ``problem``: why its counters could not be read, if so."""

    def __init__(self, path: Path, meta: Meta) -> None:
        self.path = path
        self.meta = meta
        self.superblock = Superblock.unpack(meta.get("super", SUPERBLOCK_KEY))
        self.problem: str | None = None
        try:
            self.state = State.unpack(meta.get("super", STATE_KEY))
        except errors.Corrupt as error:
            self.problem, self.state = str(error), State()
        self.slabs = SlabPool(
            path / "slabs", self.superblock.slab_slots * self.superblock.block_bytes, read_only=True
        )

    def reader(self) -> Reader:
        return Reader(self.meta)


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


@contextlib.contextmanager
def stored(path: "str | os.PathLike[str]", *, read_only: bool = True) -> Iterator[Stored]:
    """A closed store, locked.  Corrupt when its superblock or its LMDB file cannot be read."""
    root = Path(path)
    fd = lock(root)
    try:
        meta = Meta(root / "meta", read_only=read_only)
        try:
            yield Stored(root, meta)
        finally:
            meta.close()
    finally:
        os.close(fd)
