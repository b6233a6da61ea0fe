"""``ramet job``: what clones are doing, and did."""

from pathlib import Path
from typing import Any

import click

from cli.output import show
from cli.running import Branch, run, run_local
from cli.settings import settings
from cli.waiting import Line
from engine import Store, errors
from service import job_commands
from service.client import check_ended_well
from service.jobs import COMPLETED, STATES
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
    client = Client.connect(Path(settings().store_path))
    with Line() as line:
        if client is not None:
            told = client.ask(Request("job_wait", [number], progress=True), line.tell)
        else:
            told = _without_daemon(job_commands.job_show, number)
    show(told)
    check_ended_well(told)


@job.command("cancel")
@click.argument("number", type=int, metavar="JOB")
def job_cancel(number: int) -> None:
    """Stop a job and undo what it made; returns when that is done.  Example: ramet job cancel 17

    Of a job that has ended: undo what is left of it, because a hypervisor did not answer.
    """
    client = Client.connect(Path(settings().store_path))
    if client is not None:
        told = client.call("job_cancel", number)
    else:
        told = _without_daemon(job_commands.job_cancel, number)
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


def _without_daemon(call: Any, number: int) -> dict[str, Any]:
    with Store.open(settings().store_path) as store:
        told: dict[str, Any] = run_local(store, call, number)
    return told
