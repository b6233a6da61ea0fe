"""``ramet volume`` and ``ramet snapshot``."""

import click

from cli.later import datastores, operations
from cli.maps import volume_map
from cli.running import CONNECT, DRY_RUN, SIZE, VM_NAME, Branch, run, small_text, uri
from cli.waiting import job_options, run_job
from service.clone_spec import CloneSpec


@click.group(cls=Branch)
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
@click.option("--count", default=1, show_default=True, help="How many; NAME then has {n}.")
@click.option("--start", default=1, show_default=True, help="The first n.")
@click.option("--customize", is_flag=True, help="Give the VMs in it identities of their own.")
@click.option("--register", is_flag=True, help="Customize, and define them in libvirt.")
@click.option("--power-on", is_flag=True, help="Register and start them.")
@VM_NAME
@click.option("--user-data", help="A file with a template of cloud-init user-data.")
@click.option("--network", help="A file with a template of cloud-init network-config.")
@CONNECT
@job_options
def volume_clone(
    source: str, name: str, count: int, start: int, customize: bool, register: bool,
    power_on: bool, vm_name: str, user_data: str | None, network: str | None, connect: str | None,
    wait: bool, after: tuple[int, ...],
) -> None:  # fmt: skip
    """Clone volume or snapshot SOURCE; all or none.  Example: ramet volume clone lab@monday test

    The VMs in it come along as copies; with --register they are VMs of their own, known to libvirt.

    Example: ramet volume clone lab 'class-{n:02d}' --count 20 --register --vm-name '{vm}-{n}'
    """
    spec = None
    if customize or register or power_on:
        spec = CloneSpec(
            user_data=small_text(user_data), network=small_text(network), register=register,
            power_on=power_on, uri=uri(connect),
        ).to_dict()  # fmt: skip
    elif user_data is not None or network is not None:
        raise click.UsageError("--user-data and --network are for --customize or --register")
    run_job(datastores.volume_clone, source, name, count, start, spec, vm_name, wait=wait,
            after=after)  # fmt: skip


@volume.command("rename")
@click.argument("old")
@click.argument("new")
def volume_rename(old: str, new: str) -> None:
    """Rename a volume.  Example: ramet volume rename lab old-lab"""
    run(operations.volume_rename, old, new)


@volume.command("rm")
@click.argument("name")
@click.option("--force", is_flag=True, help="Power off and undefine its VMs; files go stale.")
@DRY_RUN
def volume_rm(name: str, force: bool, dry_run: bool) -> None:
    """Remove a volume and its snapshots.  Example: ramet volume rm test"""
    run(datastores.volume_rm, name, dry_run, force)


@click.group(cls=Branch)
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


volume.add_command(volume_map)
COMMANDS = (volume, snapshot)
