"""``ramet vm``."""

from collections.abc import Callable
from typing import Any

import click

from cli.later import customizing, registration, vms
from cli.maps import vm_map
from cli.running import (
    CONNECT,
    DRY_RUN,
    EXACT,
    SIZE,
    VIRT_TYPE,
    VM_NAME,
    Branch,
    address,
    run,
    run_counted,
    small_text,
    uri,
)
from cli.waiting import job_options, run_job
from hypervisor import variables
from service.clone_spec import ON_ERROR, CloneSpec


def seed_and_hardware(command: Callable[..., None]) -> Callable[..., None]:
    """The options of what a clone shall be like."""
    options = (
        click.option("--user-data", help="A file with a template of cloud-init user-data."),
        click.option("--network", help="A file with a template of cloud-init network-config."),
        click.option("--memory", "memory_bytes", type=SIZE, help="Memory, as in 2GiB."),
        click.option("--vcpus", type=int, help="Virtual CPUs."),
        click.option("--disk-size", "disk_bytes", type=SIZE, help="Grow the boot disk to this."),
        click.option(
            "--via", type=click.Choice(["file", "api"]), default="file", show_default=True,
            help="Take the XML from the directory, or from libvirt.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def clone_spec(user_data: str | None, network: str | None, **options: Any) -> dict[str, Any]:
    """What the user's options say, as the service takes it."""
    made = CloneSpec(user_data=small_text(user_data), network=small_text(network), **options)
    return made.to_dict()


ALL = click.option("--all", "every", is_flag=True, help="All VMs of the volume DIRECTORY.")


@click.group(cls=Branch)
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
@click.option("--count", type=int, help="How many  [default: 1, or the rows of --var]")
@click.option("--start", default=1, show_default=True, help="The first {n}.")
@click.option("--step", default=1, show_default=True, help="From one {n} to the next.")
@click.option("--var", help="A .csv or .json file: a row of variables for each clone.")
@seed_and_hardware
@click.option("--register", is_flag=True, help="Define the clones in libvirt.")
@click.option("--power-on", is_flag=True, help="Register and start them.")
@click.option("--quiesce", is_flag=True, help="Freeze a running base by its guest agent.")
@VIRT_TYPE
@CONNECT
@click.option(
    "--on-error", type=click.Choice(ON_ERROR), default="undo", show_default=True,
    help="When one fails: undo all, stop and keep, or continue.",
)  # fmt: skip
@job_options
def vm_clone(
    source: str, target: str, count: int | None, start: int, step: int, var: str | None,
    connect: str | None, wait: bool, after: tuple[int, ...], **options: Any,
) -> None:  # fmt: skip
    """Clone a VM, each clone with its own identity; all or none, unless --on-error says so.

    A clone that fails is undone whatever it says; exit code 3: some failed, the others stay.

    TARGET may have {n}, {n:03d} and the columns of --var; --user-data and --network may have
    {{ n }}, {{ name }}, {{ mac }}, {{ column }}, or {{ column | tojson }}: quoted for YAML.

    Example: ramet vm clone lab:/golden 'lab:/web-{n:03d}' --count 20 --register

    Example: ramet vm clone lab:/golden 'lab:/{site}-{n}' --var sites.csv --network net.yaml
    --memory 2GiB --disk-size 20GiB --power-on
    """
    text = small_text(var)
    rows = [] if var is None or text is None else variables.read(text, var)
    spec = clone_spec(count=count, start=start, step=step, rows=rows, uri=uri(connect), **options)
    run_job(vms.vm_clone, address(source), address(target), spec, wait=wait, after=after)


@vm.command("customize")
@click.argument("directory")
@click.option("--name", help="The VM's new name.")
@click.option("--all", "every", is_flag=True, help="All copies in the volume DIRECTORY.")
@VM_NAME
@seed_and_hardware
@CONNECT
@job_options
def vm_customize(
    directory: str, name: str | None, every: bool, vm_name: str, connect: str | None,
    wait: bool, after: tuple[int, ...], **options: Any,
) -> None:  # fmt: skip
    """Give a VM, or the copies in a cloned volume, a new identity; all of these or none.

    With --via file its domain.xml is rewritten; with --via api libvirt is asked for the domain, and
    the changed one is defined again.

    Example: ramet vm customize lab:/copy --name web-021 --memory 4GiB

    Example: ramet vm customize class-01: --all --vm-name '{vm}-{volume}'
    """
    if every == (name is not None):
        raise click.UsageError("give --name, or --all for the copies in a volume")
    spec = clone_spec(uri=uri(connect), **options)
    if name is None:
        run_job(
            customizing.vm_customize_all, directory, vm_name, spec, wait=wait, after=after
        )  # fmt: skip
    else:
        run_job(
            customizing.vm_customize, address(directory), name, spec, wait=wait, after=after
        )  # fmt: skip


@vm.command("register")
@click.argument("directory")
@ALL
@CONNECT
@job_options
def vm_register(
    directory: str, every: bool, connect: str | None, wait: bool, after: tuple[int, ...]
) -> None:
    """Define a VM, or all of a volume, in libvirt; all of these or none.

    Example: ramet vm register lab:/web-001

    Example: ramet vm register class-01: --all
    """
    if every:
        run_job(
            registration.vm_register_all, directory, uri(connect), wait=wait, after=after
        )  # fmt: skip
    else:
        run_job(
            registration.vm_register, address(directory), uri(connect), wait=wait, after=after
        )  # fmt: skip


@vm.command("unregister")
@click.argument("directory")
@ALL
@click.option("--force", is_flag=True, help="Also when it runs: it is powered off.")
@CONNECT
@job_options
def vm_unregister(
    directory: str, every: bool, force: bool, connect: str | None, wait: bool,
    after: tuple[int, ...],
) -> None:  # fmt: skip
    """Undefine a VM, or all of a volume; the files stay.

    What libvirt keeps of a domain goes, so this is not undone: stopped on the way, those that are
    unregistered stay so (exit code 3), and the same again does the rest.

    Example: ramet vm unregister lab:/web-001

    Example: ramet vm unregister class-01: --all
    """
    if every:
        run_job(
            registration.vm_unregister_all, directory, force, wait=wait, after=after
        )  # fmt: skip
    else:
        run_job(
            registration.vm_unregister, address(directory), connect, force, wait=wait, after=after
        )  # fmt: skip


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


vm.add_command(vm_map)
COMMANDS = (vm,)
