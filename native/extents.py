"""Extent maps and the blocks that they lead to: the facade of ``map.c``,
``io.c`` and ``writes.c``.

A call is whole or changes nothing, as far as one call of C goes; ranges longer than that are done a
piece at a time.  All runs on the engine thread but ``run_read`` and ``warm``.

With ``wait=False`` a call waits for no disk to read: it raises Cold and changes nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from native._core import ffi, lib
from native.cache import BLOCK_BYTES, HOLE, Buffer, CachedNodes
from native.errors import CorruptBlock


class Extent(NamedTuple):
    """``count`` logical blocks from ``block`` lie in slots ``address`` and on, of one slab.

    ``shared``: another file, snapshot or clone may have them; False: certainly none has.
    """

    block: int
    address: int
    count: int  # type: ignore[assignment]
    shared: bool


class WriteResult(NamedTuple):
    """Blocks that were written by what became of them."""

    new: int
    duplicate: int
    zero: int


class Pieces:
    """Whole blocks in a buffer that do not lie together: ``size`` bytes of them at a time, each
    ``stride`` bytes after the last, ``count`` times.  Its length is theirs."""

    __slots__ = ("buffer", "count", "size", "stride")

    def __init__(self, buffer: Buffer, size: int, stride: int, count: int) -> None:
        assert size % BLOCK_BYTES == 0
        assert 0 < size <= stride
        assert count > 0
        assert (count - 1) * stride + size <= len(buffer)
        self.buffer, self.size, self.stride, self.count = buffer, size, stride, count

    def __len__(self) -> int:
        return self.size * self.count


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


class ExtentMaps(CachedNodes):
    """Reads and changes of extent maps."""

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
            extents += [
                Extent(e.block, e.address, e.count, bool(e.shared)) for e in out[0 : found[0]]
            ]
            first = following[0]
        return extents[:limit]

    def next_data(self, tree: Tree, block: int) -> int | None:
        """The first mapped block at or after ``block``."""
        while status := lib.rmt_next_data(self._core, tree.c, block, self._number):
            self._again(status)
        found: int = self._number[0]
        return None if found == HOLE else found

    def next_hole(self, tree: Tree, block: int) -> int:
        """The first block at or after ``block`` that is not mapped."""
        while status := lib.rmt_next_hole(self._core, tree.c, block, self._number):
            self._again(status)
        return self._number[0]  # type: ignore[no-any-return]

    def mapped(self, tree: Tree, first: int, end: int, *, wait: bool = True) -> int:
        """How many blocks of a range are mapped, in O(height)."""
        counts = []
        for block in (first, end):
            while status := lib.rmt_mapped_before(self._core, tree.c, block, self._number):
                self._again(status, wait=wait)
            counts.append(self._number[0])
        return counts[1] - counts[0]  # type: ignore[no-any-return]

    def read_into(self, tree: Tree, offset: int, buffer: Buffer, wait: bool = True) -> None:
        """Fill the buffer from a byte offset.  CorruptBlock, CorruptNode, OSError, Cold."""
        view = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        core, c, length, failure = self._core, tree.c, len(view), self._failure
        step = (self._call_blocks - 1) * BLOCK_BYTES
        try:
            if length <= step:
                while status := lib.rmt_read(core, c, offset, view, length, wait, failure):
                    self._again(status, wait=wait)
                return
            for at in range(0, length, step):
                size = min(step, length - at)
                while status := lib.rmt_read(core, c, offset + at, view + at, size, wait, failure):
                    self._again(status, wait=wait)
        except BaseException:
            ffi.release(view)  # see ``write``
            raise

    def read_pieces(self, tree: Tree, pieces: Buffer, count: int, buffer: Buffer) -> int:
        """Ranges of a file into places of a buffer (an array of rmt_piece), as many from the first
        on as need not wait and are sound; returns how many."""
        view = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        told = ffi.from_buffer("rmt_piece[]", pieces)
        assert count <= len(told)
        return lib.rmt_read_pieces(self._core, tree.c, told, count, view, self._failure)  # type: ignore[no-any-return]

    def read_now(self, tree: Tree, offset: int, buffer: Any, length: int) -> bool | None:
        """Fill a buffer of C for a read of one call.  False: a slot is cold; None: there is more to
        say, which ``read_into`` does."""
        status = lib.rmt_read(self._core, tree.c, offset, buffer, length, False, self._failure)
        return True if not status else False if status == lib.RMT_COLD else None

    def plan_read(self, tree: Tree, first: int, count: int, *, wait: bool = True) -> ReadPlan:
        """Resolve a range of blocks, to be fetched by ``run_read``."""
        plan = ReadPlan(first, count, ffi.new("uint64_t[]", count), ffi.new("uint64_t[]", count))
        while status := lib.rmt_resolve(
            self._core, tree.c, first, count, plan.addresses, plan.checksums
        ):
            self._again(status, wait=wait)
        return plan

    def run_read(self, plan: ReadPlan, offset: int, buffer: Buffer) -> None:
        """Fetch bytes of a plan; any thread, while the caller keeps its slots pinned."""
        view = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        failure = ffi.new("rmt_failure *")
        skipped = offset // BLOCK_BYTES - plan.first
        assert skipped >= 0
        assert offset + len(view) <= (plan.first + plan.count) * BLOCK_BYTES
        if plan.count > 1:
            lib.rmt_ask(self._core, plan.addresses, plan.count)
        status = lib.rmt_fetch(
            self._core, plan.addresses + skipped, plan.checksums + skipped, plan.first + skipped,
            plan.count - skipped, offset % BLOCK_BYTES, view, len(view), True, failure,
        )  # fmt: skip
        if status:
            ffi.release(view)  # see ``write``
        if status == lib.RMT_CORRUPT_BLOCK:
            raise CorruptBlock(failure.block, failure.address)
        if status:
            raise OSError(failure.error, "reading a slab failed")

    def warm(self, slots: Sequence[int]) -> None:
        """Wait until slots are in the page cache; any thread.  Tells of no error."""
        addresses = ffi.new("uint64_t[]", list(slots))
        lib.rmt_warm(self._core, addresses, len(addresses))

    @property
    def written(self) -> WriteResult:
        """By all writes of this core."""
        found = self._written
        return WriteResult(found.fresh, found.duplicate, found.zero)

    def write(
        self, tree: Tree, first_block: int, data: Buffer | Pieces, *, dedup: bool = True,
        wait: bool = True,
    ) -> None:  # fmt: skip
        """Write whole blocks.  NeedSlab, OSError, CorruptNode, Cold: nothing changed by that
        call of C.  Pieces are at most ``call_bytes`` together."""
        if isinstance(data, Pieces):
            view = ffi.from_buffer("uint8_t[]", data.buffer)
            source = self._pieces
            source.piece, source.stride = data.size // BLOCK_BYTES, data.stride
            blocks = len(data) // BLOCK_BYTES
            assert blocks <= self._call_blocks, "Pieces are written in one call"
        else:
            view = ffi.from_buffer("uint8_t[]", data)
            source = self._whole
            blocks, rest = divmod(len(view), BLOCK_BYTES)
            assert not rest, "whole blocks only"
        source.data = view
        done = 0
        try:
            while done < blocks:
                count = min(blocks - done, self._call_blocks)
                status = lib.rmt_write(
                    self._core, tree.c, first_block + done, count, source, dedup, wait,
                    self._written, self._failure,
                )  # fmt: skip
                if status:
                    self._again(status, wait=wait)
                else:
                    done += count
                    wait = True
                    if done < blocks:
                        source.data = view + BLOCK_BYTES * done
        except BaseException:
            ffi.release(view)  # who keeps the error keeps this frame, and must not keep the buffer
            raise

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
