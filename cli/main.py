"""``ramet``: its root, the commands on a store and its daemon, and all others put in.

Exit codes and errors are mapped in one place, ``Ramet``.
"""

import os
from typing import Any

import click

from cli import files, hosts, integrity, jobs, maps, shares, vms, volumes
from cli.output import printable, show
from cli.running import EXACT, Branch, run, run_counted
from cli.settings import Settings, settings
from engine import Store, errors
from service import background, daemon, operations
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


@click.group(cls=Ramet, context_settings={"help_option_names": ["-h", "--help"]})
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


@main.command()
@click.argument("directory")
def init(directory: str) -> None:
    """Make a store in a new or empty DIRECTORY.  Example: ramet init /srv/store"""
    Store.create(directory)
    show({"store": os.path.abspath(directory)})


@main.command()
@click.option("--mount", "mountpoint", help="Also mount the store here.")
def serve(mountpoint: str | None) -> None:
    """Own the store in the foreground until SIGTERM.  Example: ramet serve --mount /mnt/ramet"""
    daemon.serve(settings().store_path, mountpoint, lambda: click.echo("ready"))


@main.command()
@click.argument("mountpoint")
def mount(mountpoint: str) -> None:
    """Mount the store, served in the background.  Example: ramet mount /mnt/ramet"""
    background.start(settings().store_path, os.path.abspath(mountpoint))
    show({"store": settings().store_path, "mountpoint": os.path.abspath(mountpoint)})


@main.command()
def umount() -> None:
    """Unmount and stop the daemon; returns when it is done.  Example: ramet umount"""
    background.stop(settings().store_path)
    show({"store": settings().store_path, "serving": False})


@main.command()
def status() -> None:
    """Whether a daemon serves the store, and how it is.  Example: ramet status"""
    show(background.status(settings().store_path))


@main.command()
@EXACT
def df(exact: bool) -> None:
    """Space of the store.  Example: ramet df --exact"""
    run_counted(exact, operations.df)


@main.command()
@EXACT
def tree(exact: bool) -> None:
    """Volumes, snapshots, their lineage and sizes.  Example: ramet tree --exact"""
    run_counted(exact, operations.tree)


@main.command()
def gc() -> None:
    """Free what nothing reaches.  Example: ramet gc"""
    run(operations.gc)


for command in (
    volumes.volume, volumes.snapshot, vms.vm, jobs.job, shares.share, *files.COMMANDS,
    *hosts.COMMANDS, *integrity.COMMANDS,
):  # fmt: skip
    main.add_command(command)
vms.vm.add_command(maps.vm_map)
volumes.volume.add_command(maps.volume_map)
