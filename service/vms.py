"""``ramet vm``: machines on volumes and what libvirt knows of them, made to agree.

Changes of the store are atomic between two yields; calls to libvirt run on a thread.  What fails
half-way is undone: domains first, then files.  When libvirt is lost on the way and the domains
cannot be taken back, the files stay, and the VMs are noted as registered: no domain is ever without
its files, and `vm rm` finishes the work.
"""

from functools import partial
from pathlib import PurePosixPath
from typing import Any

from engine import errors
from hypervisor import domain, machines
from hypervisor.driver import LibvirtDriver
from hypervisor.identity import Identity, check_name
from hypervisor.machines import Directory, Machine
from hypervisor.pools import Pools
from service import hosts
from service.addresses import Address, Context, parse
from service.clones import expand_all
from service.libvirt_calls import kind_of, with_driver
from service.operations import Operation, Result, as_of, unique_of
from service.steps import Steps, durable
from service.undo import note
from service.vm_batch import Batch, tree_blocks
from service.vm_places import directory_at, place_of, told
from service.work import JobCommand, Work


def vm_add(
    context: Context, address: str, text: str | None, from_domain: str | None, uri: str,
    virt_type: str | None,
) -> Steps[Result]:  # fmt: skip
    """Make a directory a VM: XML given, or asked of libvirt, or already in it."""
    where = parse(context, address)
    if from_domain is not None:
        text = yield with_driver(uri, lambda driver: driver.xml(from_domain))
    directory = directory_at(context, where)
    body = None if text is None else text.encode()
    return told(directory, machines.add(context.store, directory, body, virt_type))


def vm_clone(
    context: Context, work: Work, source: str, target: str, count: int, start: int,
    register: bool, uri: str, user_data: str | None, virt_type: str | None, on_error: str,
) -> Steps[dict[str, Any]]:  # fmt: skip
    """Clone a VM ``count`` times, each with its own identity; register them.

    ``on_error`` (service/vm_batch.py): undo all, or stop or continue with what was made.
    """
    base = directory_at(context, parse(context, source))
    _ = base.machine
    targets = [parse(context, each) for each in expand_all(target, start, count)]
    names = [check_name(PurePosixPath(each.path).name) for each in targets]
    extra = None if user_data is None else user_data.encode()
    at = uri if register else None
    batch = Batch(context, work, at, on_error)
    work.plan(count, count * tree_blocks(base.volume, base.inode))
    with batch.macs() as taken:
        if register:
            context.mounted_path(base.volume, base.path)
            known, macs = yield with_driver(uri, LibvirtDriver.names_and_macs)
            clash = sorted(known & set(names))
            if clash:
                raise errors.AlreadyExists(f"{uri} has a domain {clash[0]!r}; choose another name")
            taken.update(macs)

        def make(name: str, where: Address) -> Directory:
            return machines.clone(
                context.store, base, where.volume, where.path, place_of(context, where, at),
                Identity.new(name), taken, extra, virt_type,
            )  # fmt: skip

        made = yield from batch.run(
            (name, partial(make, name, where)) for name, where in zip(names, targets, strict=True)
        )
    return {
        "source": source,
        "vms": [told(each, each.machine) for each in made],
        "bytes_copied": 0,
        "pool": hosts.pool_name_of_vm(made[0].volume, made[0].path) if register else None,
    }


def _register(context: Context, made: list[Directory], uri: str) -> Steps[None]:
    """Define all, note it, show them in a pool; undone in libvirt when any of it fails."""
    texts = [each.local_xml() for each in made]
    uuids = [each.machine.uuid for each in made]
    pools = hosts.pools_of_vms(context, made, uri)

    def define(driver: LibvirtDriver) -> None:
        for text in {kind_of(text): text for text in texts}.values():
            driver.check_runs(text)
        driver.define_all(texts)

    yield durable  # no domain without its files, whatever happens next
    yield with_driver(uri, define)
    try:
        for pool in pools:
            yield hosts.on_pools(uri, context.store, partial(Pools.present, pool=pool))
        for each in made:
            note(each, uri)
    except Exception as error:
        try:
            yield with_driver(uri, lambda driver: driver.undefine_all(uuids))
        except errors.RametError as again:
            raise errors.PartlyDone(
                f"{error}; and the domains could not be taken back: {again}; "
                "remove their VMs (`ramet vm rm`) when libvirt answers again"
            ) from error
        raise


def vm_register(context: Context, address: str, uri: str) -> Steps[Result]:
    """Define a VM where it is mounted now; again is as good."""
    directory = directory_at(context, parse(context, address), uri)
    _ = directory.machine
    yield from _register(context, [directory], uri)
    return told(directory, directory.machine)


def vm_unregister(context: Context, address: str, uri: str | None, force: bool) -> Steps[Result]:
    """Undefine a VM and keep its files."""
    directory = directory_at(context, parse(context, address))
    yield from _unregister(context, directory, uri, force=force)
    return told(directory, directory.machine)


def _unregister(
    context: Context, directory: Directory, uri: str | None, *, force: bool
) -> Steps[None]:  # fmt: skip
    machine = directory.machine
    at = uri or machine.uri
    if at is None:
        return
    yield with_driver(at, lambda driver: driver.undefine_all([machine.uuid], stop=force))
    directory.set_machine(Machine(machine.name, machine.uuid, machine.macs))
    if hosts.at(context.store, at) is None:  # else a rescan of it decides
        pool = hosts.pool_name_of_vm(directory.volume, directory.path)
        if pool not in hosts.pools_in_use(context.store, at):
            yield hosts.on_pools(at, context.store, lambda pools: pools.drop(pool))


def vm_customize(context: Context, address: str, name: str, user_data: str | None) -> Result:
    """A new identity for an existing VM, or for a plain clone of a VM's directory."""
    directory = directory_at(context, parse(context, address))
    extra = None if user_data is None else user_data.encode()
    made = machines.renew(context.store, directory, Identity.new(name), extra)
    return told(directory, made)


def vm_ls(context: Context, volume: str | None) -> Result:
    rows = [
        told(directory, machine)
        | {
            "unique_bytes": unique_of(context, directory.volume, directory.inode),
            "as_of": as_of(context),
        }
        for directory, machine in machines.everyone(context.store)
        if volume in (None, directory.volume.name)
    ]
    return sorted(rows, key=lambda row: str(row["address"]))


def vm_show(context: Context, address: str) -> Steps[Result]:
    """What the store and libvirt say of a VM, and the XML that `vm register` would define."""
    where = parse(context, address)
    machine = directory_at(context, where).machine
    directory = directory_at(context, where, machine.uri)
    state = "not registered"
    if machine.uri is not None:
        state = yield with_driver(machine.uri, lambda driver: driver.state(machine.uuid))
    xml = domain.serialize(directory.xml()) if directory.mounted is None else directory.local_xml()
    return told(directory, machine) | {
        "state": state,
        "xml": xml if isinstance(xml, str) else xml.decode(),
    }


def vm_rm(context: Context, address: str, force: bool, dry_run: bool) -> Steps[Result]:
    """Undefine a VM and remove its directory."""
    directory = directory_at(context, parse(context, address))
    machine = directory.machine
    if not dry_run:
        yield from _unregister(context, directory, None, force=force)
        parent, name = directory.volume.resolve_parent(directory.path)
        yield from context.store.removal(directory.volume, parent.ino, name)
    return told(directory, machine) | {"dry_run": dry_run}


READS: tuple[Operation, ...] = (vm_ls, vm_show)
CHANGES: tuple[Operation, ...] = (
    vm_add, vm_register, vm_unregister, vm_customize, vm_rm,
)  # fmt: skip
JOBS: tuple[JobCommand, ...] = (vm_clone,)
