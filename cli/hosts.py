"""``ramet host``."""

from typing import Any

import click

from cli.later import hosts, rescan
from cli.output import table
from cli.running import DRY_RUN, Branch, run
from cli.settings import settings
from service.deadline import ANSWER_S


@click.group(cls=Branch)
def host() -> None:
    """Hypervisors that see this store: directory, LUN and export pools of libvirt."""


@host.command("add")
@click.argument("uri")
@click.option("--name", help="What to call it  [default: its host name]")
@click.option("--mount-path", help="Where it has the store's mount, if not where this host has it.")
@click.option("--nfs-server", help="An address whose NFS exports a rescan looks up from there.")
def host_add(
    uri: str, name: str | None, mount_path: str | None, nfs_server: str | None
) -> None:  # fmt: skip
    """Note a hypervisor, any libvirt URI.  Example: ramet host add qemu:///system --name here"""
    run(hosts.host_add, uri, name, mount_path, nfs_server)


@host.command("ls")
def host_ls() -> None:
    """List hosts, and what each showed last.  Example: ramet host ls"""
    run(hosts.host_ls)


@host.command("rescan")
@click.argument("name", required=False)
@click.option(
    "--timeout", "silent_s", type=click.FloatRange(0.1, 3600), default=ANSWER_S,
    show_default=True, help="Seconds that a host may take for one pool.",
)  # fmt: skip
@click.pass_context
def host_rescan(ctx: click.Context, name: str | None, silent_s: float) -> None:
    """Make hosts see what the store presents now, and tell what is new, changed and gone.

    Exit code 3 when some hosts or pools could not be rescanned, 1 when none could.

    Example: ramet host rescan here
    """
    result = run(rescan.host_rescan, name, silent_s, display=_show)
    for row in result["hosts"]:
        if row["error"]:
            click.echo(f"ramet: host {row['host']} was not rescanned: {row['error']}", err=True)
        for pool in row["pools"]:
            if pool["state"] == "failed":
                click.echo(f"ramet: host {row['host']}: {pool['note']}", err=True)
    missing = len(result["not_answered"])
    if missing or result["failed_pools"]:
        ctx.exit(1 if missing == len(result["hosts"]) else 3)


@host.command("rm")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when it does not answer; its pools stay there.")
@DRY_RUN
def host_rm(name: str, force: bool, dry_run: bool) -> None:
    """Forget a host and remove the pools made there; no file goes.  Example: ramet host rm here"""
    run(hosts.host_rm, name, force, dry_run)


def _show(result: dict[str, Any]) -> None:
    """A line a pool, then a line a volume that differs."""
    if settings().quiet:
        return
    pools = [{"host": row["host"]} | pool for row in result["hosts"] for pool in row["pools"]]
    counted = [
        {key: pool[key] for key in ("host", "pool", "kind", "state", "volumes")}
        | pool["counts"]
        | {"source": pool["source"]}
        for pool in pools
    ]
    table(counted)
    changes = [
        {"change": change, "pool": pool["pool"], "volume": each["name"],
         "capacity_bytes": each["capacity_bytes"], "allocation_bytes": each["allocation_bytes"]}
        for pool in pools for change in ("new", "changed") for each in pool[change]
    ]  # fmt: skip
    changes += [
        {"change": "gone", "pool": pool["pool"], "volume": each, "capacity_bytes": None,
         "allocation_bytes": None}
        for pool in pools for each in pool["gone"]
    ]  # fmt: skip
    if changes:
        click.echo()
        table(changes)
    if result["unlisted"]:
        click.echo(f"and {result['unlisted']} more changes")
    for pool in pools:
        if pool["note"] and pool["state"] != "failed":
            click.echo(f"{pool['pool']}: {pool['note']}")
    for row in result["hosts"]:
        if row["netfs"] is not None:
            click.echo(f"{row['host']}: {row['netfs']['server']} exports "
                       f"{', '.join(row['netfs']['sources']) or 'nothing'}")  # fmt: skip
        if not row["mounted"]:
            click.echo(f"{row['host']}: the store is not mounted; its pools were left alone")


COMMANDS = (host,)
