"""A command that is a job: run step by step, remembered at each, undone when it fails.

``run`` stands between a command's steps and their driver.  Whenever the command hands back control,
what it has made is put into the job's record first, in the same stretch; so a commit at any moment
has the changes and the record of them.  When the command raises, is cancelled, or the daemon stops,
``run`` takes back all of it (service/undo.py): commands have no undo of their own.

A crash ends a job without a word.  ``recover`` is what the next owner of the store does: what ran
is undone and has failed, and what waited has failed, because nobody remembers its arguments.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from engine import Inode, Volume, errors
from service.addresses import Context
from service.job_states import CANCELLED, COMPLETED, FAILED, RUNNING
from service.jobs import URI_MAX, Job, Made
from service.steps import Insisted, Steps, Stopping
from service.undo import undo

INTERRUPTED = (
    "its process ended in the middle of it; what it had made is undone (not what it had replaced); "
    "start it again"
)
INTERRUPTED_IN = {
    "vm customize": "its process ended in the middle of it; `ramet vm show` tells which identity "
    "the VM has, and `ramet vm register` takes the hypervisor to it",
    "vm unregister": "its process ended in the middle of it; start it again",
    "vm unregister all": "its process ended in the middle of it; those that it had unregistered "
    "stay so, start it again for the others",
}  # what is not undone: done again, it goes on
CANCELLED_ON_THE_WAY = "cancelled on the way; what it made is undone"
NEVER_BEGUN = "its process ended before it had made anything that lasts; start it again"

PROGRESS_S = 0.5  # how often a job tells of itself, at most
Result = dict[str, Any]
JobCommand = Callable[..., Steps[Result]]


def queue(
    context: Context, call: JobCommand, arguments: Sequence[Any], after: Iterable[int]
) -> Job:  # fmt: skip
    """A new job for a command; its first two arguments say from what to what.

    NotFound for an unknown job to wait for; NoSpace.
    """
    what = " -> ".join(str(each) for each in arguments[:2])
    return context.jobs.create(call.__name__.replace("_", " "), what, after)


class Work:
    """What a command tells of itself while it runs."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.cancelled = False
        self._told: Exception | None = None  # to stop, and why
        self._delivered = False
        self._new: list[Made] = []

    def plan(self, items: int, blocks: int) -> None:
        """How much there is to do."""
        self.job.items_total, self.job.blocks_total = items, blocks

    def made(
        self, volume: Volume, inode: Inode | None, parent: int, name: bytes, uuid: str = ""
    ) -> None:  # fmt: skip
        """Something new is there: a name in a volume, or (no inode) a volume.

        ``uuid``: the domain that may be defined for it at ``registers``' hypervisor.
        """
        ino, generation = (inode.ino, inode.generation) if inode is not None else (0, 0)
        self.note(Made(volume.id, parent, ino, generation, name, uuid))

    def note(self, made: Made) -> None:
        """Something is made, or done to what is there; before or after it, in one stretch."""
        self._new.append(made)

    def done(self, blocks: int) -> None:
        """An item is complete."""
        self.job.items_done += 1
        self.job.blocks_done += blocks

    def failed(self, item: str, error: Exception) -> None:
        """An item failed, is undone, and the job goes on or stops in good order."""
        self.job.note_failure(item, error)

    def registers(self, uri: str, *, powers: bool = False) -> None:
        """From now on domains may be defined at ``uri``, and run if it ``powers`` them on.

        Make it durable before the first is defined.
        """
        if len(uri.encode()) > URI_MAX:
            raise errors.InvalidArgument(f"a libvirt URI of more than {URI_MAX} bytes")
        self.job.uri, self.job.powers = uri, powers

    def check_stopped(self, todo: object) -> None:
        """Cancelled, or what else told it to stop, before each thing that it does not insist on."""
        if self.cancelled and self._told is None:
            self._told = errors.Cancelled(CANCELLED_ON_THE_WAY)
        if self._told is not None and not isinstance(todo, Insisted):
            self._delivered = True
            raise self._told.with_traceback(None)

    def note_told(self, error: Exception) -> None:
        """The daemon stops; the steps may be insisting on something just now."""
        if isinstance(error, Stopping):
            self._told = self._told or error

    def check_swallowed(self) -> None:
        """For steps that were told, and went on to their end."""
        if self._told is not None and self._delivered:
            raise self._told.with_traceback(None)

    def take(self) -> list[Made]:
        new, self._new = self._new, []
        return new


def run(context: Context, work: Work, steps: Steps[Result]) -> Steps[Result]:
    """Run a queued job to its end.  Raises what the command raised, after undoing it;
    PartlyDone when that could not all be undone."""
    jobs, job = context.jobs, work.job
    try:
        jobs.begin(job)
        result = yield from _remembered(context, work, steps)
    except Exception as error:
        yield from _undo_all(context, work)
        jobs.end(job, CANCELLED if isinstance(error, errors.Cancelled) else FAILED, error)
        if job.left:
            raise errors.PartlyDone(f"{error}; {job.left}") from error
        raise
    if job.failures:
        jobs.end(job, FAILED, partly(job))
        failures = [{"item": each.item, "error": each.error} for each in job.failures]
        return result | {"job": job.id, "failed": job.items_failed, "failures": failures}
    jobs.end(job, COMPLETED)
    return result | {"job": job.id}


def partly(job: Job) -> errors.RametError:
    """What a job that went on, or stopped in good order, after a failure has come to."""
    first = job.failures[0]
    return errors.PartlyDone(
        f"{job.items_done} of {job.items_total} made, {job.items_failed} failed; "
        f"first {first.item}: {first.error}"
    )


def _remembered(context: Context, work: Work, steps: Steps[Result]) -> Steps[Result]:
    """The command's steps, with a note of what was made before each turn of others."""
    value: Any = None
    error: Exception | None = None
    while True:
        try:
            todo = steps.throw(error) if error is not None else steps.send(value)
        except StopIteration as end:  # nothing is left to undo, so nothing need be remembered
            result: Result = end.value
            work.check_swallowed()
            return result
        value, error = None, None
        try:
            context.jobs.save(work.job, work.take())
            work.check_stopped(todo)
            value = yield todo
        except Exception as raised:
            work.note_told(raised)
            error = raised


def _undo_all(context: Context, work: Work) -> Steps[None]:
    """On a failed store the disk has what was committed, with the record: its next owner undoes."""
    with suppress(errors.StoreFailed):
        context.jobs.save(work.job, work.take())
        yield from undo(context, work.job)


def recover(context: Context, jobs: Iterable[Job]) -> Steps[None]:
    """End the jobs of an earlier owner of the store, as things are (``Jobs.interrupted``); undo
    what is left of jobs that have ended (``Jobs.with_leftovers``)."""
    for job in jobs:
        with suppress(errors.StoreFailed):
            if job.ended:
                yield from undo(context, job)
                context.jobs.tidy(job)
            elif job.state == RUNNING:
                yield from undo(context, job)
                text = INTERRUPTED_IN.get(job.command, INTERRUPTED)
                context.jobs.end(job, FAILED, errors.RametError(text))
            else:
                context.jobs.end(job, FAILED, errors.RametError(NEVER_BEGUN))
