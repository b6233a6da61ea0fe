"""``ramet``: its root, with the names of all commands and where each is.

A module of commands is imported when one of them is asked for, or all for ``--help``.  Exit codes
and errors are mapped in one place, ``Ramet``.
"""

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

import click

from cli.output import printable
from cli.running import Branch
from cli.settings import Settings
from engine import errors
from service.rpc import OS_ERRORS

EXIT_CODES: dict[type[errors.RametError], int] = {
    errors.PartlyDone: 3,
    errors.NoSuchStore: 10,
    errors.StoreInUse: 11,
    errors.NotFound: 12,
    errors.AlreadyExists: 13,
    errors.Corrupt: 14,
    errors.NoSpace: 15,
    errors.QuotaExceeded: 15,
}
MODULES = {
    "stores": ("init", "serve", "mount", "umount", "status", "df", "tree", "gc"),
    "volumes": ("volume", "snapshot"),
    "vms": ("vm",),
    "jobs": ("job",),
    "shares": ("share",),
    "files": ("import", "export", "clone", "ls", "du", "rm"),
    "hosts": ("host",),
    "integrity": ("scrub", "fsck"),
    "bench": ("bench",),
}
"""The modules of ``cli`` with a tuple COMMANDS, and the names of what is in it, in order."""


class Commands(MutableMapping[str, click.Command]):
    """The commands by name, each there when it is asked for."""

    def __init__(self) -> None:
        self._places = {name: module for module, names in MODULES.items() for name in names}
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module = import_module(f"cli.{self._places[name]}")
            self._loaded |= {str(command.name): command for command in module.COMMANDS}
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name], self._places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Ramet(Branch):
    """The root: expected errors are one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (errors.RametError, OSError) as error:
            if ctx.obj.verbose:
                raise
            click.echo(f"ramet: {printable(str(error))}", err=True)
            kind: type = type(error)
            if isinstance(error, OSError):
                kind = OS_ERRORS.get(error.errno or 0, kind)
            ctx.exit(EXIT_CODES.get(kind, 1))


@click.group(
    cls=Ramet, commands=Commands(), context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--store", envvar="RAMET_STORE", help="The store's directory (or RAMET_STORE).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Print where an error came from.")
@click.pass_context
def main(ctx: click.Context, store: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """A copy-on-write, content-addressed datastore for VM images.

    Files are named VOL:/path, VOL@SNAP:/path, or by their path on the mount.

    Example: ramet --store /srv/store clone lab:/golden.raw 'lab:/web-{n:03d}.raw' --count 20
    """
    ctx.obj = Settings(store=store, as_json=as_json, quiet=quiet, verbose=verbose)
