"""Grouped commits: every fsync that waits when a commit starts is answered by it.

The store is captured on the loop, written on a thread, finished on the loop.  A waiter that comes
while a commit is being written waits for the next one, because its own change may not be in the
one under way.  When a write fails the store takes no more changes, and every waiter is told.
"""

import trio

from engine import Store, errors
from engine.commit import Commit, failure
from engine.pool import METADATA_ERRORS
from service.steps import DIRTY_NODES_MAX

IDLE_COMMIT_S = 2.0
EVICT_STEP = 128  # about 0.5 ms


class Committer:
    """Runs as one task (``run``); ``durable`` and ``admit`` are what front ends call."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wanted = trio.Event()
        self._waiters: list[trio.Event] = []
        self._room = trio.Event()
        self._failure: errors.RametError | None = None
        self._thread = trio.CapacityLimiter(1)  # never behind other threads' work
        self.alone = trio.Lock()  # one commit at a time: ours, or the one that begins a gc

    async def durable(self) -> None:
        """Return when all that was done before the call is on disk; StoreFailed if it cannot."""
        done = trio.Event()
        self._waiters.append(done)
        self._wanted.set()
        await done.wait()
        if self._failure is not None:
            raise self._failure
        if self._store.failed is not None:
            raise errors.StoreFailed(f"not durable: {self._store.failed}; reopen the store")

    async def admit(self) -> None:
        """Wait while too much is dirty: before a change enters the engine, never inside."""
        while self.full():
            self._wanted.set()
            await self._room.wait()

    def full(self) -> bool:
        """Whether ``admit`` would wait."""
        return self._store.failed is None and (
            self._store.dirty_nodes > DIRTY_NODES_MAX or self._store.strained
        )

    async def run(self) -> None:
        while True:
            with trio.move_on_after(IDLE_COMMIT_S):
                await self._wanted.wait()
            await self._commit()
            await self._evict()

    async def _evict(self) -> None:
        """A large commit leaves more nodes in memory than shall stay: they go in short steps."""
        nodes = self._store.pool.nodes
        while nodes.crowded:
            nodes.evict(EVICT_STEP)
            await trio.lowlevel.checkpoint()

    async def _commit(self) -> None:
        self._wanted = trio.Event()
        try:
            async with self.alone:
                waiters, self._waiters = self._waiters, []
                try:
                    if self._store.failed is None and not self._store.pool.read_only:
                        await self._capture_and_write()
                finally:
                    for waiter in waiters:
                        waiter.set()
        finally:
            self._room.set()
            self._room = trio.Event()

    async def _capture_and_write(self) -> None:
        """What stands in the way of a capture stops the changes, not the reads, and no waiter is
        told that its change is safe."""
        try:
            commit = self._store.capture()
        except Exception as error:
            self._failed(f"what was changed cannot be stored ({error})")
            return
        if commit is not None:
            await self.write(commit)

    async def write(self, commit: Commit) -> None:
        """Write a captured commit on a thread and finish it; the caller holds ``alone``."""
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(commit.write, limiter=self._thread)
        except METADATA_ERRORS as error:
            self._failure = failure(error, self._store.pool)
        except Exception as error:
            self._failed(f"a commit could not be written ({error})")
        finally:
            self._store.finish(commit)

    def _failed(self, reason: str) -> None:
        self._store.fail(reason)
        self._failure = errors.StoreFailed(f"not durable: {reason}; reopen the store")
