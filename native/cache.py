"""Nodes of extent maps in memory, and what a commit seals of them: the facade of ``cache.c``.

The retry loop is here: C never calls back into Python, so a call that needs a node which is not
cached changes nothing and says which; ``_again`` loads it, and the caller calls again.
"""

from collections.abc import Callable, Iterator
from typing import Any

from native._core import ffi, lib
from native.errors import Cold, CorruptBlock, CorruptNode, NeedSlab

BLOCK_BYTES: int = lib.RMT_BLOCK
EXTENT_FANOUT: int = lib.RMT_FANOUT_MAX
HEADER_BYTES: int = lib.RMT_HEADER
NODE_BYTES: int = HEADER_BYTES + EXTENT_FANOUT * 16
CHUNK_BYTES: int = lib.RMT_CHUNK_BYTES
HOLE = (1 << 64) - 1  # the address of a block that has none

Buffer = bytes | bytearray | memoryview


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


class CachedNodes:
    """A store's C core, as far as nodes go."""

    def __init__(
        self,
        *,
        hash_seed: int,
        load_node: Callable[[int], Buffer],
        fanout: int = EXTENT_FANOUT,
        slab_slots: int = 262_144,
        cache_nodes: int = 65_536,
        next_node_id: int = 1,
        index_entries: int = 1 << 18,
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
        self._written = ffi.new("rmt_written *")
        self._pieces = ffi.new("rmt_source *")
        self._whole = ffi.new("rmt_source *", {"piece": self._call_blocks})
        self._number = ffi.new("uint64_t *")
        self._children: tuple[Any, Any] | None = None
        self._sealed: list[SealedNodes] = []
        self.waits = True  # False: no call loads a node unless a thread has just had it read
        self.warmed: set[int] = set()  # those

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

    def _again(self, status: int, *, wait: bool = True) -> None:
        """Load the node that a call missed, or raise what its status says.

        Not to ``wait`` for a node is not to load it, unless a thread has just had it read.
        """
        if status == lib.RMT_MISSING:
            missing = self._state.missing
            if not (wait and self.waits) and missing not in self.warmed:
                raise Cold(node=missing)
            self.warmed.discard(missing)
            self._load(missing)
        elif status == lib.RMT_COLD:
            slots = ffi.new("uint64_t[]", self._state.cold)
            lib.rmt_cold(self._core, slots)
            raise Cold(list(slots))
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
    def dirty_records(self) -> int:
        """Nodes, and chunks of slots, that the next seal will hold."""
        state = self._state
        return state.dirty + state.dirty_chunks  # type: ignore[no-any-return]

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

    def hash_pieces(self, data: Buffer, pieces: Buffer, count: int) -> list[int]:
        """The same of parts of ``data``: the size and place of every piece, which lie in it."""
        told = ffi.from_buffer("rmt_piece[]", pieces)
        assert count <= len(told)
        sums = ffi.new("uint64_t[]", count)
        lib.rmt_hash_pieces(self._core, ffi.from_buffer("uint8_t[]", data), told, count, sums)
        return ffi.unpack(sums, count)  # type: ignore[no-any-return]

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
