"""Every command of ``ramet``.  Exit codes and errors are mapped in one place, ``Ramet``."""

import os
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import click

from cli import integrity
from cli.output import Progress, show
from cli.settings import Settings, common_options, settings
from cli.sizes import Size
from engine import Store, errors
from service import background, daemon, operations, vms
from service.addresses import Context
from service.commits import DIRTY_NODES_MAX
from service.integrity import progress
from service.operations import Result
from service.rpc import OS_ERRORS, Client
from service.steps import run_here

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
TEXT_BYTES_MAX = 1 << 20
RECLAIM_S = 0.5  # what a command gives back of what it deleted, where no daemon does
_ADDRESS = re.compile(r"[^/:]+:/")


class Leaf(click.Command):
    """A command that takes --json, -q and -v as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common_options()


class Branch(click.Group):
    command_class = Leaf
    group_class = type


class Ramet(Branch):
    """The root: expected errors are one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (errors.RametError, OSError) as error:
            if ctx.obj.verbose:
                raise
            click.echo(f"ramet: {error}", err=True)
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


def run(call: Callable[..., Any], *arguments: Any) -> Result:
    """Run an operation, in the daemon if one runs; make it durable; print what it returned."""
    path = settings().store_path
    client = Client.connect(Path(path))
    if client is not None:
        result: Result = client.call(call.__name__, *arguments)
    else:
        with Store.open(path) as store:
            result = run_local(store, call, *arguments)
    show(result)
    return result


def run_counted(exact: bool, call: Callable[..., Any], *arguments: Any) -> None:
    """``run``, after an accounting pass if its figures are to be those of now."""
    path = Path(settings().store_path)
    client = Client.connect(path) if exact else None
    if not exact:
        run(call, *arguments)
    elif client is not None:
        client.call("account")
        run(call, *arguments)
    else:
        with Store.open(path) as store:
            store.account()
            show(run_local(store, call, *arguments))


def run_local(store: Store, call: Callable[..., Any], *arguments: Any) -> Result:
    context, line = Context(store), Progress()

    def between() -> None:
        if store.dirty_nodes > DIRTY_NODES_MAX or store.strained:
            store.commit()
        line.tell(progress(context))

    answer = call(context, *arguments)
    if isinstance(answer, Generator):
        answer = run_here(answer, store.commit, between)
        line.tell(None)
    store.commit()
    if len(store.pool.reclaim):
        store.reclaim(RECLAIM_S)
        store.commit()
    result: Result = answer
    return result


def address(text: str) -> str:
    """VOL:/path as it is; a path of this machine made absolute, for the daemon to place."""
    return text if _ADDRESS.match(text) or not os.path.lexists(text) else os.path.abspath(text)


def small_text(path: str | None) -> str | None:
    """The text of a small file that the user named."""
    if path is None:
        return None
    with Path(path).open("rb") as file:
        data = file.read(TEXT_BYTES_MAX + 1)
    if len(data) > TEXT_BYTES_MAX:
        raise errors.TooLarge(f"{path} is larger than 1 MiB; is it the right file?")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise errors.InvalidArgument(f"{path} is not UTF-8 text") from None


SIZE = Size()
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would go, remove nothing.")
CONNECT = click.option(
    "-c", "--connect", envvar="LIBVIRT_DEFAULT_URI", help="libvirt URI  [default: qemu:///system]"
)
EXACT = click.option("--exact", is_flag=True, help="Count unique and shared bytes now.")
VIRT_TYPE = click.option("--virt-type", help="Domain type instead of the XML's: kvm, qemu.")
USER_DATA = click.option("--user-data", help="A file with more cloud-init user-data.")


def uri(connect: str | None) -> str:
    settings().connect = connect
    return settings().uri


# --- store and daemon


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


# --- volumes and snapshots


@main.group(cls=Branch)
def volume() -> None:
    """Volumes: the datastores of a store."""


@volume.command("create")
@click.argument("name")
@click.option("--quota", type=SIZE, default=0, help="The most that its files may reference.")
@click.option(
    "--dedup-domain", type=click.Choice(["shared", "own"]), default="shared", show_default=True,
    help="Own: equal blocks are found in this volume only.",
)  # fmt: skip
def volume_create(name: str, quota: int, dedup_domain: str) -> None:
    """Make an empty volume.  Example: ramet volume create lab --quota 100G"""
    run(operations.volume_create, name, quota, dedup_domain == "own")


@volume.command("quota")
@click.argument("name")
@click.argument("size", type=SIZE)
def volume_quota(name: str, size: int) -> None:
    """Limit what a volume's files reference; 0: no limit.  Example: ramet volume quota lab 100G"""
    run(operations.volume_quota, name, size)


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
@DRY_RUN
def volume_rm(name: str, dry_run: bool) -> None:
    """Remove a volume and its snapshots.  Example: ramet volume rm test"""
    run(operations.volume_rm, name, dry_run)


@main.group(cls=Branch)
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
@DRY_RUN
def snapshot_rm(volume: str, name: str, dry_run: bool) -> None:
    """Remove a snapshot.  Example: ramet snapshot rm lab monday"""
    run(operations.snapshot_rm, volume, name, dry_run)


@snapshot.command("restore")
@click.argument("volume")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also while files are open; they go stale.")
@DRY_RUN
def snapshot_restore(volume: str, name: str, force: bool, dry_run: bool) -> None:
    """Take a volume back; newer changes are lost.  Example: ramet snapshot restore lab monday"""
    run(operations.snapshot_restore, volume, name, force, dry_run)


# --- files


@main.command("import")
@click.argument("file")
@click.argument("target")
@click.option("--format", "form", help="Format of FILE  [default: what its header says]")
@click.option("-p", "--parents", is_flag=True, help="Make the directories above TARGET.")
def import_file(file: str, target: str, form: str | None, parents: bool) -> None:
    """Bring an image in, as raw.  Example: ramet import -p golden.qcow2 lab:/golden/disk.raw"""
    run(operations.import_file, os.path.abspath(file), address(target), form, parents)


@main.command("export")
@click.argument("source")
@click.argument("file")
def export_file(source: str, file: str) -> None:
    """Write a file out, raw and sparse.  Example: ramet export lab:/web.raw web.raw"""
    run(operations.export_file, address(source), os.path.abspath(file))


@main.command()
@click.argument("source")
@click.argument("target")
@click.option("--count", default=1, show_default=True, help="How many; TARGET then has {n}.")
@click.option("--start", default=1, show_default=True, help="The first n.")
@click.option("--replace", is_flag=True, help="Replace TARGET if it is there (files).")
def clone(source: str, target: str, count: int, start: int, replace: bool) -> None:
    """Clone a file or directory.  Example: ramet clone lab:/golden 'lab:/web-{n:03d}' --count 20"""
    run(operations.clone, address(source), address(target), count, start, replace)


@main.command()
@click.argument("directory")
def ls(directory: str) -> None:
    """List a directory.  Example: ramet ls lab:/"""
    run(operations.ls, address(directory))


@main.command()
@click.argument("directory")
@EXACT
def du(directory: str, exact: bool) -> None:
    """Sizes below a directory, and what deleting frees.  Example: ramet du lab:/ --exact"""
    run_counted(exact, operations.du, address(directory))


@main.command()
@click.argument("target")
@click.option("-r", "recursive", is_flag=True, help="A directory with all below it.")
@DRY_RUN
def rm(target: str, recursive: bool, dry_run: bool) -> None:
    """Remove a file or directory.  Example: ramet rm -r lab:/web-001"""
    run(operations.rm, address(target), recursive, dry_run)


# --- virtual machines


@main.group(cls=Branch)
def vm() -> None:
    """Virtual machines: directories with a domain.xml, disks, and a seed image."""


@vm.command("add")
@click.argument("directory")
@click.option("--xml", "xml_file", help="A file with the domain XML  [default: domain.xml in it]")
@click.option("--domain", "from_domain", help="Take the XML of this libvirt domain.")
@VIRT_TYPE
@CONNECT
def vm_add(
    directory: str, xml_file: str | None, from_domain: str | None, virt_type: str | None,
    connect: str | None,
) -> None:  # fmt: skip
    """Make a directory with disks a base VM.  Example: ramet vm add lab:/golden --xml golden.xml"""
    if xml_file is not None and from_domain is not None:
        raise click.UsageError("give --xml or --domain, not both")
    text = small_text(xml_file)
    run(vms.vm_add, address(directory), text, from_domain, uri(connect), virt_type)


@vm.command("clone")
@click.argument("source")
@click.argument("target")
@click.option("--count", default=1, show_default=True, help="How many; TARGET then has {n}.")
@click.option("--start", default=1, show_default=True, help="The first n.")
@click.option("--register", is_flag=True, help="Define the clones in libvirt.")
@USER_DATA
@VIRT_TYPE
@CONNECT
def vm_clone(
    source: str, target: str, count: int, start: int, register: bool, user_data: str | None,
    virt_type: str | None, connect: str | None,
) -> None:  # fmt: skip
    """Clone a VM, each clone with its own identity; all or none.

    Example: ramet vm clone lab:/golden 'lab:/web-{n:03d}' --count 20 --register
    """
    run(
        vms.vm_clone, address(source), address(target), count, start, register, uri(connect),
        small_text(user_data), virt_type,
    )  # fmt: skip


@vm.command("customize")
@click.argument("directory")
@click.option("--name", required=True, help="The VM's new name.")
@USER_DATA
def vm_customize(directory: str, name: str, user_data: str | None) -> None:
    """Give a VM a new identity.  Example: ramet vm customize lab:/copy --name web-021"""
    run(vms.vm_customize, address(directory), name, small_text(user_data))


@vm.command("register")
@click.argument("directory")
@CONNECT
def vm_register(directory: str, connect: str | None) -> None:
    """Define a VM in libvirt.  Example: ramet vm register lab:/web-001"""
    run(vms.vm_register, address(directory), uri(connect))


@vm.command("unregister")
@click.argument("directory")
@click.option("--force", is_flag=True, help="Also when it runs: it is powered off.")
@CONNECT
def vm_unregister(directory: str, force: bool, connect: str | None) -> None:
    """Undefine a VM, keep its files.  Example: ramet vm unregister lab:/web-001"""
    run(vms.vm_unregister, address(directory), connect, force)


@vm.command("ls")
@click.argument("volume", required=False)
@EXACT
def vm_ls(volume: str | None, exact: bool) -> None:
    """List VMs, and what removing each would free.  Example: ramet vm ls lab --exact"""
    run_counted(exact, vms.vm_ls, volume)


@vm.command("show")
@click.argument("directory")
def vm_show(directory: str) -> None:
    """One VM: identity, state, XML.  Example: ramet vm show lab:/web-001"""
    run(vms.vm_show, address(directory))


@vm.command("rm")
@click.argument("directory")
@click.option("--force", is_flag=True, help="Also when it runs: it is powered off.")
@DRY_RUN
def vm_rm(directory: str, force: bool, dry_run: bool) -> None:
    """Undefine a VM and remove its files.  Example: ramet vm rm lab:/web-001"""
    run(vms.vm_rm, address(directory), force, dry_run)


integrity.register(main, run, address)
