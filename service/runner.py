"""The daemon's jobs: each a task of its own, side by side; they start, wait, are cancelled.

Who waits for a job is told when its end is durable, so nobody ever hears of an end that a crash
could take back.  A client that goes away leaves its job going.  When the daemon is told to stop,
each job undoes what it has made (``service.beside.Beside``) before the store closes; the committer
outlives them, because undoing needs commits.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio

from engine import errors
from service.addresses import Context
from service.beside import Beside
from service.job_states import CANCELLED, FAILED, QUEUED
from service.jobs import Job, check_completed
from service.log import log, log_exception
from service.work import PROGRESS_S, JobCommand, Result, Work, queue, recover, run

Tell = Callable[[Result], Awaitable[None]]


class Running:
    """A job of this daemon, until its end has been told to those who wait."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.work = Work(job)
        self.ended = trio.Event()
        self.waiting = trio.CancelScope()  # for others to end
        self.result: Result = {}
        self.error: Exception | None = None


class Runner:
    """Starts jobs in a nursery.  ``beside`` drives their steps, ``settled`` makes durable."""

    def __init__(
        self, context: Context, beside: Callable[[], Beside], settled: Callable[[], Awaitable[None]]
    ) -> None:  # fmt: skip
        self._context = context
        self._jobs = context.jobs
        self._beside = beside
        self._settled = settled
        self._running: dict[int, Running] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """The task that all jobs are children of."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    async def recover(self, jobs: Iterable[Job]) -> None:
        """End what an earlier owner of the store left.  What cannot be ended is logged, and left to
        the next owner: what is damaged there keeps no daemon from starting."""
        chosen = [Running(job) for job in jobs]
        self._running |= {each.job.id: each for each in chosen}
        for each in chosen:
            await self._recover(each)
            if each.error is not None:
                log(f"job {each.job.id} of an earlier daemon cannot be ended: {each.error}")

    async def _recover(self, each: Running) -> None:
        try:
            await self._beside().run(recover(self._context, [each.job]))
        except Exception as error:
            if not isinstance(error, errors.RametError | OSError):
                log_exception()
            each.error = error
        await self._told_all(each)

    def start(
        self, call: JobCommand, arguments: list[Any], after: Iterable[int] = ()
    ) -> Running:  # fmt: skip
        """A new job, queued.  NotFound for an unknown one to wait for."""
        assert self._nursery is not None
        others = [self._jobs.get(number) for number in set(after)]
        job = queue(self._context, call, arguments, after)
        running = self._running[job.id] = Running(job)
        self._nursery.start_soon(self._run, running, others, call, arguments)
        return running

    async def _run(
        self, running: Running, others: list[Job], call: JobCommand, arguments: list[Any]
    ) -> None:  # fmt: skip
        job = running.job
        try:
            await self._wait_for(running, others)
            steps = call(self._context, running.work, *arguments)
            running.result = await self._beside().run(run(self._context, running.work, steps))
        except Exception as error:
            running.error = error
            if not job.ended:  # it never began
                cancelled = isinstance(error, errors.Cancelled)
                self._jobs.end(job, CANCELLED if cancelled else FAILED, error)
        await self._told_all(running)

    async def _told_all(self, running: Running) -> None:
        try:
            await self._settled()
        except errors.RametError as error:
            running.error = running.error or error
        self._jobs.unsettled.discard(running.job.id)
        del self._running[running.job.id]
        running.ended.set()

    async def _wait_for(self, running: Running, others: list[Job]) -> None:
        """Cancelled, or RametError when one of them did not complete."""
        with running.waiting:
            for other in others:
                if other.id in self._running:
                    await self._running[other.id].ended.wait()
                check_completed(other)
        if running.work.cancelled:
            raise errors.Cancelled("cancelled before it began")

    async def wait(self, number: int, tell: Tell | None) -> Job:
        """Return when the job has ended; ``tell`` its progress from time to time."""
        job = self._jobs.get(number)
        running = self._running.get(number)
        while running is not None and not running.ended.is_set():
            with trio.move_on_after(PROGRESS_S if tell is not None else float("inf")):
                await running.ended.wait()
                break
            if tell is not None:
                await self._settled()  # who hears of a job by its id may count on it
                if running.ended.is_set():
                    break
                await tell(self._jobs.told(job))
        return job

    async def cancel(self, number: int) -> Job:
        """Stop a job at its next item and undo it; undo what is left of one that has ended.

        InvalidArgument when it has ended and nothing is left.
        """
        job = self._jobs.get(number)
        running = self._running.get(number)
        if running is not None:
            running.work.cancelled = True
            if job.state == QUEUED:
                running.waiting.cancel()
            await running.ended.wait()
        elif job.left:
            running = self._running[job.id] = Running(job)
            await self._recover(running)
            if running.error is not None:
                raise running.error
        else:
            raise errors.InvalidArgument(f"job {number} has ended ({job.state}); nothing to cancel")
        return job
