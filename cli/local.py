"""Operations on a store that this process opens itself, because no daemon serves it."""

import contextlib
import signal
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from cli.output import Progress
from engine import Store, errors
from service import moments
from service.addresses import Context
from service.job_states import FAILED
from service.jobs import check_completed
from service.scrub_progress import progress
from service.steps import DIRTY_NODES_MAX, Steps, Stopping, run_here
from service.work import PROGRESS_S, JobCommand, Work, queue, recover
from service.work import run as run_work

T = TypeVar("T")
RECLAIM_S = 0.5  # what a command gives back of what it deleted, where no daemon does


def create(path: str) -> None:
    """Make a store.  AlreadyExists, InvalidArgument, NoSpace: as ``Store.create``."""
    Store.create(path)


@contextlib.contextmanager
def session(path: str, *, exact: bool = False) -> Iterator[Callable[..., Any]]:
    """``call(operation, *arguments)`` on a store that is opened once."""
    with Store.open(path) as store:
        if exact:
            store.account()
        yield lambda call, *arguments: run_local(store, call, *arguments)


def run(path: str, call: Callable[..., Any], *arguments: Any, exact: bool = False) -> Any:
    """One operation; ``exact``: after an accounting pass."""
    with session(path, exact=exact) as run_one:
        return run_one(call, *arguments)


class Interrupts:
    """Ctrl-C while steps run: an error at their next yield, so that they undo what they did.

    A pass over the store ends as well.  Ctrl-C again ends the command where it is, as a crash
    would: what was committed stays, what was to be undone is not.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._came = self._told = False
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, _number: int, _frame: object) -> None:
        self._came = True
        self._store.pool.meta.interrupt()
        signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Stopping, once: the steps that are told so may have steps to undo what they did."""
        if self._came and not self._told:
            self._told = True
            raise Stopping("interrupted; what was half done is undone")

    def check_swallowed(self) -> None:
        """For steps that went on to their end, because they were undoing something already."""
        if self._told:
            raise Stopping("interrupted; run it again")


def run_local(store: Store, call: Callable[..., Any], *arguments: Any) -> Any:
    """On a store opened here, whose earlier owner's jobs are ended first."""
    context, line = Context(store), Progress()
    settle(context)
    answer = call(context, *arguments)
    if isinstance(answer, Generator):
        answer = run_steps(store, answer, lambda: line.tell(progress(context)))
        line.tell(None)
    store.commit()
    if len(store.pool.reclaim):
        store.reclaim(RECLAIM_S)
        store.commit()
    return answer


def run_steps(store: Store, steps: Steps[T], tell: Callable[[], None]) -> T:
    """Run steps to their end, and make it durable."""

    interrupts = Interrupts(store)

    def between() -> None:
        interrupts.check()
        if store.dirty_nodes > DIRTY_NODES_MAX or store.strained:
            store.commit()
        tell()

    with interrupts:
        result = run_here(steps, store.commit, between)
    store.commit()
    interrupts.check_swallowed()
    return result


def settle(context: Context) -> None:
    """End what an earlier owner of the store left running or held: nothing, as a rule."""
    interrupted = context.jobs.interrupted()
    if interrupted:
        run_steps(context.store, recover(context, interrupted), lambda: None)
        context.jobs.unsettled.clear()
    run_steps(context.store, moments.recover(context), lambda: None)


def run_job(
    path: str, call: JobCommand, arguments: tuple[Any, ...], after: tuple[int, ...],
    tell: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:  # fmt: skip
    """A job, to its end; ``tell`` is called with what is known of it, from time to time."""
    with Store.open(path) as store:
        return _run_job(Context(store), call, arguments, after, tell)


def _run_job(
    context: Context, call: JobCommand, arguments: tuple[Any, ...], after: tuple[int, ...],
    tell: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:  # fmt: skip
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

    def between() -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= PROGRESS_S:
            context.store.commit()  # who hears of a job by its id may count on it
            tell(context.jobs.told(job))
            told_at = time.monotonic()

    steps = run_work(context, work, call(context, work, *arguments))
    result: dict[str, Any] = run_steps(context.store, steps, between)
    return result
