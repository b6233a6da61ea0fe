"""The typed door to the C hot path; nobody outside this package imports the compiled module.

C never calls back into Python.  Where it needs a node that is not cached it says so and changes
nothing; the loop here loads the node and calls again.  All methods run on the engine thread, except
those of a ``ReadPlan``, ``SealedNodes.nodes`` and ``Marks``.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from native._core import ffi, lib
from native.errors import CorruptBlock, CorruptNode, NativeError, NeedSlab
from native.marks import VISIT_NODES_MAX, Marks
from native.owners import Owners

__all__ = [
    "BLOCK_BYTES", "EXTENT_FANOUT", "HEADER_BYTES", "HOLE", "NODE_BYTES", "VISIT_NODES_MAX", "Core",
    "CorruptBlock", "CorruptNode", "Cut", "Extent", "Marks", "NativeError", "NeedSlab", "Owners",
    "ReadPlan", "SealedNodes", "Tree", "WriteResult", "allocate", "overwrites_in_place",
]  # fmt: skip

BLOCK_BYTES: int = lib.RMT_BLOCK
EXTENT_FANOUT: int = lib.RMT_FANOUT_MAX
HEADER_BYTES: int = lib.RMT_HEADER
NODE_BYTES: int = HEADER_BYTES + EXTENT_FANOUT * 16
CHUNK_BYTES: int = lib.RMT_CHUNK_BYTES
HOLE = _HOLE = (1 << 64) - 1  # the address of a block that has none

Buffer = bytes | bytearray | memoryview


class Extent(NamedTuple):
    """``count`` logical blocks from ``block`` lie in slots ``address`` and on."""

    block: int
    address: int
    count: int  # type: ignore[assignment]


class WriteResult(NamedTuple):
    """Blocks of one write by what became of them."""

    new: int
    duplicate: int
    zero: int


class Tree:
    """An extent map's descriptor: a C struct that each call reads and, when it writes, updates."""

    __slots__ = ("c",)

    def __init__(
        self, root: int = 0, height: int = 0, blocks: int = 0, shared_epoch: int = 0,
        domain: int = 0,
    ) -> None:  # fmt: skip
        self.c: Any = ffi.new("rmt_tree *", (root, blocks, shared_epoch, domain, height, 0))

    @property
    def root(self) -> int:
        return self.c.root  # type: ignore[no-any-return]

    @property
    def height(self) -> int:
        return self.c.height  # type: ignore[no-any-return]

    @property
    def blocks(self) -> int:
        return self.c.blocks  # type: ignore[no-any-return]

    @property
    def shared_epoch(self) -> int:
        return self.c.shared_epoch  # type: ignore[no-any-return]

    @shared_epoch.setter
    def shared_epoch(self, epoch: int) -> None:
        self.c.shared_epoch = epoch


class ReadPlan(NamedTuple):
    """Where the blocks of a range are; ``Core.run_read`` on any thread fetches them."""

    first: int
    count: int  # type: ignore[assignment]
    addresses: Any
    checksums: Any


class Cut(NamedTuple):
    """A subtree of an extent map that its tree, last shared in ``epoch``, has let go of."""

    node_id: int
    level: int
    epoch: int


class SealedNodes:
    """What one commit has to store.  Alive until ``Core.release`` and ``release_freed``."""

    def __init__(self, core: Any, sealed: Any) -> None:
        self._core = core
        self.c = sealed
        self.slabs = {lib.rmt_sealed_slab(sealed, i) for i in range(lib.rmt_sealed_slabs(sealed))}

    def nodes(self) -> Iterator[tuple[int, memoryview]]:
        """(id, stored form) of each changed node; the buffers live until the release."""
        node_id, length = ffi.new("uint64_t *"), ffi.new("size_t *")
        for index in range(lib.rmt_sealed_nodes(self.c)):
            data = lib.rmt_sealed_node(self._core, self.c, index, node_id, length)
            yield node_id[0], memoryview(ffi.buffer(data, length[0]))

    def chunks(self) -> list[tuple[int, int, bytes]]:
        """(slab, chunk, bits) of each changed chunk of slots."""
        slab, chunk = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        found = []
        for index in range(lib.rmt_sealed_chunks(self.c)):
            bits = lib.rmt_sealed_chunk(self.c, index, slab, chunk)
            found.append((slab[0], chunk[0], bytes(ffi.buffer(bits, CHUNK_BYTES))))
        return found


def allocate(fd: int, offset: int, length: int, *, keep_size: bool = False) -> None:
    """fallocate(2), and never an emulation of it.  OSError: ENOSPC, or EOPNOTSUPP."""
    error = lib.rmt_allocate(fd, offset, length, keep_size)
    if error:
        raise OSError(error, os.strerror(error))


def overwrites_in_place(fd: int) -> bool:
    """Whether the file system writes again in place; False where that takes new space (btrfs)."""
    return bool(lib.rmt_overwrites_in_place(fd))


class Core:
    """Node cache, slots and fingerprint index of one store."""

    def __init__(
        self,
        *,
        hash_seed: int,
        load_node: Callable[[int], Buffer],
        fanout: int = EXTENT_FANOUT,
        slab_slots: int = 262_144,
        cache_nodes: int = 65_536,
        next_node_id: int = 1,
        index_entries: int = 1 << 22,
    ) -> None:
        self._load_node = load_node
        self._fanout = fanout
        self._core = lib.rmt_new(fanout, slab_slots, hash_seed, cache_nodes, index_entries)
        if self._core == ffi.NULL:
            raise MemoryError("no memory for the node cache; lower the cache size")
        self._state = lib.rmt_state(self._core)
        self._call_blocks: int = lib.rmt_call_blocks(self._core)
        self._state.next_id = next_node_id
        self._failure = ffi.new("rmt_failure *")
        self._number = ffi.new("uint64_t *")
        self._children: tuple[Any, Any] | None = None
        self._sealed: list[SealedNodes] = []

    def close(self) -> None:
        if self._core is not None:
            lib.rmt_free(self._core)
            for sealed in self._sealed:
                lib.rmt_sealed_free(sealed.c)
            self._sealed.clear()
            self._core = self._state = None

    @property
    def pointer(self) -> Any:
        """The C core, for the other facades of this package."""
        return self._core

    # --- the retry loop

    def _again(self, status: int) -> None:
        """Load the node that a call missed, or raise what its status says."""
        if status == lib.RMT_MISSING:
            self._load(self._state.missing)
        elif status == lib.RMT_NEED_SLAB:
            raise NeedSlab("too few free slots")
        elif status == lib.RMT_CORRUPT_BLOCK:
            raise CorruptBlock(self._failure.block, self._failure.address)
        elif status == lib.RMT_CORRUPT_NODE:
            raise CorruptNode(self._state.missing)
        elif status == lib.RMT_NOMEM:
            raise MemoryError("out of memory in the node cache")
        elif status == lib.RMT_IO:
            raise OSError(self._failure.error, "reading or writing a slab failed")
        else:
            raise ValueError("block number out of range")

    def _load(self, node_id: int) -> None:
        try:
            raw = self._load_node(node_id)
        except KeyError:
            raise CorruptNode(node_id) from None
        status = lib.rmt_insert_node(self._core, node_id, ffi.from_buffer(raw), len(raw))
        if status == lib.RMT_CORRUPT_NODE:
            raise CorruptNode(node_id)
        if status:
            self._again(status)

    # --- nodes

    def take_node_id(self) -> int:
        """A new node id, for a node that is kept elsewhere."""
        node_id: int = self._state.next_id
        self._state.next_id = node_id + 1
        return node_id

    @property
    def next_node_id(self) -> int:
        return self._state.next_id  # type: ignore[no-any-return]

    @property
    def epoch(self) -> int:
        """The birth of new nodes."""
        return self._state.epoch  # type: ignore[no-any-return]

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._state.epoch = epoch

    @property
    def dirty_nodes(self) -> int:
        return self._state.dirty  # type: ignore[no-any-return]

    @property
    def dirty_chunks(self) -> int:
        """Chunks of slots that the next seal will hold."""
        return self._state.dirty_chunks  # type: ignore[no-any-return]

    @property
    def call_bytes(self) -> int:
        """What one write may name and still be whole or not at all."""
        return self._call_blocks * BLOCK_BYTES

    @property
    def cached_nodes(self) -> int:
        return self._state.cached  # type: ignore[no-any-return]

    @property
    def dirty(self) -> bool:
        """Whether a seal would hold anything."""
        return bool(self._state.changed)

    def forget(self) -> None:
        """Drop all clean nodes."""
        lib.rmt_forget(self._core)

    def drop_node(self, node_id: int) -> None:
        """No tree has the node any more: neither keep nor store it."""
        lib.rmt_drop_node(self._core, node_id)

    def hash(self, data: Buffer) -> int:
        """XXH3-64 with the store's seed."""
        return lib.rmt_hash(self._core, ffi.from_buffer(data), len(data))  # type: ignore[no-any-return]

    # --- extent maps

    def lookup(self, tree: Tree, first: int, count: int, limit: int = 1 << 16) -> list[Extent]:
        """The extents of a range, at most ``limit``; holes are absent."""
        capacity = max(1, min(limit, count, 4096))
        out = ffi.new("rmt_extent[]", capacity)
        found, following = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        extents: list[Extent] = []
        end = first + count
        while first < end and len(extents) < limit:
            status = lib.rmt_lookup(
                self._core, tree.c, first, end - first, out, capacity, found, following
            )
            if status:
                self._again(status)
                continue
            extents += [Extent(e.block, e.address, e.count) for e in out[0 : found[0]]]
            first = following[0]
        return extents[:limit]

    def next_data(self, tree: Tree, block: int) -> int | None:
        """The first mapped block at or after ``block``."""
        while status := lib.rmt_next_data(self._core, tree.c, block, self._number):
            self._again(status)
        found: int = self._number[0]
        return None if found == _HOLE else found

    def next_hole(self, tree: Tree, block: int) -> int:
        """The first block at or after ``block`` that is not mapped."""
        while status := lib.rmt_next_hole(self._core, tree.c, block, self._number):
            self._again(status)
        return self._number[0]  # type: ignore[no-any-return]

    def mapped(self, tree: Tree, first: int, end: int) -> int:
        """How many blocks of a range are mapped, in O(height)."""
        counts = []
        for block in (first, end):
            while status := lib.rmt_mapped_before(self._core, tree.c, block, self._number):
                self._again(status)
            counts.append(self._number[0])
        return counts[1] - counts[0]  # type: ignore[no-any-return]

    def read_into(self, tree: Tree, offset: int, buffer: Buffer) -> None:
        """Fill the buffer from a byte offset.  CorruptBlock, CorruptNode, OSError."""
        view = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        core, c, length, failure = self._core, tree.c, len(view), self._failure
        step = (self._call_blocks - 1) * BLOCK_BYTES
        try:
            for at in range(0, length, step):
                size = min(step, length - at)
                while status := lib.rmt_read(core, c, offset + at, view + at, size, failure):
                    self._again(status)
        except BaseException:
            ffi.release(view)  # see ``write``
            raise

    def plan_read(self, tree: Tree, first: int, count: int) -> ReadPlan:
        """Resolve a range of blocks, to be fetched by ``run_read``."""
        plan = ReadPlan(first, count, ffi.new("uint64_t[]", count), ffi.new("uint64_t[]", count))
        while status := lib.rmt_resolve(
            self._core, tree.c, first, count, plan.addresses, plan.checksums
        ):
            self._again(status)
        return plan

    def run_read(self, plan: ReadPlan, offset: int, buffer: Buffer) -> None:
        """Fetch bytes of a plan; any thread, while the caller keeps its slots pinned."""
        view = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        failure = ffi.new("rmt_failure *")
        skipped = offset // BLOCK_BYTES - plan.first
        assert skipped >= 0
        assert offset + len(view) <= (plan.first + plan.count) * BLOCK_BYTES
        status = lib.rmt_fetch(
            self._core, plan.addresses + skipped, plan.checksums + skipped, plan.first + skipped,
            plan.count - skipped, offset % BLOCK_BYTES, view, len(view), failure,
        )  # fmt: skip
        if status:
            ffi.release(view)  # see ``write``
        if status == lib.RMT_CORRUPT_BLOCK:
            raise CorruptBlock(failure.block, failure.address)
        if status:
            raise OSError(failure.error, "reading a slab failed")

    def write(
        self, tree: Tree, first_block: int, data: Buffer, *, dedup: bool = True
    ) -> WriteResult:
        """Write whole blocks.  NeedSlab, OSError, CorruptNode: nothing changed by that piece."""
        view = ffi.from_buffer("uint8_t[]", data)
        blocks, rest = divmod(len(view), BLOCK_BYTES)
        assert not rest, "whole blocks only"
        written = ffi.new("rmt_written *")
        done = 0
        try:
            while done < blocks:
                count = min(blocks - done, self._call_blocks)
                status = lib.rmt_write(
                    self._core, tree.c, first_block + done, count, view + done * BLOCK_BYTES,
                    dedup, written, self._failure,
                )  # fmt: skip
                if status:
                    self._again(status)
                else:
                    done += count
        except BaseException:
            ffi.release(view)  # who keeps the error keeps this frame, and must not keep the buffer
            raise
        return WriteResult(written.fresh, written.duplicate, written.zero)

    def punch(self, tree: Tree, first: int, count: int) -> None:
        """Unmap a range of blocks."""
        while status := lib.rmt_punch(self._core, tree.c, first, count):
            self._again(status)

    def share(self, dst: Tree, dst_first: int, src: Tree, src_first: int, count: int) -> None:
        """Map blocks of ``src`` into ``dst`` as well (range clone).

        The caller has set both trees' shared epochs to one before the current.
        """
        to = ffi.new("uint64_t[3]", (dst_first, src_first, count))
        while status := lib.rmt_share(self._core, dst.c, to, src.c, to + 1, to + 2):
            self._again(status)

    # --- commit

    def seal(self) -> SealedNodes:
        """Freeze what has changed since the last seal."""
        out = ffi.new("rmt_sealed **")
        status = lib.rmt_seal(self._core, out)
        if status:
            self._again(status)
        sealed = SealedNodes(self._core, out[0])
        self._sealed.append(sealed)
        return sealed

    def release(self, sealed: SealedNodes) -> None:
        """It is durable: its nodes are clean and may be evicted."""
        lib.rmt_release(self._core, sealed.c)

    def release_freed(self, sealed: SealedNodes) -> int:
        """Its freed slots may be taken again; call last.  Returns how many they are."""
        count: int = lib.rmt_release_freed(self._core, sealed.c)
        self._sealed.remove(sealed)
        lib.rmt_sealed_free(sealed.c)
        return count

    # --- slots

    def add_slab(self, slab: int, fd: int) -> None:
        status = lib.rmt_add_slab(self._core, slab, fd)
        if status:
            self._again(status)

    def rewind(self) -> None:
        """Take the lowest free slots next: on a full disk, those that have been written before."""
        lib.rmt_rewind(self._core)

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
        """Free slots that were not punched since they were used last: they may take space."""
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

    def index_export(self) -> bytes:
        """All entries, 16 bytes each: fingerprint, address."""
        out = ffi.new("uint64_t[]", 2 * self.index_len)
        count = lib.rmt_index_export(self._core, out, self.index_len)
        return bytes(ffi.buffer(out, 16 * count))

    def index_import(self, raw: bytes) -> None:
        """Entries as exported; what is cut off is ignored (the index may forget)."""
        words = memoryview(raw[: len(raw) // 16 * 16]).cast("Q")
        for at in range(0, len(words), 2):
            lib.rmt_index_insert(self._core, words[at], words[at + 1])
