"""The bar on a terminal that shows how far a job is; the only part that needs rich's progress."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Bar:
    """On stderr, from the first that is told of a job until ``stop``."""

    def __init__(self) -> None:
        self._task: Any = None
        self._bar = Progress(
            TextColumn("job {task.fields[job]} {task.fields[state]}"), BarColumn(),
            MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True),
            transient=True,
        )  # fmt: skip

    def tell(self, job: dict[str, Any]) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", job=job["job"], state=job["state"])
        self._bar.update(
            self._task, total=job["items_total"], completed=job["items_done"],
            state=job["state"],
        )  # fmt: skip

    def stop(self) -> None:
        self._bar.stop()
