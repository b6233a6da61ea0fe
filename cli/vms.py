"""``ramet vm``."""

import click

from cli.running import (
    CONNECT,
    DRY_RUN,
    EXACT,
    USER_DATA,
    VIRT_TYPE,
    Branch,
    address,
    run,
    run_counted,
    small_text,
    uri,
)
from cli.waiting import job_options, run_job
from service import vms
from service.vm_batch import ON_ERROR


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
@click.option("--count", default=1, show_default=True, help="How many; TARGET then has {n}.")
@click.option("--start", default=1, show_default=True, help="The first n.")
@click.option("--register", is_flag=True, help="Define the clones in libvirt.")
@USER_DATA
@VIRT_TYPE
@CONNECT
@click.option(
    "--on-error", type=click.Choice(ON_ERROR), default="undo", show_default=True,
    help="When one fails: undo all, stop and keep, or continue.",
)  # fmt: skip
@job_options
def vm_clone(
    source: str, target: str, count: int, start: int, register: bool, user_data: str | None,
    virt_type: str | None, connect: str | None, on_error: str, wait: bool, after: tuple[int, ...],
) -> None:  # fmt: skip
    """Clone a VM, each clone with its own identity; all or none, unless --on-error says so.

    A clone that fails is undone whatever it says; exit code 3: some failed, the others stay.

    Example: ramet vm clone lab:/golden 'lab:/web-{n:03d}' --count 20 --register
    """
    run_job(
        vms.vm_clone, address(source), address(target), count, start, register, uri(connect),
        small_text(user_data), virt_type, on_error, wait=wait, after=after,
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
