"""Commands that are jobs: wait for the end and tell how it goes, or print an id and return.

With ``--json`` a waiting command prints a line with the job for each half second that it runs, and
its result as the last line.  On a terminal there is a bar on stderr.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.output import show
from cli.running import run_steps, settle
from cli.settings import settings
from engine import Store, errors
from service.addresses import Context
from service.jobs import FAILED, check_completed
from service.rpc import Client, Request
from service.runner import PROGRESS_S
from service.work import JobCommand, Work, queue, run

F = TypeVar("F", bound=Callable[..., Any])


def job_options(command: F) -> F:
    """``--wait/--no-wait`` and ``--after``; the command takes ``wait`` and ``after``."""
    command = click.option(
        "--after", type=int, multiple=True, metavar="JOB",
        help="Begin when this job is complete; may be given again.",
    )(command)  # fmt: skip
    return click.option(
        "--wait/--no-wait", default=True, show_default=True,
        help="Wait for the end, or print the job and return.",
    )(command)  # fmt: skip


class Line(AbstractContextManager["Line"]):
    """What is told of a job on the way: JSON lines, or a bar on a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        told = settings()
        bar = console.is_terminal and not told.quiet and not told.as_json
        self.job: int | None = None
        self._task: Any = None
        self._bar = Progress(
            TextColumn("job {task.fields[job]} {task.fields[state]}"), BarColumn(),
            MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True,
        ) if bar else None  # fmt: skip

    def __enter__(self) -> "Line":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._bar is not None:
            self._bar.stop()

    def tell(self, job: dict[str, Any]) -> None:
        """As often as the caller likes: once in PROGRESS_S."""
        self.job = job["job"]
        if settings().as_json:
            click.echo(json.dumps(job))
        elif self._bar is not None:
            if self._task is None:
                self._bar.start()
                self._task = self._bar.add_task("", job=job["job"], state=job["state"])
            self._bar.update(
                self._task, total=job["items_total"], completed=job["items_done"],
                state=job["state"],
            )  # fmt: skip


def run_job(call: JobCommand, *arguments: Any, wait: bool, after: tuple[int, ...]) -> None:
    """Run a command that is a job: in the daemon if one runs, else here.  Prints its result.

    PartlyDone when some of its items failed and the others stay.
    """
    path = settings().store_path
    client = Client.connect(Path(path))
    if client is None and not wait:
        raise errors.InvalidArgument(
            "--no-wait needs a daemon to do the work; run `ramet mount DIR` or `ramet serve` first"
        )
    with Line() as line:
        if client is not None:
            request = Request(call.__name__, list(arguments), wait, list(after), progress=True)
            result = _ask(client, request, line)
        else:
            with Store.open(path) as store:
                result = _run_here(Context(store), call, arguments, after, line)
    show(result)
    if result.get("failed"):
        first = result["failures"][0]
        raise errors.PartlyDone(
            f"{result['failed']} failed, the others stay; first {first['item']}: {first['error']}"
        )


def _ask(client: Client, request: Request, line: Line) -> dict[str, Any]:
    try:
        result: dict[str, Any] = client.ask(request, line.tell)
    except KeyboardInterrupt:
        if line.job is not None:
            click.echo(
                f"ramet: job {line.job} goes on; `ramet job cancel {line.job}` stops it", err=True
            )
        raise
    return result


def _run_here(
    context: Context, call: JobCommand, arguments: tuple[Any, ...], after: tuple[int, ...],
    line: Line,
) -> dict[str, Any]:  # fmt: skip
    """Nobody else has the store: the job runs to its end in this process."""
    settle(context)
    job = queue(context, call, arguments, after)
    try:
        for number in after:
            check_completed(context.jobs.get(number))
    except errors.RametError as error:
        context.jobs.end(job, FAILED, error)
        raise
    work = Work(job)
    told_at = time.monotonic()

    def tell() -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= PROGRESS_S:
            context.store.commit()  # who hears of a job by its id may count on it
            line.tell(context.jobs.told(job))
            told_at = time.monotonic()

    steps = run(context, work, call(context, work, *arguments))
    result: dict[str, Any] = run_steps(context.store, steps, tell)
    return result
