"""Run an operation: in the daemon when one serves the store, else on the store opened here.

What every module of commands needs: the classes that its commands are made with, common options,
and what turns a user's words into an operation's arguments.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from cli.later import local
from cli.output import show
from cli.settings import common_options, settings
from cli.sizes import Size
from engine import errors
from service.rpc import Client

TEXT_BYTES_MAX = 1 << 20
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
    result = here_or_there(call, *arguments)
    (show if display is None or settings().as_json else display)(result)
    return result


def here_or_there(call: Callable[..., Any], *arguments: Any) -> Any:
    """What an operation returns, in the daemon if one runs."""
    path = settings().store_path
    client = Client.connect(Path(path))
    if client is not None:
        return client.call(call.__name__, *arguments)
    return local.run(path, call, *arguments)


@contextlib.contextmanager
def session(*, exact: bool = False) -> Iterator[Callable[..., Any]]:
    """``call(operation, *arguments)`` for commands that need several: each in the daemon if one
    runs, else all on the store opened here once.  ``exact``: after an accounting pass."""
    path = settings().store_path
    client = Client.connect(Path(path))
    if client is not None:
        client.close()
        if exact:
            _served(path).call("account")
        yield lambda call, *arguments: _served(path).call(call.__name__, *arguments)
        return
    with local.session(path, exact=exact) as call:
        yield call


def _served(path: str) -> Client:
    client = Client.connect(Path(path))
    if client is None:
        raise errors.RametError("the daemon went away meanwhile; try again")
    return client


def run_counted(exact: bool, call: Callable[..., Any], *arguments: Any) -> None:
    """``run``, after an accounting pass if its figures are to be those of now."""
    path = settings().store_path
    client = Client.connect(Path(path)) if exact else None
    if not exact:
        run(call, *arguments)
    elif client is not None:
        client.call("account")
        run(call, *arguments)
    else:
        show(local.run(path, call, *arguments, exact=True))


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
