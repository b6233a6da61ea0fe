"""Long commands as steps: a generator that hands back control between two changes of the store.

What it yields is work for a thread (a callable; its result comes back from the ``yield``, its error
is raised there) or None, a point where others may have their turn.  Between two yields nothing
else touches the store, so each stretch is atomic; what must be undone is undone in the generator's
own ``except``.  One driver runs steps in the command itself (``run_here``), one in the daemon
(service/beside.py).
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from engine import errors

T = TypeVar("T")
DIRTY_NODES_MAX = 20_000  # past this, a commit comes before the next change
Steps = Generator[Callable[[], Any] | None, Any, T]


def durable() -> None:
    """Yield this very function to go on only when all that was done is on disk."""
    raise AssertionError("the drivers of steps know this one by itself")


class Stopping(errors.Busy):
    """The daemon is told to stop: undo, now."""


TOLD_TO_STOP = (Stopping, errors.Cancelled)
"""What is thrown into steps that shall end now; never taken for a failure of what they wait for."""


class HypervisorCall:
    """Work that waits for another daemon, for how long nobody knows: on threads of its own, so
    that a hypervisor which hangs takes none from disks and images."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def __call__(self) -> Any:
        return self._call()


class Started:
    """A call that runs at once, on a thread of its own, beside whatever the steps do next.

    Its owner waits for it, by ``insist`` when that fails: nothing is undone under its feet.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._outcome: Future[Any] = Future()
        self._call = call
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._call())
        except BaseException as error:
            self._outcome.set_exception(error)

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        return self._outcome.result()

    def wait(self) -> None:
        """Until it has ended, however."""
        self._outcome.exception()


class Insisted(HypervisorCall):
    """Work that a job's cancelling does not keep from being done (``insist``)."""


def insist(work: Callable[[], Any]) -> "Steps[Any]":
    """Work that is done also when one is told to stop while it waits for its turn.

    A job's steps are told again at the next thing that they do not insist on.
    """
    while True:
        try:
            return (yield Insisted(work))
        except TOLD_TO_STOP:
            continue


def run_here(steps: Steps[T], commit: Callable[[], object], between: Callable[[], object]) -> T:
    """All in this thread; ``between`` is called at each yield.

    What it raises is thrown into the steps; a stop, once more after what they insist on.
    """
    owed: Stopping | None = None
    try:
        work = next(steps)
        while True:
            if owed is not None and not isinstance(work, Insisted):
                told, owed = owed, None
                work = steps.throw(told)
                continue
            try:
                between()
                value = (commit if work is durable else work)() if work else None
            except Exception as error:
                if isinstance(error, Stopping) and isinstance(work, Insisted):
                    owed = Stopping(str(error))
                work = steps.throw(error)
            else:
                work = steps.send(value)
    except StopIteration as done:
        result: T = done.value
        return result
