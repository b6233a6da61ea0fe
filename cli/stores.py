"""Commands on a store as a whole: make it, serve and mount it, its figures."""

import os

import click

from cli.later import daemon, local, operations
from cli.output import show
from cli.running import EXACT, Leaf, run, run_counted
from cli.settings import settings
from service import background


@click.command(cls=Leaf)
@click.argument("directory")
def init(directory: str) -> None:
    """Make a store in a new or empty DIRECTORY.  Example: ramet init /srv/store"""
    local.create(directory)
    show({"store": os.path.abspath(directory)})


@click.command(cls=Leaf)
@click.option("--mount", "mountpoint", help="Also mount the store here.")
def serve(mountpoint: str | None) -> None:
    """Own the store in the foreground until SIGTERM.  Example: ramet serve --mount /mnt/ramet"""
    daemon.serve(settings().store_path, mountpoint, lambda: click.echo("ready"))


@click.command(cls=Leaf)
@click.argument("mountpoint")
def mount(mountpoint: str) -> None:
    """Mount the store, served in the background.  Example: ramet mount /mnt/ramet"""
    background.start(settings().store_path, os.path.abspath(mountpoint))
    show({"store": settings().store_path, "mountpoint": os.path.abspath(mountpoint)})


@click.command(cls=Leaf)
def umount() -> None:
    """Unmount and stop the daemon; returns when it is done.  Example: ramet umount"""
    background.stop(settings().store_path)
    show({"store": settings().store_path, "serving": False})


@click.command(cls=Leaf)
def status() -> None:
    """Whether a daemon serves the store, and how it is.  Example: ramet status"""
    show(background.status(settings().store_path))


@click.command(cls=Leaf)
@EXACT
def df(exact: bool) -> None:
    """Space of the store.  Example: ramet df --exact"""
    run_counted(exact, operations.df)


@click.command(cls=Leaf)
@EXACT
def tree(exact: bool) -> None:
    """Volumes, snapshots, their lineage and sizes.  Example: ramet tree --exact"""
    run_counted(exact, operations.tree)


@click.command(cls=Leaf)
def gc() -> None:
    """Free what nothing reaches.  Example: ramet gc"""
    run(operations.gc)


COMMANDS = (init, serve, mount, umount, status, df, tree, gc)
