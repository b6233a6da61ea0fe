"""The typed door to the C hot path; nobody outside this package imports the compiled module.

``cache.py`` has nodes, ``extents.py`` maps and blocks on top of it, ``fetchers.py`` threads that
read, and here come slots, reclaim, gc and fingerprints.

All methods run on the engine thread, except ``run_read`` of a ``ReadPlan``,
``warm``, ``SealedNodes.nodes``, ``Marks`` and ``Fetchers.stop``.
"""

import os
from typing import NamedTuple

from native._core import ffi, lib
from native.cache import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    EXTENT_FANOUT,
    HEADER_BYTES,
    HOLE,
    NODE_BYTES,
    SealedNodes,
)
from native.errors import Cold, CorruptBlock, CorruptNode, NativeError, NeedSlab
from native.extents import Extent, ExtentMaps, Pieces, ReadPlan, Tree, WriteResult
from native.fetchers import FETCH_BYTES_MAX, Fetchers, Note, buffer_of_c
from native.marks import VISIT_NODES_MAX, Marks
from native.owners import Owners

__all__ = [
    "BLOCK_BYTES", "EXTENT_FANOUT", "FETCH_BYTES_MAX", "HEADER_BYTES", "HOLE", "NODE_BYTES",
    "VISIT_NODES_MAX", "Cold", "Core", "CorruptBlock", "CorruptNode", "Cut", "Extent", "Fetchers",
    "Marks", "NativeError", "NeedSlab", "Note", "Owners", "Pieces", "ReadPlan", "SealedNodes",
    "Tree", "WriteResult", "allocate", "backed_end", "begin_write_back", "buffer_of_c",
    "overwrites_in_place", "poll",
]  # fmt: skip


class Cut(NamedTuple):
    """A subtree of an extent map that its tree, last shared in ``epoch``, has let go of."""

    node_id: int
    level: int
    epoch: int


def allocate(fd: int, offset: int, length: int, *, keep_size: bool = False) -> None:
    """fallocate(2), and never an emulation of it.  OSError: ENOSPC, or EOPNOTSUPP."""
    error = lib.rmt_allocate(fd, offset, length, keep_size)
    if error:
        raise OSError(error, os.strerror(error))


def begin_write_back(fd: int) -> None:
    """Have the kernel write what is dirty of a file, without waiting for it.  Any thread."""
    lib.rmt_begin_write_back(fd)


def poll(fd: int, other: int, nanoseconds: int) -> int:
    """Ask two descriptors, again and again and at least once, whether they can be read: 1 when
    ``fd`` can, 2 when ``other`` can, 3 when both can, 0 when none can after that time.  -1 is no
    descriptor.  Without Python's lock."""
    return lib.rmt_poll(fd, other, nanoseconds)  # type: ignore[no-any-return]


def overwrites_in_place(fd: int) -> bool:
    """Whether the file system writes again in place; False where that takes new space (btrfs)."""
    return bool(lib.rmt_overwrites_in_place(fd))


def backed_end(fd: int, offset: int) -> int:
    """Where the space ends that a file has without a gap from a byte on, also past its end; the
    byte itself when there is none, or the file system does not tell."""
    return int(lib.rmt_backed_end(fd, offset))


class Core(ExtentMaps):
    """Node cache, extent maps, slots and fingerprint index of one store."""

    # --- slots

    def add_slab(self, slab: int, fd: int) -> None:
        status = lib.rmt_add_slab(self._core, slab, fd)
        if status:
            self._again(status)

    def learn_holes(self) -> None:
        """Ask the host which free slots take space there already, once for each slab."""
        lib.rmt_learn_holes(self._core)

    def backed_first(self, *, on: bool) -> None:
        """On a full disk: take free slots first that are not known to be holes."""
        lib.rmt_backed_first(self._core, on)

    def load_chunk(self, slab: int, chunk: int, bits: bytes) -> None:
        if len(bits) != CHUNK_BYTES:
            raise ValueError("a chunk of slots has 2,048 bytes")
        status = lib.rmt_load_chunk(self._core, slab, chunk, bits)
        if status:
            self._again(status)

    def allocated(self, address: int) -> bool:
        return bool(lib.rmt_is_allocated(self._core, address))

    def shared(self, address: int) -> bool:
        return bool(lib.rmt_is_shared(self._core, address))

    @property
    def allocated_slots(self) -> int:
        return self._state.allocated  # type: ignore[no-any-return]

    @property
    def pending_slots(self) -> int:
        """Freed, and not yet free."""
        return self._state.busy - self._state.allocated  # type: ignore[no-any-return]

    @property
    def free_slots(self) -> int:
        return self._state.total - self._state.busy  # type: ignore[no-any-return]

    # --- what trees have let go of

    @property
    def debt_blocks(self) -> int:
        """Blocks let go of since the core was made that only gc can tell to be garbage or not."""
        return self._state.debt  # type: ignore[no-any-return]

    def add_debt(self, blocks: int) -> None:
        self._state.debt += blocks

    def take_cuts(self) -> list[Cut]:
        """The subtrees cut off since the last call."""
        count: int = self._state.cuts
        if not count:
            return []
        out = ffi.new("rmt_cut[]", count)
        lib.rmt_take_cuts(self._core, out, count)
        return [Cut(c.id, c.level, c.epoch) for c in out[0:count]]

    def reclaim(self, cut: Cut) -> tuple[bool, list[Cut]]:
        """Free what one node of a cut subtree owns.  Returns whether the node itself is dead, and
        its children, cut off in their turn.  CorruptNode."""
        if self._children is None:
            self._children = ffi.new("rmt_cut[]", EXTENT_FANOUT), ffi.new("uint32_t *")
        children, count = self._children
        c = ffi.new("rmt_cut *", (cut.node_id, cut.epoch, cut.level, 0))
        while (status := lib.rmt_reclaim(self._core, c, children, count)) not in (
            lib.RMT_OK, lib.RMT_RECLAIMED,
        ):  # fmt: skip
            self._again(status)
        found = [Cut(child.id, child.level, child.epoch) for child in children[0 : count[0]]]
        return status == lib.RMT_RECLAIMED, found

    def hold(self, slab: int, slot: int, want: int) -> tuple[int, int, int]:
        """(address, count, next slot): a run of at most ``want`` free slots at or after ``slot``.
        They are in use until ``trim_give``; count 0: there is no free slot."""
        at, count = ffi.new("uint32_t *", slot), ffi.new("uint64_t *")
        status = lib.rmt_hold(self._core, slab, at, want, self._number, count)
        if status:
            self._again(status)
        return self._number[0], count[0], at[0]

    def trim_take(self, slab: int, slot: int, run_min: int) -> tuple[int, int, int]:
        """(address, count, next slot): a run of at least ``run_min`` free slots that take space on
        disk, at or after ``slot``.  They are in use until ``trim_give``; count 0: no such run."""
        at, count = ffi.new("uint32_t *", slot), ffi.new("uint64_t *")
        status = lib.rmt_trim_take(self._core, slab, at, run_min, self._number, count)
        if status:
            self._again(status)
        return self._number[0], count[0], at[0]

    def trim_give(self, address: int, count: int, *, punched: bool) -> None:
        status = lib.rmt_trim_give(self._core, address, count, punched)
        if status:
            self._again(status)

    def trim_punch(self, address: int, count: int) -> None:
        """Give the space of slots taken for it back to the host.  Any thread.  OSError."""
        failure = ffi.new("rmt_failure *")
        if lib.rmt_trim_punch(self._core, address, count, failure):
            raise OSError(failure.error, "punching a slab failed")

    @property
    def total_slots(self) -> int:
        """Slots of all slabs."""
        return self._state.total  # type: ignore[no-any-return]

    @property
    def taken_slots(self) -> int:
        """Slots taken since the core was made; only grows."""
        return self._state.taken  # type: ignore[no-any-return]

    @property
    def trimmable_slots(self) -> int:
        """Free slots that are not known to be holes: they may take space."""
        return self.free_slots - self._state.holes  # type: ignore[no-any-return]

    # --- gc

    def gc_arm(self) -> None:
        """Start to remember which slots are allocated or shared from now on."""
        status = lib.rmt_gc_arm(self._core)
        if status:
            self._again(status)

    def gc_marks(self) -> Marks:
        return Marks(self._core)

    def owners(self) -> Owners:
        return Owners(self._core)

    def gc_sweep(self, marks: Marks, slab: int, word: int, limit: int) -> tuple[int, int | None]:
        """Free slots that are allocated, not reached and not touched: about ``limit`` at most, of a
        slab of the marks' time, from ``word`` on.  Returns how many, and the next word or None."""
        at = ffi.new("uint32_t *", word)
        status = lib.rmt_gc_sweep(self._core, marks.c, slab, at, limit, self._number)
        if status not in (lib.RMT_OK, lib.RMT_DONE):
            self._again(status)
        return self._number[0], None if status == lib.RMT_DONE else at[0]

    def gc_disarm(self) -> None:
        if self._core is not None:
            lib.rmt_gc_disarm(self._core)

    # --- fingerprint index

    @property
    def index_len(self) -> int:
        return self._state.index_used  # type: ignore[no-any-return]

    def index_insert(self, fingerprint: int, address: int) -> None:
        lib.rmt_index_insert(self._core, fingerprint, address)

    def index_lookup(self, fingerprint: int) -> int | None:
        found = lib.rmt_index_lookup(self._core, fingerprint, self._number)
        return self._number[0] if found else None

    @property
    def index_frozen(self) -> int:
        """Tables of the index that wait to be written (native/fingerprints.py)."""
        return self._state.index_frozen  # type: ignore[no-any-return]

    def index_export(self) -> bytes:
        """All entries of tables in memory, 16 bytes each: fingerprint, address."""
        capacity = self.index_len
        out = ffi.new("uint64_t[]", 2 * capacity)
        count = lib.rmt_index_export(self._core, out, capacity)
        return bytes(ffi.buffer(out, 16 * count))

    def index_import(self, raw: bytes) -> None:
        """Entries as exported; what is cut off is ignored (the index may forget)."""
        pairs = ffi.from_buffer("uint64_t[]", raw[: len(raw) // 16 * 16])
        lib.rmt_index_import(self._core, pairs, len(raw) // 16)
