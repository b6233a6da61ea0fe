"""Every command of ``ramet``.  Exit codes and errors are mapped in one place, ``Ramet``."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from engine import Store, errors
from service import background, daemon, operations
from service.operations import Result
from service.rpc import Client

EXIT_CODES: dict[type[errors.RametError], int] = {
    errors.NoSuchStore: 10,
    errors.StoreInUse: 11,
    errors.NotFound: 12,
    errors.AlreadyExists: 13,
    errors.Corrupt: 14,
    errors.NoSpace: 15,
}


class Ramet(click.Group):
    """A group whose expected errors are one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.RametError as error:
            click.echo(f"ramet: {error}", err=True)
            ctx.exit(EXIT_CODES.get(type(error), 1))
        except OSError as error:
            click.echo(f"ramet: {error}", err=True)
            ctx.exit(15 if error.errno == 28 else 1)


@click.group(cls=Ramet, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", envvar="RAMET_STORE", help="The store's directory (or RAMET_STORE).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def main(ctx: click.Context, store: str | None, as_json: bool) -> None:
    """A copy-on-write, content-addressed datastore for VM images.

    Example: ramet --store /srv/store clone lab:/golden.raw 'lab:/web-{n:03d}.raw' --count 20
    """
    ctx.obj = (store, as_json)


def run(call: Callable[..., Result], *arguments: Any) -> Result:
    """Run an operation, in the daemon if one runs; make it durable; print what it returned."""
    path, as_json = settings()
    client = Client.connect(Path(path))
    if client is not None:
        result: Result = client.call(call.__name__, *arguments)
    else:
        with Store.open(path) as store:
            result = call(store, *arguments)
            store.commit()
    show(result, as_json=as_json)
    return result


def settings() -> tuple[str, bool]:
    """The store's directory, and whether to print JSON."""
    path, as_json = click.get_current_context().find_root().obj
    if path is None:
        raise click.UsageError("say which store: --store DIR or RAMET_STORE")
    return str(path), bool(as_json)


def show(result: Result, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        return
    for row in [result] if isinstance(result, dict) else result:
        cells = [f"{k.removesuffix('_bytes')}={text(k, v)}" for k, v in row.items()]
        click.echo("  ".join(cells))


def text(key: str, value: Any) -> str:
    """IEC units for people."""
    if not key.endswith("_bytes"):
        return str(value)
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


@main.command()
@click.argument("directory")
def init(directory: str) -> None:
    """Make a store in a new or empty DIRECTORY.  Example: ramet init /srv/store"""
    Store.create(directory)


@main.command()
@click.option("--mount", "mountpoint", help="Also mount the store here.")
def serve(mountpoint: str | None) -> None:
    """Own the store in the foreground until SIGTERM.  Example: ramet serve --mount /mnt/ramet"""
    daemon.serve(settings()[0], mountpoint, lambda: click.echo("ready"))


@main.command()
@click.argument("mountpoint")
def mount(mountpoint: str) -> None:
    """Mount the store, served in the background.  Example: ramet mount /mnt/ramet"""
    background.start(settings()[0], mountpoint)


@main.command()
def umount() -> None:
    """Unmount and stop the daemon; returns when it is done.  Example: ramet umount"""
    background.stop(settings()[0])


@main.command()
def status() -> None:
    """Whether a daemon serves the store, and how it is.  Example: ramet status"""
    path, as_json = settings()
    show(background.status(path), as_json=as_json)


@main.group()
def volume() -> None:
    """Volumes: the datastores of a store."""


@volume.command("create")
@click.argument("name")
def volume_create(name: str) -> None:
    """Make an empty volume.  Example: ramet volume create lab"""
    run(operations.volume_create, name)


@volume.command("ls")
def volume_ls() -> None:
    """List volumes.  Example: ramet volume ls"""
    run(operations.volume_ls)


@volume.command("clone")
@click.argument("source")
@click.argument("name")
def volume_clone(source: str, name: str) -> None:
    """Clone volume or snapshot SOURCE.  Example: ramet volume clone lab@monday test"""
    run(operations.volume_clone, source, name)


@volume.command("rename")
@click.argument("old")
@click.argument("new")
def volume_rename(old: str, new: str) -> None:
    """Rename a volume.  Example: ramet volume rename lab old-lab"""
    run(operations.volume_rename, old, new)


@volume.command("rm")
@click.argument("name")
def volume_rm(name: str) -> None:
    """Remove a volume and its snapshots.  Example: ramet volume rm test"""
    run(operations.volume_rm, name)


@main.group()
def snapshot() -> None:
    """Snapshots: read-only, point-in-time views of a volume."""


@snapshot.command("create")
@click.argument("volume")
@click.argument("name")
def snapshot_create(volume: str, name: str) -> None:
    """Take a snapshot.  Example: ramet snapshot create lab monday"""
    run(operations.snapshot_create, volume, name)


@snapshot.command("ls")
@click.argument("volume")
def snapshot_ls(volume: str) -> None:
    """List snapshots.  Example: ramet snapshot ls lab"""
    run(operations.snapshot_ls, volume)


@snapshot.command("rm")
@click.argument("volume")
@click.argument("name")
def snapshot_rm(volume: str, name: str) -> None:
    """Remove a snapshot.  Example: ramet snapshot rm lab monday"""
    run(operations.snapshot_rm, volume, name)


@snapshot.command("restore")
@click.argument("volume")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also while files are open; they go stale.")
def snapshot_restore(volume: str, name: str, force: bool) -> None:
    """Take a volume back.  Example: ramet snapshot restore lab monday"""
    run(operations.snapshot_restore, volume, name, force)


@main.command("import")
@click.argument("file")
@click.argument("address")
def import_file(file: str, address: str) -> None:
    """Bring raw image FILE in.  Example: ramet import golden.raw lab:/golden.raw"""
    run(operations.import_file, str(Path(file).absolute()), address)


@main.command("export")
@click.argument("address")
@click.argument("file")
def export_file(address: str, file: str) -> None:
    """Write a file out, sparse.  Example: ramet export lab:/web.raw web.raw"""
    run(operations.export_file, address, str(Path(file).absolute()))


@main.command()
@click.argument("source")
@click.argument("target")
@click.option("--count", default=1, show_default=True, help="How many; TARGET then has {n}.")
@click.option("--start", default=1, show_default=True, help="The first n.")
@click.option("--replace", is_flag=True, help="Replace TARGET if it is there (files).")
def clone(source: str, target: str, count: int, start: int, replace: bool) -> None:
    """Clone a file or directory.  Example: ramet clone lab:/golden lab:/web-{n:03d} --count 20"""
    run(operations.clone, source, target, count, start, replace)


@main.command()
@click.argument("address")
def ls(address: str) -> None:
    """List a directory.  Example: ramet ls lab:/"""
    run(operations.ls, address)


@main.command()
@click.argument("address")
@click.option("-r", "recursive", is_flag=True, help="A directory with all below it.")
def rm(address: str, recursive: bool) -> None:
    """Remove a file or directory.  Example: ramet rm -r lab:/web-001"""
    run(operations.rm, address, recursive)


@main.command()
def df() -> None:
    """Space of the store.  Example: ramet --json df"""
    run(operations.df)


@main.command()
def tree() -> None:
    """Volumes, snapshots and their lineage.  Example: ramet tree"""
    run(operations.tree)


@main.command()
def gc() -> None:
    """Free what nothing reaches.  Example: ramet gc"""
    run(operations.gc)


@main.command()
@click.option("--data", is_flag=True, help="Read and check every block as well.")
def fsck(data: bool) -> None:
    """Check every invariant, read-only; exit code 14 on damage.  Example: ramet fsck --data"""
    result = run(operations.check, data)
    assert isinstance(result, dict)
    if not result["clean"]:
        sys.exit(14)
