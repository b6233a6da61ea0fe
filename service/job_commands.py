"""``ramet job``: look at jobs, and forget those that have ended.

Waiting and cancelling are the daemon's (service/runner.py): without one no job runs.
"""

from typing import Any

from engine import errors
from service.addresses import Context
from service.operations import Operation, Result
from service.steps import Steps
from service.work import recover

COLUMNS = (
    "job", "command", "what", "state", "percent", "items_done", "items_total", "waits_for",
    "started", "ended", "error",
)  # fmt: skip


def job_ls(context: Context, state: str | None) -> Result:
    """Jobs, oldest first, in short; of one state, if given."""
    rows: list[dict[str, Any]] = []
    for job in context.jobs.all():
        told = context.jobs.told(job)
        if state in (None, told["state"]):
            rows.append({key: told[key] for key in COLUMNS})
    return rows


def job_show(context: Context, number: int) -> Result:
    """All that is known of a job.  NotFound."""
    return context.jobs.told(context.jobs.get(number))


def job_clear(context: Context, number: int | None) -> Result:
    """Forget a job that has ended, or all of them; what is left of one keeps it.

    NotFound; Busy for one that has not ended or has something left.
    """
    jobs = context.jobs
    if number is not None:
        chosen = [jobs.get(number)]
    else:
        chosen = [job for job in jobs.all() if jobs.has_ended(job) and not job.left]
    for job in chosen:
        jobs.clear(job)
    return {"cleared": [job.id for job in chosen]}


def job_cancel(context: Context, number: int) -> Steps[Result]:
    """Where no daemon runs, every job has ended: undo, once more, what is left of this one.

    InvalidArgument when nothing is.
    """
    job = context.jobs.get(number)
    if not job.left:
        raise errors.InvalidArgument(f"job {number} has ended ({job.state}); nothing to cancel")
    yield from recover(context, [job])
    return context.jobs.told(job)


READS: tuple[Operation, ...] = (job_ls, job_show)
CHANGES: tuple[Operation, ...] = (job_clear,)
