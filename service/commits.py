"""Grouped commits: every fsync that waits when a commit starts is answered by it.

Who only wants to be safe from a crash (``synced``) is answered by a record of the intent log where
only data were written (engine/intents.py).  It may be written beside a commit; who asks while one
is being written shares the next.  Who reads a commit afterwards, or needs what it frees, wants the
commit itself (``durable``).

A commit is captured on the loop, written on a thread that does nothing else, and finished on the
loop.  Who asks while none is under way has his captured in the same step of the loop; who asks
while one is being written waits for the next, because his own change may not be in that one.
The thread calls back into the loop, where one step finishes the commit, captures the next if
anybody waits, and answers: between a disk and a guest there is no other turn of the loop.

Invariants: one commit and one record at a time; nobody is answered by one that was captured before
he asked; when a write fails the store takes no more changes, and everyone is told.
"""

import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from queue import SimpleQueue

import trio

from engine import Store, errors
from engine.commit import Commit, failure
from engine.intent_log import NoLog
from engine.pool import METADATA_ERRORS
from service.log import log_exception
from service.steps import DIRTY_NODES_MAX

IDLE_COMMIT_S = 2.0
EVICT_STEP = 128  # about 0.5 ms
Told = Callable[[errors.RametError | None], object]


Work = Callable[[], object]
Written = Callable[[Exception | None], None]


class Writer:
    """A thread that waits for the disk; what comes of each piece of work is told on the loop."""

    def __init__(self, name: str) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._handed: SimpleQueue[tuple[Work, Written] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def hand(self, work: Work, written: Written) -> None:
        """Do it; ``written`` is called on the loop, with what went wrong."""
        self._handed.put((work, written))

    def end(self) -> None:
        """What was handed over is done before it ends."""
        self._handed.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (handed := self._handed.get()) is not None:
            work, written = handed
            problem: Exception | None = None
            try:
                work()
            except Exception as error:
                problem = error
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(written, problem)
            del handed, work, written, problem  # else they stay until the next


class Committer:
    """Runs as one task (``run``); front ends call ``synced``, or ``tell``, and ``admit``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer: Writer | None = None
        self._waiting: list[Told] = []  # for a commit, or a record
        self._committing: list[Told] = []  # for a commit
        self._wanted = False  # though nobody waits
        self._busy = False  # a commit is under way, or somebody has it to himself
        self._logger: Writer | None = None
        self._logging = False  # the log is being written, or made
        self._turns: deque[trio.Event] = deque()  # who wants it to himself
        self._room = trio.Event()
        self._look = trio.Event()  # for ``run``: there is something to do
        self._problem: Exception | None = None  # a mistake of ours: ``run`` raises it
        self._failure: errors.RametError | None = None

    # --- what front ends call

    def tell(self, told: Told) -> None:
        """Have ``told`` called, on the loop, when all that was done before this call is on disk,
        with None, or with why it is not.  It may be called at once, and must not raise."""
        self._waiting.append(told)
        self._begin()

    async def synced(self) -> None:
        """Return when all that was done before the call is on disk; StoreFailed if it cannot."""
        await self._told_in(self._waiting)

    async def durable(self) -> None:
        """The same, and it is in a commit: readers of commits find it, what it frees is free."""
        await self._told_in(self._committing)

    async def _told_in(self, waiting: list[Told]) -> None:
        done = trio.Event()
        problem: list[errors.RametError | None] = []

        def told(error: errors.RametError | None) -> None:
            problem.append(error)
            done.set()

        waiting.append(told)
        self._begin()
        await done.wait()
        if problem[0] is not None:
            raise problem[0]

    async def admit(self) -> None:
        """Wait while too much is dirty: before a change enters the engine, never inside."""
        while self.full():
            room = self._room
            self._wanted = True
            self._begin()
            await room.wait()

    def full(self) -> bool:
        """Whether ``admit`` would wait."""
        return self._store.failed is None and (self.crowded() or self._store.strained)

    def crowded(self) -> bool:
        """Whether so much is dirty that a commit has to come first; how full the disk is, is
        another question, which a write is asked anyway."""
        return self._store.dirty_nodes > DIRTY_NODES_MAX

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """No commit but the caller's own (``write``) is under way within: gc begins with one."""
        if self._busy:
            turn = trio.Event()
            self._turns.append(turn)
            try:
                await turn.wait()
            except trio.Cancelled:
                if turn.is_set():
                    self._go_on()
                else:
                    self._turns.remove(turn)
                raise
        self._busy = True
        try:
            yield
        finally:
            self._go_on()

    async def write(self, commit: Commit) -> None:
        """Write a captured commit and finish it; the caller is ``alone``."""
        assert self._writer is not None, "the committer runs"
        done = trio.Event()

        def written(problem: Exception | None) -> None:
            self._finish(commit, problem)
            done.set()

        with trio.CancelScope(shield=True):
            self._writer.hand(commit.write, written)
            await done.wait()

    # --- the task

    async def run(self) -> None:
        """Until cancelled; a commit under way is finished then."""
        self._writer, self._logger = Writer("commits"), Writer("intent log")
        try:
            self._begin()
            while True:
                with trio.move_on_after(IDLE_COMMIT_S) as idle:
                    await self._look.wait()
                if idle.cancelled_caught:
                    self._wanted = True
                    self._begin()
                    continue
                self._look = trio.Event()
                if self._problem is not None:
                    raise self._problem
                await self._evict()
        finally:
            with trio.CancelScope(shield=True):
                async with self.alone():
                    self._writer.end()
                    self._logger.end()
                    self._writer = self._logger = None

    async def _evict(self) -> None:
        """A large commit leaves more nodes in memory than shall stay: they go in short steps."""
        nodes = self._store.pool.nodes
        while nodes.crowded:
            nodes.evict(EVICT_STEP)
            await trio.lowlevel.checkpoint()

    # --- commits

    def _begin(self) -> None:
        """Begin now what those who wait need, unless it is under way: a record, or a commit."""
        if self._writer is None:
            return
        if self._waiting:
            self._log()
        by_log = self._logging and self._store.log.ready and self._store.loggable
        wanted = self._wanted or self._committing or (self._waiting and not by_log)
        if self._busy or not wanted:
            return
        waiting = self._taken(self._committing)
        if not by_log:
            waiting += self._taken(self._waiting)
        self._wanted = False
        commit = self._capture()
        if commit is None:
            self._answer(waiting)
            return
        self._busy = True
        self._writer.hand(commit.write, lambda problem: self._written(commit, waiting, problem))

    @staticmethod
    def _taken(waiting: list[Told]) -> list[Told]:
        taken = waiting.copy()
        waiting.clear()
        return taken

    def _capture(self) -> Commit | None:
        """What stands in the way of a capture stops the changes, not the reads, and no waiter is
        told that its change is safe."""
        if self._store.failed is not None or self._store.pool.read_only:
            return None
        try:
            return self._store.capture()
        except Exception as error:
            self._failed(f"what was changed cannot be stored ({error})")
            return None

    def _written(self, commit: Commit, waiting: list[Told], problem: Exception | None) -> None:
        """The commit's thread has done with it."""
        try:
            self._finish(commit, problem)
        except Exception as error:
            self._problem = error
            self._failed(f"a commit could not be finished ({error})")
            self._look.set()
        self._go_on()  # first: the disk has nothing to do meanwhile
        self._answer(waiting)

    def _log(self) -> None:
        """A record for all who wait, if it is all that they need and none is being written."""
        store, log = self._store, self._store.log
        if self._logging or not store.loggable:
            return
        assert self._logger is not None
        if not store.unlogged:
            self._answer(self._taken(self._waiting))
        elif not log.wanted:
            self._make_log()
        elif (record := store.intend()) is not None:
            waiting = self._taken(self._waiting)
            self._logging = True
            self._logger.hand(
                partial(log.write, record), lambda problem: self._logged(waiting, problem)
            )

    def _make_log(self) -> None:
        """A commit does until it is there."""
        assert self._logger is not None
        try:
            self._store.want_log()
        except NoLog:
            return
        self._logging = True
        self._logger.hand(self._store.make_log, self._made)

    def _made(self, problem: Exception | None) -> None:
        """It is there, or cannot be made: then commits go on doing without."""
        self._logging = False
        if self._writer is not None:  # else the store may be closed by now
            self._store.log_made()
            self._begin()

    def _logged(self, waiting: list[Told], problem: Exception | None) -> None:
        """The log's thread has done with a record."""
        self._logging = False
        if isinstance(problem, NoLog):
            self._store.not_logged()
            self._waiting[:0] = waiting
            waiting = []
        elif problem is not None:
            self._failed(f"the intent log could not be written ({problem})")
        self._wanted |= self._store.log.crowded
        self._begin()  # first: the disk has nothing to do meanwhile
        self._answer(waiting)

    def _finish(self, commit: Commit, problem: Exception | None) -> None:
        if isinstance(problem, METADATA_ERRORS):
            self._failure = failure(problem, self._store.pool)
        elif problem is not None:
            self._failed(f"a commit could not be written ({problem})")
        self._store.finish(commit)
        if self._store.pool.nodes.crowded:
            self._look.set()

    def _go_on(self) -> None:
        """Nothing is under way: who wants it to himself has his turn, or the next commit begins."""
        self._busy = bool(self._turns)
        if self._turns:
            self._turns.popleft().set()
        else:
            self._begin()

    def _answer(self, waiting: list[Told]) -> None:
        problem = self._failure
        if problem is None and self._store.failed is not None:
            problem = errors.StoreFailed(f"not durable: {self._store.failed}; reopen the store")
        for told in waiting:
            try:
                told(problem)
            except Exception:  # ours, and the others' answers are still to be given
                log_exception()
        self._room.set()
        self._room = trio.Event()

    def _failed(self, reason: str) -> None:
        self._store.fail(reason)
        self._failure = errors.StoreFailed(f"not durable: {reason}; reopen the store")
