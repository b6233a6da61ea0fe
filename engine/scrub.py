"""Scrub: read every live block from its medium and check it against the checksum its map says.

A run goes over the store in windows of slots, because a checksum a slot is more memory than a large
store may have.  For each window: ``mark`` walks one commit's nodes, each once, checks them, and
notes what leaves map into the window; then ``reads`` go through the window in the order of the
disk, each slot once, past the page cache (which would hide what the medium has lost).  No read
transaction and no pin is held while data is read, so a run of hours keeps nothing from being
reused.  The price: a slot may be freed and written anew in between, and then looks bad.  So what
looks bad is only *suspect* until ``name`` finds a reference to it in a newer commit, with its slots
pinned, whose checksum the slot does not have.

All methods but ``open`` and ``open_names`` may run on a thread.
"""

import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine import errors
from engine.meta import Reader
from engine.owners import Owner, Owners
from engine.pool import Pool
from engine.stored import Source
from engine.superblock import BLOCK_BYTES
from engine.trace import Trace, roots
from native import HOLE
from native.audit import BAD, Audit, Window, pairs

WINDOW_SLOTS = 1 << 22  # 64 MiB of addresses and checksums for 16 GiB of blocks
STEP_BLOCKS = 256  # 1 MiB: what a request beside it may have to wait for
SUSPECTS_MAX = 1 << 20
OWNERS_MAX = 10_000  # files named; more are counted


@dataclass
class ScrubResult:
    """Figures of a run; they grow while it goes on."""

    slots: int = 0  # of the store, allocated or not
    slots_passed: int = 0
    blocks_checked: int = 0
    nodes_checked: int = 0
    bad_blocks: int = 0
    bad_nodes: int = 0
    owners: list[Owner] = field(default_factory=list)
    owners_more: int = 0
    read_s: float = 0.0

    @property
    def clean(self) -> bool:
        return not (self.bad_blocks or self.bad_nodes)


class Scrub:
    """One run over one open store."""

    def __init__(
        self, source: Source, *, slabs: int | None = None, window_slots: int = WINDOW_SLOTS,
        roots: Callable[[Reader], list[int]] = roots,
    ) -> None:  # fmt: skip
        block = source.superblock
        self._source = source
        self._slabs = source.state.slabs if slabs is None else slabs
        self._seed = block.hash_seed
        self.audit = Audit(
            hash_seed=block.hash_seed, fanout=block.fanout, slab_slots=block.slab_slots
        )
        self._window_slots = window_slots
        self._roots = roots
        self._scratch = memoryview(mmap.mmap(-1, STEP_BLOCKS * BLOCK_BYTES))  # aligned for O_DIRECT
        self._fds: dict[int, int] = {}
        self._reader: Reader | None = None
        self._window: Window | None = None
        self._spare: Window | None = None  # 64 MiB: made once, and freed on a thread if it can be
        self._suspects: set[int] = set()
        self._judged: dict[tuple[int, int], bool] = {}
        self.result = ScrubResult(slots=self._slabs * block.slab_slots)

    def run(self) -> None:
        """All of it, without a pause: the commit is one that nothing changes any more."""
        while self.open():
            self.mark()
            for read in self.reads():
                read()
        self.open_names()
        self.name()

    def open(self) -> bool:
        """Engine thread: begin the next window; False when all slots have been passed."""
        first = self.result.slots_passed
        count = min(self._window_slots, self.result.slots - first)
        if count <= 0:
            return False
        self._window, self._spare = self._spare, None
        if self._window is None:
            self._window = Window(first, count)
        self._window.move(first, count)
        self._reader = self._source.reader()
        return True

    def mark(self) -> None:
        """Walk the commit: check each node, note what lies in the window."""
        window, reader = self._window, self._reader
        assert window is not None
        assert reader is not None
        trace = Trace(self.audit, reader, self._seed, lambda leaf: self.audit.claim(leaf, window))
        try:
            window.clear()
            trace.run(self._roots(reader))
        finally:
            self._close_reader()
        self.result.nodes_checked = max(self.result.nodes_checked, trace.nodes)
        self.result.bad_nodes = max(self.result.bad_nodes, len(trace.damaged))

    @property
    def window(self) -> Window:
        assert self._window is not None
        return self._window

    def reads(self) -> Iterator[Callable[[], int]]:
        """Steps that each read a stretch of the window and return how many blocks that was."""
        window, per_slab = self.window, self._source.superblock.slab_slots
        at = 0
        while at < window.count:
            slab, slot = divmod(window.first + at, per_slab)
            count = min(STEP_BLOCKS, window.count - at, per_slab - slot)
            yield lambda start=at, slab=slab, count=count: self._read(slab, start, count)  # type: ignore[misc]
            at += count
        self._put_by()

    def _read(self, slab: int, start: int, count: int) -> int:
        self._source.meta.check_going_on()
        window, begun = self.window, time.monotonic()
        fd = self._fd(slab)
        if fd is None:
            checked, bad = 0, [(index, BAD) for index in window.mapped(start, count)]
        else:
            checked, bad = self.audit.verify(
                fd, window.addresses, window.checksums, start, count, self._scratch
            )
        self._suspects.update(window.first + index for index, _ in bad)
        result = self.result
        result.slots_passed += count
        result.blocks_checked += checked
        result.read_s += time.monotonic() - begun
        return checked

    def skip_window(self) -> None:
        """Go on to the next window without reading."""
        self.result.slots_passed += self.window.count
        self._put_by()

    def _put_by(self) -> None:
        self._window, self._spare = None, self._window

    @property
    def crowded(self) -> bool:
        """So many suspects that they had better be named before more are looked for."""
        return len(self._suspects) > SUSPECTS_MAX

    def open_names(self) -> None:
        """Engine thread, slots pinned since before the newest commit became durable."""
        self._reader = self._source.reader()

    def name(self, *, final: bool = True) -> None:
        """Find what refers to the suspects, judge each reference, name its file.

        Damaged nodes are named by the ``final`` call, which is the only one unless it is crowded.
        """
        reader, result = self._reader, self.result
        assert reader is not None
        wanted = self._bits(self._suspects)
        self._suspects.clear()
        self._judged.clear()
        bad: set[int] = set()
        lost: set[int] = set()
        try:
            for owner in Owners(self.audit, reader, self._seed, wanted, self._judge).run():
                bad.update(hit.address for hit in owner.hits if not hit.lost)
                lost.update(hit.lost for hit in owner.hits if hit.lost)
                if not final and all(hit.lost for hit in owner.hits):
                    continue
                if len(result.owners) < OWNERS_MAX:
                    result.owners.append(owner)
                else:
                    result.owners_more += 1
        finally:
            self._close_reader()
        result.bad_blocks += len(bad)
        result.bad_nodes = max(result.bad_nodes, len(lost))

    def owners_of(self, references: set[tuple[int, int]]) -> list[Owner]:
        """Who has these (slot, checksum), in the commit that ``open_names`` opened."""
        assert self._reader is not None
        wanted = self._bits(address for address, _ in references)
        try:
            walk = Owners(
                self.audit, self._reader, self._seed, wanted,
                lambda address, checksum: (address, checksum) in references,
            )  # fmt: skip
            return list(walk.run())
        finally:
            self._close_reader()

    def verify(self, addresses: Any, checksums: Any, start: int, count: int) -> list[int]:
        """Which of some entries, all of one slab, are bad.  Slots pinned."""
        first = next(a for a in addresses[start : start + count] if a != HOLE)
        fd = self._fd(first // self.audit.slab_slots)
        if fd is None:
            return [start + i for i in range(count) if addresses[start + i] != HOLE]
        _, bad = self.audit.verify(fd, addresses, checksums, start, count, self._scratch)
        return [index for index, _ in bad]

    def _bits(self, addresses: Iterable[int]) -> bytearray:
        wanted = bytearray(-(-self._slabs * self.audit.slab_slots // 8))
        for address in addresses:
            wanted[address >> 3] |= 1 << (address & 7)
        return wanted

    def _judge(self, address: int, checksum: int) -> bool:
        """Whether the slot does not have this checksum (or is none at all)."""
        known = self._judged.get((address, checksum))
        if known is None:
            known = self._judged[address, checksum] = self._is_bad(address, checksum)
        return known

    def _is_bad(self, address: int, checksum: int) -> bool:
        slab = address // self._source.superblock.slab_slots
        fd = self._fd(slab) if slab < self._slabs else None
        if fd is None:
            return True
        addresses, checksums = pairs([(address, checksum)])
        return bool(self.audit.verify(fd, addresses, checksums, 0, 1, self._scratch)[1])

    def block(self, address: int) -> bytes:
        """What the medium has in a slot; zeroes where it has nothing."""
        slab, slot = divmod(address, self._source.superblock.slab_slots)
        fd = self._fd(slab)
        if fd is None:
            return bytes(BLOCK_BYTES)
        got = os.preadv(fd, [self._scratch[:BLOCK_BYTES]], slot * BLOCK_BYTES)
        return bytes(self._scratch[:got]).ljust(BLOCK_BYTES, b"\0")

    def _fd(self, slab: int) -> int | None:
        """None when the slab's file is gone: all of it is bad then."""
        fd = self._fds.get(slab)
        if fd is None:
            try:
                fd = self._fds[slab] = self._source.slabs.open_unbuffered(slab)
            except FileNotFoundError:
                return None
        return fd

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close(self) -> None:
        """End the run, complete or not; a second call does nothing."""
        self._close_reader()
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        self._window = self._spare = None


def scrub(pool: Pool, *, window_slots: int = WINDOW_SLOTS) -> ScrubResult:
    """A whole run, here and now, over the last commit."""
    if pool.dirty:
        raise errors.Busy("commit first: scrub checks what is committed")
    run = Scrub(pool, window_slots=window_slots)
    try:
        run.run()
    finally:
        run.close()
    return run.result
