"""``ramet job``: what clones are doing, and did."""

from pathlib import Path

import click

from cli.later import job_commands, local
from cli.output import show
from cli.running import Branch, here_or_there, run
from cli.settings import settings
from cli.waiting import Line
from engine import errors
from service.client import check_ended_well
from service.job_states import COMPLETED, STATES
from service.rpc import Client, Request


@click.group(cls=Branch)
def job() -> None:
    """Jobs: every clone is one, with an id, from its start to its end."""


@job.command("ls")
@click.option("--state", type=click.Choice(STATES), help="Only those.")
def job_ls(state: str | None) -> None:
    """List jobs, the oldest first.  Example: ramet job ls --state running"""
    run(job_commands.job_ls, state)


@job.command("show")
@click.argument("number", type=int, metavar="JOB")
def job_show(number: int) -> None:
    """All that is known of a job.  Example: ramet job show 17"""
    run(job_commands.job_show, number)


@job.command("wait")
@click.argument("number", type=int, metavar="JOB")
def job_wait(number: int) -> None:
    """Wait for a job's end; the exit code is that of its command.  Example: ramet job wait 17"""
    path = settings().store_path
    client = Client.connect(Path(path))
    with Line() as line:
        if client is not None:
            told = client.ask(Request("job_wait", [number], progress=True), line.tell)
        else:
            told = local.run(path, job_commands.job_show, number)
    show(told)
    check_ended_well(told)


@job.command("cancel")
@click.argument("number", type=int, metavar="JOB")
def job_cancel(number: int) -> None:
    """Stop a job and undo what it made; returns when that is done.  Example: ramet job cancel 17

    Of a job that has ended: undo what is left of it, because a hypervisor did not answer.
    """
    told = here_or_there(job_commands.job_cancel, number)
    show(told)
    if told["left"]:
        check_ended_well(told)
    if told["state"] == COMPLETED:
        raise errors.Busy(f"job {number} was complete before it could be cancelled")


@job.command("clear")
@click.argument("number", type=int, metavar="[JOB]", required=False)
def job_clear(number: int | None) -> None:
    """Forget a job that has ended, or all that have.  Example: ramet job clear 17"""
    run(job_commands.job_clear, number)


COMMANDS = (job,)
