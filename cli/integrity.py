"""``ramet scrub`` and ``ramet fsck``.  Both end with exit code 14 when something is damaged."""

import sys
from collections.abc import Callable
from typing import Any

import click

from cli.output import show
from cli.settings import settings
from engine import errors
from service import background, integrity

DAMAGED = 14


def register(main: click.Group, run: Callable[..., Any], address: Callable[[str], str]) -> None:
    """Put the commands into the group; ``run`` runs an operation where the store is open."""

    @main.command()
    @click.option("--rate", default=0.0, help="At most so many MiB/s  [default: no limit]")
    def scrub(rate: float) -> None:
        """Read and check every live block; name files with bad ones.  Example: ramet scrub"""
        if not run(integrity.scrub, rate)["clean"]:
            sys.exit(DAMAGED)

    @main.command()
    @click.option("--data", is_flag=True, help="Read and check every block as well.")
    @click.option("--repair", is_flag=True, help="Put right what can be; needs an unserved store.")
    @click.option("--rebuild-index", is_flag=True, help="Make the fingerprint index anew.")
    def fsck(data: bool, repair: bool, rebuild_index: bool) -> None:
        """Check every invariant; read-only unless told.  Example: ramet fsck --data"""
        if rebuild_index and (repair or data):
            raise click.UsageError("--rebuild-index goes alone")
        if rebuild_index:
            run(integrity.rebuild_index)
        elif not _check(run, data=data, repair=repair)["clean"]:
            sys.exit(DAMAGED)


def _check(run: Callable[..., Any], *, data: bool, repair: bool) -> dict[str, Any]:
    """In the daemon if one serves the store, else on the closed store, which need not open."""
    path = settings().store_path
    served = background.status(path)["serving"]
    if served and repair:
        raise errors.StoreInUse("a repair needs the store for itself; run `ramet umount` first")
    if served:
        result: dict[str, Any] = run(integrity.check, data)
        return result
    result = (integrity.repair_closed if repair else integrity.check_closed)(path, data)
    show(result)
    return result
