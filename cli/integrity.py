"""``ramet scrub`` and ``ramet fsck``.  Both end with exit code 14 when something is damaged."""

import sys
from collections.abc import Callable
from typing import Any

import click

from service import integrity, operations

DAMAGED = 14


def register(
    main: click.Group, run: Callable[..., Any], address: Callable[[str], str]
) -> None:  # fmt: skip
    """Put the commands into the group; ``run`` runs an operation where the store is open."""

    @main.command()
    @click.option("--rate", default=0.0, help="At most so many MiB/s  [default: no limit]")
    def scrub(rate: float) -> None:
        """Read and check every live block; name files with bad ones.  Example: ramet scrub"""
        if not run(integrity.scrub, rate)["clean"]:
            sys.exit(DAMAGED)

    @main.command()
    @click.option("--data", is_flag=True, help="Read and check every block as well.")
    def fsck(data: bool) -> None:
        """Check every invariant, read-only.  Example: ramet fsck --data"""
        if not run(operations.check, data)["clean"]:
            sys.exit(DAMAGED)
