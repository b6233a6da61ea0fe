"""``ramet scrub`` and ``ramet fsck``.  Both end with exit code 14 when something is damaged."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click

from cli.later import healing, integrity
from cli.output import Progress, show
from cli.running import Leaf, address, run
from cli.settings import settings
from engine import errors
from service import background

DAMAGED = 14
PARTLY = 3


@click.command(cls=Leaf)
@click.option("--rate", default=0.0, help="At most so many MiB/s  [default: no limit]")
@click.option("--repair", "file", help="Heal the bad blocks of this file, VOL:/path ...")
@click.option("--from", "good", help="... from this copy: a host's file or VOL:/path.")
@click.option("--everywhere", is_flag=True, help="Also for all who refer to the same blocks.")
def scrub(rate: float, file: str | None, good: str | None, everywhere: bool) -> None:
    """Read and check every live block; name files with bad ones.

    With --repair and --from: you vouch for the copy, its blocks with the right checksum are
    taken, into new slots.

    Example: ramet scrub --repair lab:/web.raw --from backup.raw
    """
    if (file is None) != (good is None) or (everywhere and file is None):
        raise click.UsageError("--repair VOL:/path goes with --from COPY")
    if file is None or good is None:
        with _watched():
            clean = run(integrity.scrub, rate)["clean"]
        if not clean:
            sys.exit(DAMAGED)
        return
    result = run(healing.scrub_repair, address(file), _copy(good), everywhere)
    if result["not_healed"]:
        sys.exit(PARTLY if result["healed"] else DAMAGED)


@click.command(cls=Leaf)
@click.option("--data", is_flag=True, help="Read and check every block as well.")
@click.option("--repair", is_flag=True, help="Put right what can be; needs an unserved store.")
@click.option("--rebuild-index", is_flag=True, help="Make the fingerprint index anew.")
def fsck(data: bool, repair: bool, rebuild_index: bool) -> None:
    """Check every invariant; read-only unless told.  Example: ramet fsck --data"""
    if rebuild_index and (repair or data):
        raise click.UsageError("--rebuild-index goes alone")
    if rebuild_index:
        run(integrity.rebuild_index)
    elif not _check(data=data, repair=repair)["clean"]:
        sys.exit(DAMAGED)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """On a terminal: what the daemon's status says of the scrub, while it runs there."""
    line, done, path = Progress(), threading.Event(), settings().store_path

    def watch() -> None:
        with contextlib.suppress(errors.RametError, OSError):
            while not done.wait(line.EVERY_S):
                line.tell(background.status(path).get("scrub"))

    watcher = threading.Thread(target=watch, daemon=True)
    if line.wanted:
        watcher.start()
    try:
        yield
    finally:
        done.set()
        if line.wanted:
            watcher.join()
            line.tell(None)


def _copy(good: str) -> str:
    """An address as it is; a path of this machine made absolute, for the daemon to open."""
    return os.path.abspath(good) if os.path.exists(good) or ":/" not in good else good


def _check(*, data: bool, repair: bool) -> dict[str, Any]:
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


COMMANDS = (scrub, fsck)
