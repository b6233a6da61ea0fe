"""The fingerprint index beside a load: full tables are written, runs are merged, fronts are made.

Two tasks, each with a thread of its own, so that a long merge does not keep tables waiting.  A
thread's step takes some ten milliseconds and does not hold the interpreter; what the loop does of a
run, begin and finish, is a rename and some pointers.  Merges and fronts rest between steps.

A table that is not full is written as well when it is FLUSH_S old: what a killed daemon forgets is
at most that, or the tables' size.
"""

import time

import trio

from engine import Store
from engine.fingerprints import Making
from service.log import log

IDLE_S = 0.1
FLUSH_S = 600
FLUSH_ENTRIES_MIN = 1024  # of one partition
STEP_ENTRIES = 1 << 17
REST_SHARE = 0.5  # of a merge's or a front's step


class Indexer:
    """One store's.  ``run`` is a task."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = store.fingerprints

    async def run(self) -> None:
        """Forever; while it runs, writes do not do this work themselves."""
        if self._store.pool.read_only:
            return
        self._index.drive()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drive, False)
                nursery.start_soon(self._drive, True)
                nursery.start_soon(self._freeze)
        finally:
            self._index.beside = False

    async def _freeze(self) -> None:
        while True:
            await trio.sleep(FLUSH_S)
            self._index.freeze(FLUSH_ENTRIES_MIN)

    async def _drive(self, merge: bool) -> None:
        thread = trio.CapacityLimiter(1)
        while True:
            making = None
            if self._index.due and self._store.failed is None:
                try:
                    making = self._index.begin(merge=merge)
                except (OSError, MemoryError) as error:
                    self._fail(None, error)
            if making is None:
                await trio.sleep(IDLE_S)
            else:
                await self._make(making, thread, merge=merge)

    async def _make(self, making: Making, thread: trio.CapacityLimiter, *, merge: bool) -> None:
        done = False
        try:
            while not done:
                begun = time.monotonic()
                done = await trio.to_thread.run_sync(making.step, STEP_ENTRIES, limiter=thread)
                if merge:
                    await trio.sleep(REST_SHARE * (time.monotonic() - begun))
            self._index.finish(making)
        except (OSError, MemoryError) as error:
            self._fail(making, error)
        except BaseException:
            self._index.give_up(making)
            raise

    def _fail(self, making: Making | None, error: Exception) -> None:
        self._index.fail(making, error)
        if self._index.paused is not None:
            log(f"fingerprint index: {self._index.paused}; it goes on with what it has")
