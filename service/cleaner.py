"""Space comes back by itself: the reclaim queue is emptied, gc runs when it is worth it, free slots
are given back to the host.

All of it runs beside the load, in steps: a step on the loop takes some milliseconds at most, gc's
mark and the punching of slabs run on threads.  Whether there is garbage nobody knows without a
mark; what is known is an upper bound, the debt: blocks that were let go of and that the queue could
not free, because a clone, a snapshot or dedup may have them too.  gc is due when the debt is a
good part of all blocks, or sooner when space is low.

Free slots are given back when they are more than what was taken in the last half minute: to punch
what is written again soon costs the host's file system an allocation and its page cache new pages
(that halved a steady overwrite with new data).  When space is low they are given back at once.
"""

from collections import deque
from dataclasses import asdict
from typing import Any

import trio

from engine import Store
from engine.gc import Gc, GcResult
from engine.trim import Trim
from service.commits import Committer
from service.log import log
from service.watch import Watch

BLOCK_BYTES = 4096
RECLAIM_STEP_S = 0.001
DEAD_NODES_MAX = 5_000
MARK_STEPS = 16
IDLE_S = 1.0
DEBT_BLOCKS_MIN = 16_384  # 64 MiB
DEBT_SHARE = 1 / 8  # of the allocated blocks
LOW_SPACE_SHARE = 1 / 10  # free, of free and allocated
LOW_SPACE_DEBT_BLOCKS = 256
TRIM_SHARE = 1 / 8  # free slots that take space, of all slots
KEPT_S = 30  # free slots that a load of so many seconds took are kept for what comes next


class Cleaner:
    """One store's cleaner.  ``run`` is a task; ``gc`` may be called by others as well."""

    def __init__(self, store: Store, committer: Committer) -> None:
        self._store = store
        self._committer = committer
        self.watch = Watch(store)
        self._thread = trio.CapacityLimiter(1)
        self._alone = trio.Lock()
        self._running: Gc | None = None
        self._settled_blocks = 0
        self._taken = deque([store.pool.core.taken_slots], int(KEPT_S / IDLE_S))  # at each look
        self._trim_wanted = False
        self.runs = 0
        self.error: str | None = None

    @property
    def debt_blocks(self) -> int:
        """At most so many blocks are garbage."""
        return self._store.pool.core.debt_blocks - self._settled_blocks

    def status(self) -> dict[str, Any]:
        gc = self._running
        return {
            "reclaim_queue": len(self._store.pool.reclaim),
            "garbage_max_bytes": self.debt_blocks * BLOCK_BYTES,
            "gc_runs": self.runs,
            "gc": None if gc is None else asdict(gc.result),
            "gc_error": self.error,
            "events": self.watch.events(),
        }

    async def run(self) -> None:
        """Forever; does nothing once the store has failed.  Damage ends a gc, not the daemon."""
        while True:
            await trio.sleep(IDLE_S)
            self._taken.append(self._store.pool.core.taken_slots)
            try:
                self.watch.look()
                await self._clean()
            except Exception as error:
                self._settled_blocks = self._store.pool.core.debt_blocks  # not at once again
                self.error = str(error)
                log(f"gc: {error}")

    async def _clean(self) -> None:
        if self._store.failed is not None or self._store.pool.read_only:
            return
        await self.reclaim()
        if self.gc_is_due():
            await self.gc(trim=False)
            self._trim_wanted = True
        if self.trim_is_due():
            await self.trim()

    async def reclaim(self) -> None:
        """Empty the queue."""
        queue, nodes = self._store.pool.reclaim, self._store.pool.nodes
        while len(queue) and self._store.failed is None:
            queue.step(RECLAIM_STEP_S)
            if len(nodes.dead) > DEAD_NODES_MAX or self._store.strained:
                await self._committer.durable()
            await trio.lowlevel.checkpoint()

    def gc_is_due(self) -> bool:
        core, debt = self._store.pool.core, self.debt_blocks
        if debt >= max(DEBT_BLOCKS_MIN, core.allocated_slots * DEBT_SHARE):
            return True
        return debt >= LOW_SPACE_DEBT_BLOCKS and self._space_is_low()

    def _space_is_low(self) -> bool:
        space = self._store.space()
        return space.free_bytes < (space.free_bytes + space.physical_bytes) * LOW_SPACE_SHARE

    def trim_is_due(self) -> bool:
        core = self._store.pool.core
        if core.trimmable_slots <= core.total_slots * TRIM_SHARE and not self._trim_wanted:
            return False
        return core.trimmable_slots > self._taken[-1] - self._taken[0] or self._space_is_low()

    async def gc(self, *, trim: bool = True) -> GcResult:
        """A whole run beside the load, then a trim unless told not to.  Corrupt, StoreFailed."""
        async with self._alone:
            await self.reclaim()
            gc = self._running = await self._begin()
            try:
                await self._trace(gc)
            finally:
                self._running = None
                gc.close()
            self._settled_blocks = gc.debt_blocks
            self.runs += 1
            self.error = None
            await self._committer.durable()
            gc.result.punched_bytes = await self._trim() if trim else 0
        return gc.result

    async def _begin(self) -> Gc:
        """A run whose commit is durable; StoreFailed when that did not reach the disk."""
        async with self._committer.alone():
            gc, commit = self._store.start_gc()
            try:
                await self._committer.write(commit)
                self._store.pool.check_writable()
            except BaseException:
                gc.close()
                raise
        return gc

    async def _trace(self, gc: Gc) -> None:
        gc.open()
        while not await trio.to_thread.run_sync(gc.mark, MARK_STEPS, limiter=self._thread):
            pass
        while not gc.sweep():
            if len(self._store.pool.nodes.dead) > DEAD_NODES_MAX or self._store.strained:
                await self._committer.durable()
            await trio.lowlevel.checkpoint()

    async def trim(self) -> int:
        """Give free slots back to the host; returns the bytes."""
        async with self._alone:
            return await self._trim()

    async def _trim(self) -> int:
        self._trim_wanted = False
        trim = Trim(self._store.pool)
        while runs := trim.take():
            punched = False
            try:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(trim.punch, runs, limiter=self._thread)
                punched = True
            except OSError:
                break  # the host's file system cannot punch
            finally:
                trim.give(runs, punched=punched)
        return trim.slots * BLOCK_BYTES
