"""Commands on a store as a whole: make it, serve and mount it, its figures."""

import os

import click

from cli.later import daemon, local, operations
from cli.output import show
from cli.running import EXACT, Leaf, run, run_counted
from cli.settings import settings
from service import background, mount_options, mounting

OPTIONS = click.option(
    "-o", "texts", multiple=True, metavar="OPTIONS", help="Of the mount, as in fstab: ro,volume=lab"
)


@click.command(cls=Leaf)
@click.argument("directory")
def init(directory: str) -> None:
    """Make a store in a new or empty DIRECTORY.  Example: ramet init /srv/store"""
    local.create(directory)
    show({"store": os.path.abspath(directory)})


@click.command(cls=Leaf)
@click.option("--mount", "mountpoint", help="Also mount the store here.")
@OPTIONS
def serve(mountpoint: str | None, texts: tuple[str, ...]) -> None:
    """Own the store in the foreground until SIGTERM.  Example: ramet serve --mount /mnt/ramet

    Options of the mount: as for `ramet mount`.
    """
    options = mount_options.parse(texts)
    daemon.serve(settings().store_path, mountpoint, lambda: click.echo("ready"), options)


@click.command(cls=Leaf)
@click.argument("mountpoint", required=False)
@OPTIONS
@click.option("--install-helper", is_flag=True, help="Let mount(8) and fstab know stores.")
def mount(mountpoint: str | None, texts: tuple[str, ...], install_helper: bool) -> None:
    """Mount the store, served in the background.  Example: ramet mount /mnt/ramet

    Options (-o): ro, noexec, noatime, sync, dirsync; volume=VOL or volume=VOL@SNAP shows that one
    alone; real_blocks counts a file's mapped blocks instead of its size in st_blocks (`tar -S` and
    `du` then see holes, and `cp` copies sparse files instead of cloning them); nonempty mounts at a
    directory that is not empty; fsname=NAME is shown by `findmnt`; poll_us=N is how long the daemon
    looks for the next request before it sleeps (at most; 50, 0: not at all), which answers faster
    and takes processor time.  A mount is nosuid and nodev.

    --install-helper, once, links /sbin/mount.ramet and its kin to this installation.  After that
    `mount -t ramet STORE[:VOL] DIR` works, and so does a line of fstab.
    """
    if install_helper:
        show({"installed": mounting.install()})
        return
    if mountpoint is None:
        raise click.UsageError("say where: ramet mount DIR")
    options = mount_options.parse(texts)
    if options.remount:
        raise click.UsageError("mount -o remount,... DIR changes a mount")
    background.start(settings().store_path, os.path.abspath(mountpoint), options)
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
