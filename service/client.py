"""A store's daemon, for Python programs.

    client = Client("/srv/store")
    vms = client.clone_vms("lab:/golden", "lab:/web-{n:03d}", CloneSpec(count=1000, register=True))
    copies = client.clone_volume("lab", "class-{n}", count=20, after=[vms])
    copies.wait(progress=print)

Every clone is a job.  Errors are the classes of ``engine.errors``, as the command has them; each
call is a connection of its own, so a client may be used by many threads.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from engine import errors
from service.clone_spec import CloneSpec
from service.job_states import COMPLETED
from service.rpc import Client as Connection
from service.rpc import Request, error_class

Told = dict[str, Any]
"""What ``ramet job show --json`` prints; times are ISO 8601, blocks 4 KiB."""


class Client:
    """A store that a daemon serves.  Each method raises NotFound when none does."""

    def __init__(self, store: "str | os.PathLike[str]") -> None:
        self._store = Path(store)

    def call(self, method: str, *arguments: Any) -> Any:
        """A command of the service by its name, as in ``call("volume_ls")``; its result."""
        return self._ask(Request(method, list(arguments)))

    def clone(
        self, source: str, target: str, *, count: int = 1, start: int = 1, replace: bool = False,
        after: "Iterable[JobHandle | int]" = (),
    ) -> "JobHandle":  # fmt: skip
        """Start cloning a file or directory, ``count`` times when ``target`` has ``{n}``: all or
        none (patent rows A5, C1)."""
        return self._start("clone", [source, target, count, start, replace], after)

    def clone_volume(
        self, source: str, target: str, *, count: int = 1, start: int = 1,
        after: "Iterable[JobHandle | int]" = (),
    ) -> "JobHandle":  # fmt: skip
        """Start cloning a volume or snapshot; ``after``: when these jobs are complete, as VM clones
        into it (patent rows C2, D1)."""
        return self._start("volume_clone", [source, target, count, start], after)

    def clone_vms(
        self, source: str, target: str, spec: CloneSpec, *,
        after: "Iterable[JobHandle | int]" = (),
    ) -> "JobHandle":  # fmt: skip
        """Start cloning a VM as ``spec`` says, each clone atomic by itself (patent rows C1, G4)."""
        return self._start("vm_clone", [source, target, spec.to_dict()], after)

    def job(self, number: int) -> "JobHandle":
        """A job by its id.  NotFound."""
        handle = JobHandle(self, number)
        handle.show()
        return handle

    def jobs(self, state: str | None = None) -> list[Told]:
        """All jobs, the oldest first, in short; of one state, if given."""
        found: list[Told] = self.call("job_ls", state)
        return found

    def clear_jobs(self) -> list[int]:
        """Forget all jobs that have ended, but those that have something left; their ids."""
        cleared: list[int] = self.call("job_clear", None)["cleared"]
        return cleared

    def _start(
        self, method: str, arguments: list[Any], after: "Iterable[JobHandle | int]"
    ) -> "JobHandle":  # fmt: skip
        numbers = [each.id if isinstance(each, JobHandle) else each for each in after]
        told = self._ask(Request(method, arguments, wait=False, after=numbers))
        return JobHandle(self, told["job"])

    def _ask(self, request: Request, progress: Callable[[Told], object] | None = None) -> Any:
        connection = Connection.connect(self._store)
        if connection is None:
            raise errors.NotFound(f"no daemon serves {self._store}; run `ramet mount` or `serve`")
        return connection.ask(request, progress)


class JobHandle:
    """A job that was started; its id is durable."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self.id = number

    def show(self) -> Told:
        """What is known of it now."""
        told: Told = self._client.call("job_show", self.id)
        return told

    def wait(self, progress: Callable[[Told], object] | None = None) -> Told:
        """Return when it is complete and durable; ``progress`` is called twice a second.

        Raises what its command met; PartlyDone when some items stay and others failed; Cancelled.
        """
        request = Request("job_wait", [self.id], progress=progress is not None)
        told: Told = self._client._ask(request, progress)
        check_ended_well(told)
        return told

    def cancel(self) -> Told:
        """Stop it at its next item and undo it; returns when that is done."""
        told: Told = self._client.call("job_cancel", self.id)
        return told

    def clear(self) -> None:
        """Forget it.  Busy while it has not ended, or something of it is left."""
        self._client.call("job_clear", self.id)


def check_ended_well(told: Told) -> None:
    """Raise what a job that has ended came to, unless it is complete."""
    if told["state"] != COMPLETED:
        kind = errors.PartlyDone if told["left"] else error_class(told["error_kind"] or "")
        how = f"has {told['state']}" if told["error_kind"] != "Cancelled" else "was cancelled"
        left = f"; {told['left']}" if told["left"] else ""
        raise kind(f"job {told['job']} {how}: {told['error']}{left}")
