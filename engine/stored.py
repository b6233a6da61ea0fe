"""A store as it lies on disk, for fsck and repair: whether it could be opened or not.

``Stored`` has what a pass over the store needs (constants, one commit's reader, slab files) of a
closed store.  Of an open one the pool has the same.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from engine import errors
from engine.meta import STATE_KEY, SUPERBLOCK_KEY, Meta, Reader
from engine.owner import lock
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
