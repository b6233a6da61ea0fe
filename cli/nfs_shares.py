"""``ramet share nfs``: volumes exported by NFS."""

import click

from cli.later import nfs_shares, shares
from cli.running import DRY_RUN, Branch, run

LISTEN = click.option("--listen", help="ADDRESS[:PORT]  [default: 127.0.0.1:2049]")
CLIENT = click.option(
    "--client", "clients", multiple=True, metavar="NETWORK[:RIGHT]",
    help="Who may use it, and how: ro, rw (root is nobody), root.  [default: this host, rw]",
)  # fmt: skip


@click.group("nfs", cls=Branch)
def nfs() -> None:
    """Volumes exported by NFS."""


@nfs.command("add")
@click.argument("volume")
@CLIENT
@LISTEN
def nfs_add(volume: str, clients: tuple[str, ...], listen: str | None) -> None:
    """Export a volume or VOL@SNAP.

    Example: ramet share nfs add lab --client 10.0.0.0/24:root --listen 10.0.0.1
    """
    run(nfs_shares.share_nfs_add, volume, listen, list(clients))


@nfs.command("ls")
def nfs_ls() -> None:
    """List NFS exports.  Example: ramet share nfs ls --json"""
    run(shares.share_ls, "nfs")


@nfs.command("rm")
@click.argument("volume")
@DRY_RUN
def nfs_rm(volume: str, dry_run: bool) -> None:
    """Export a volume no more; it stays.  Example: ramet share nfs rm lab"""
    run(nfs_shares.share_nfs_rm, volume, dry_run)
