"""Commands that are jobs: wait for the end and tell how it goes, or print an id and return.

With ``--json`` a waiting command prints a line with the job for each half second that it runs, and
its result as the last line.  On a terminal there is a bar on stderr.
"""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import click

from cli.later import bar, local
from cli.output import show
from cli.settings import settings
from engine import errors
from service.rpc import Client, Request

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
        told = settings()
        wanted = sys.stderr.isatty() and not told.quiet and not told.as_json
        self.job: int | None = None
        self._bar = bar.Bar() if wanted else None

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
            self._bar.tell(job)


def run_job(call: Callable[..., Any], *arguments: Any, wait: bool, after: tuple[int, ...]) -> None:
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
            result = local.run_job(path, call, arguments, after, line.tell)
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
