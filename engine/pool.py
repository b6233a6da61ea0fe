"""The pool: what all volumes of a store share - blocks, nodes, counters, orphans, changes.

Volumes know the pool and not each other.  Everything here is changed on the engine thread only;
a commit captures it in one call (engine/commit.py).

Invariants:
- counters only grow; ``epoch`` is bumped by every clone, snapshot and restore;
- a freed slot stays unusable until the commit that frees it is durable and every reader pinned
  before that has gone (``pin``).
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import lmdb

import native
from engine import errors
from engine.corrupt_reads import CorruptReads
from engine.inode import Inode
from engine.intents import Intents
from engine.meta import Meta, Reader, orphan_key
from engine.nodes import NodeCache
from engine.reclaim import ReclaimQueue
from engine.reserve import CALL_PAGES, Reserve, commit_pages
from engine.slabs import SlabPool
from engine.superblock import SLABS_MAX, State, Superblock

INODES_DIRTY_MAX = 128  # in-core inodes not yet in their trees; bounds what capture has to do
INODE_NODES = (
    3  # of a namespace, that one of them makes dirty: its leaf, and of those above its part
)
MAP_CALL_BYTES = 4 << 20  # one native write call at most
BACKED_TRIES = 64  # of a write on a full disk, where the host cannot tell what takes space


class Change(NamedTuple):
    """What a listener is told: ``what`` is "data", "attr", "entry", "mark" or "volumes".

    "volumes" with a name: what was found by way of that volume's name is no more (renamed,
    restored).
    """

    volume_id: int
    ino: int
    what: str
    name: bytes | None = None
    parent: int = 0


class Pool:
    """One store's shared state."""

    def __init__(
        self,
        superblock: Superblock,
        state: State,
        meta: Meta,
        slabs: SlabPool,
        reserve: Reserve | None,
        *,
        cache_bytes: int,
        index_slots: int,
        read_only: bool,
    ) -> None:
        self.superblock = superblock
        self.state = state
        self.meta = meta
        self.slabs = slabs
        self._reserve = reserve
        self.read_only = read_only
        self.failed: str | None = None
        self.corrupt_reads = CorruptReads()
        self.generation = 1
        self.intents = Intents()
        self.dirty_inodes = 0  # of all volumes, not yet in their trees
        self.collecting = False  # a gc is running
        self.presented: set[tuple[int, int]] = set()  # (volume, inode) that must keep their names
        nodes_max = max(cache_bytes // native.NODE_BYTES, 256)
        self.core = native.Core(
            hash_seed=superblock.hash_seed,
            load_node=meta.read_node,
            fanout=superblock.fanout,
            slab_slots=superblock.slab_slots,
            cache_nodes=nodes_max * 3 // 4,
            next_node_id=state.next_node,
            index_entries=index_slots,
        )
        self.nodes = NodeCache(
            meta.read_node, self.core.take_node_id, superblock.hash_seed, nodes_max // 16,
            self.intents,
        )  # fmt: skip
        self.nodes.warmed = self.core.warmed
        self.listeners: list[Callable[[Change], None]] = []
        self.after_write: Callable[[int], None] | None = None  # so many blocks, at most, are new
        self.puts: dict[tuple[str, bytes], bytes] = {}
        self.deletes: set[tuple[str, bytes]] = set()
        self.reclaim = ReclaimQueue(self.core, self.nodes, self.put, self.delete)
        self._pins: dict[int, int] = {}
        self._next_pin = 0
        self.set_epoch(state.epoch)

    def set_epoch(self, epoch: int) -> None:
        self.intents.changes += 1
        self.state.epoch = epoch
        self.nodes.epoch = epoch
        self.core.epoch = epoch

    def bump_epoch(self) -> int:
        """Start a new epoch; returns the one that has just become history."""
        old = self.state.epoch
        self.set_epoch(old + 1)
        return old

    def next_change(self) -> int:
        change = self.state.next_change
        self.state.next_change = change + 1
        return change

    def check_writable(self) -> None:
        if self.failed is not None:
            raise errors.StoreFailed(f"the store takes no writes: {self.failed}; reopen it")
        if self.read_only:
            raise errors.ReadOnly("the store was opened read-only; open it for writing")

    @property
    def reserve(self) -> Reserve:
        assert self._reserve is not None, "the store was opened read-only"
        return self._reserve

    def close_reserve(self) -> None:
        if self._reserve is not None:
            self._reserve.close()

    @property
    def dirty_pages(self) -> int:
        """Pages of metadata that a commit now would write, at most."""
        nodes = self.nodes
        stored = (
            self.core.dirty_records + len(nodes.dirty) + INODE_NODES * self.dirty_inodes
            + len(self.puts) + len(self.deletes)
        )  # fmt: skip
        return commit_pages(stored, len(nodes.dead), self.reserve.leaf_pages)

    def check_room(self, pages: int = CALL_PAGES) -> None:
        """Before anything new is made: NoSpace when the commit of it might meet a full disk."""
        self.check_writable()
        if not self.reserve.covers(self.dirty_pages + pages):
            raise errors.NoSpace(errors.HOST_IS_FULL)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Store a small record with the next commit."""
        self.intents.changes += 1
        self.deletes.discard((table, key))
        self.puts[table, key] = value

    def delete(self, table: str, key: bytes) -> None:
        self.intents.changes += 1
        self.puts.pop((table, key), None)
        self.deletes.add((table, key))

    def put_orphan(self, volume_id: int, ino: int, record: bytes) -> None:
        self.put("orphans", orphan_key(volume_id, ino), record)

    def drop_orphan(self, volume_id: int, orphan: Inode) -> None:
        """Nobody has it any more: its record goes, its blocks are queued to be freed."""
        self.delete("orphans", orphan_key(volume_id, orphan.ino))
        self.reclaim.add_map(orphan.root, orphan.height, orphan.shared_epoch)

    def adopt_orphan(self, volume_id: int, ino: int) -> None:
        """It gets a name: it is no orphan any more."""
        self.delete("orphans", orphan_key(volume_id, ino))

    def notify(
        self, volume_id: int, ino: int, what: str, name: bytes | None = None, parent: int = 0
    ) -> None:
        if self.listeners:
            change = Change(volume_id, ino, what, name, parent)
            for listener in self.listeners:
                listener(change)

    @property
    def dirty(self) -> bool:
        """Whether a commit would store anything."""
        return bool(
            self.nodes.dirty or self.nodes.dead or self.puts or self.deletes or self.core.dirty
        )

    def write_blocks(
        self, tree: native.Tree, first_block: int, data: memoryview | native.Pieces, *,
        wait: bool = True,
    ) -> None:  # fmt: skip
        """Write whole blocks; adds a slab when the free slots run out.

        Cold, without ``wait``, while nothing is written yet.
        """
        step = MAP_CALL_BYTES
        if isinstance(data, native.Pieces) or len(data) <= step:
            self._write_piece(tree, first_block, data, wait)
            return
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            block = first_block + start // self.superblock.block_bytes
            self._write_piece(tree, block, piece, wait or start > 0)

    def _write_piece(
        self, tree: native.Tree, block: int, piece: memoryview | native.Pieces, wait: bool
    ) -> None:
        try:
            self._write(tree, block, piece, wait)
        except OSError as error:
            if error.errno not in errors.DISK_FULL:
                raise
            self._write_on_full_disk(tree, block, piece, wait)
        if self.after_write is not None:
            self.after_write(len(piece) // self.superblock.block_bytes)

    def _write(
        self, tree: native.Tree, block: int, piece: memoryview | native.Pieces, wait: bool
    ) -> None:
        while True:
            try:
                self.core.write(tree, block, piece, wait=wait)
            except native.NeedSlab:
                self.add_slab()
            else:
                return

    def _write_on_full_disk(
        self, tree: native.Tree, block: int, piece: memoryview | native.Pieces, wait: bool
    ) -> None:
        """Once more, first into free slots that take space on the host already, wherever they are.
        One that was thought to and does not is known then, and is not tried first again."""
        core = self.core
        core.learn_holes()
        core.backed_first(on=True)
        try:
            for _ in range(BACKED_TRIES):
                backed = core.trimmable_slots
                try:
                    self._write(tree, block, piece, wait)
                except OSError as error:
                    if error.errno not in errors.DISK_FULL:
                        raise
                    if core.trimmable_slots >= backed:
                        break
                else:
                    return
        finally:
            core.backed_first(on=False)
        raise errors.NoSpace(errors.HOST_IS_FULL)

    def add_slab(self) -> None:
        """NoSpace when there are as many as the format has numbers for, or the host is full."""
        slab = self.state.slabs
        if slab >= SLABS_MAX:
            raise errors.NoSpace(
                f"the store has all {SLABS_MAX} slabs it can have; delete files and run "
                "`ramet gc`, or make another store"
            )
        self.core.add_slab(slab, self.slabs.create(slab))
        self.state.slabs = slab + 1

    def pin(self) -> int:
        """A reader on a thread starts: slots freed from now on are not reused until ``unpin``."""
        pin = self._next_pin
        self._next_pin += 1
        self._pins[pin] = self.generation
        return pin

    def unpin(self, pin: int) -> None:
        del self._pins[pin]

    def oldest_pin(self) -> int | None:
        """The generation in which the oldest running reader began."""
        return min(self._pins.values(), default=None)

    def reader(self) -> Reader:
        return Reader(self.meta)

    def fail(self, reason: str) -> None:
        """A write to the store's disk failed: take no more writes (DESIGN, Commit)."""
        if self.failed is None:
            self.failed = reason
        self.meta.recover_reads()  # each time: what fails first may not be LMDB


def now_ns() -> int:
    return time.time_ns()


METADATA_ERRORS = (OSError, lmdb.Error)
