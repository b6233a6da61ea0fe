"""Run an operation: in the daemon when one serves the store, else on the store opened here.

What every module of commands needs: the classes that its commands are made with, common options,
and what turns a user's words into an operation's arguments.
"""

import contextlib
import os
import re
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.output import Progress, show
from cli.settings import common_options, settings
from cli.sizes import Size
from engine import Store, errors
from service import moments
from service.addresses import Context
from service.commits import DIRTY_NODES_MAX
from service.integrity import progress
from service.rpc import Client
from service.steps import Steps, Stopping, run_here
from service.work import recover

T = TypeVar("T")
TEXT_BYTES_MAX = 1 << 20
RECLAIM_S = 0.5  # what a command gives back of what it deleted, where no daemon does
_ADDRESS = re.compile(r"[^/:]+:/")


class Leaf(click.Command):
    """A command that takes --json, -q and -v as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common_options()


class Branch(click.Group):
    command_class = Leaf
    group_class = type


def run(
    call: Callable[..., Any], *arguments: Any, display: Callable[[Any], None] | None = None
) -> Any:
    """Run an operation, in the daemon if one runs; make it durable; print what it returned.

    ``display``: how it looks to people, if not as everything does.
    """
    path = settings().store_path
    client = Client.connect(Path(path))
    if client is not None:
        result = client.call(call.__name__, *arguments)
    else:
        with Store.open(path) as store:
            result = run_local(store, call, *arguments)
    (show if display is None or settings().as_json else display)(result)
    return result


@contextlib.contextmanager
def session(*, exact: bool = False) -> Iterator[Callable[..., Any]]:
    """``call(operation, *arguments)`` for commands that need several: each in the daemon if one
    runs, else all on the store opened here once.  ``exact``: after an accounting pass."""
    path = Path(settings().store_path)
    client = Client.connect(path)
    if client is not None:
        client.close()
        if exact:
            _served(path).call("account")
        yield lambda call, *arguments: _served(path).call(call.__name__, *arguments)
        return
    with Store.open(path) as store:
        if exact:
            store.account()
        yield lambda call, *arguments: run_local(store, call, *arguments)


def _served(path: Path) -> Client:
    client = Client.connect(path)
    if client is None:
        raise errors.RametError("the daemon went away meanwhile; try again")
    return client


def run_counted(exact: bool, call: Callable[..., Any], *arguments: Any) -> None:
    """``run``, after an accounting pass if its figures are to be those of now."""
    path = Path(settings().store_path)
    client = Client.connect(path) if exact else None
    if not exact:
        run(call, *arguments)
    elif client is not None:
        client.call("account")
        run(call, *arguments)
    else:
        with Store.open(path) as store:
            store.account()
            show(run_local(store, call, *arguments))


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


def address(text: str) -> str:
    """VOL:/path as it is; a path of this machine made absolute, for the daemon to place."""
    return text if _ADDRESS.match(text) or not os.path.lexists(text) else os.path.abspath(text)


def small_text(path: str | None) -> str | None:
    """The text of a small file that the user named."""
    if path is None:
        return None
    with Path(path).open("rb") as file:
        data = file.read(TEXT_BYTES_MAX + 1)
    if len(data) > TEXT_BYTES_MAX:
        raise errors.TooLarge(f"{path} is larger than 1 MiB; is it the right file?")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise errors.InvalidArgument(f"{path} is not UTF-8 text") from None


SIZE = Size()
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would go, remove nothing.")
CONNECT = click.option(
    "-c", "--connect", envvar="LIBVIRT_DEFAULT_URI", help="libvirt URI  [default: qemu:///system]"
)
EXACT = click.option("--exact", is_flag=True, help="Count unique and shared bytes now.")
VM_NAME = click.option(
    "--vm-name", default="{vm}-{volume}", show_default=True, metavar="PATTERN",
    help="The VMs' new names: {vm}, {volume}, {n}.",
)  # fmt: skip
VIRT_TYPE = click.option("--virt-type", help="Domain type instead of the XML's: kvm, qemu.")


def uri(connect: str | None) -> str:
    settings().connect = connect
    return settings().uri
