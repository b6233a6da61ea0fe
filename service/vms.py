"""``ramet vm``: machines on volumes and what libvirt knows of them, made to agree.

Changes of the store are atomic between two yields; calls to libvirt run on a thread.  What fails
half-way is undone: domains first, then files.  When libvirt is lost on the way and the domains
cannot be taken back, the files stay, and the VMs are noted as registered: no domain is ever without
its files, and `vm rm` finishes the work.  ``registration`` and ``customizing`` have the commands
for VMs that are there.
"""

from functools import partial
from operator import itemgetter
from typing import Any

from engine import Volume, errors
from hypervisor import adopting, domain, individuals, machines
from hypervisor.identity import Identity
from hypervisor.interface import Hypervisor
from hypervisor.machine_index import index_of
from hypervisor.machines import Directory
from service import hosts, moments
from service.addresses import Address, Context, parse
from service.clone_plan import Item, Plan, plan_of
from service.clone_spec import CloneSpec
from service.customizing import interfaces
from service.libvirt_calls import LibvirtCall, connected, with_driver
from service.operations import Operation, Result, as_of, unique_of
from service.registration import unregister
from service.steps import TOLD_TO_STOP, Steps, durable
from service.vm_batch import Batch, tree_blocks
from service.vm_listing import each_vm
from service.vm_places import directory_at, told, told_damaged
from service.work import JobCommand, Work


def vm_add(
    context: Context, address: str, text: str | None, from_domain: str | None, uri: str,
    virt_type: str | None,
) -> Steps[Result]:  # fmt: skip
    """Make a directory a VM: XML given, or asked of libvirt, or already in it."""
    where = parse(context, address)
    if from_domain is not None:
        text = yield with_driver(uri, lambda driver: driver.xml(from_domain))
    yield from index_of(context.store).ready()
    directory = directory_at(context, where)
    body = None if text is None else text.encode()
    return told(directory, adopting.add(context.store, directory, body, virt_type))


def vm_clone(
    context: Context, work: Work, source: str, target: str, spec: dict[str, Any]
) -> Steps[dict[str, Any]]:  # fmt: skip
    """Clone a VM as often as ``spec`` (a ``CloneSpec``) says, each clone with its own identity;
    register and start them.
    """
    wanted = CloneSpec.of(spec)
    base = directory_at(context, parse(context, source))
    _ = base.machine
    # on a thread: a hundred thousand rows in templates take their time
    plan: Plan = yield partial(plan_of, wanted, target, interfaces(base))
    places = [parse(context, item.address) for item in plan.items]
    uri = wanted.uri if wanted.registers else None
    batch, place = Batch(context, work, uri, wanted.on_error), hosts.placing(context, uri)
    work.plan(len(places), len(places) * tree_blocks(base.volume, base.inode))
    yield from index_of(context.store).ready()
    with batch.macs() as taken:
        if uri is not None:
            context.mounted_path(base.volume, base.path)
            known, macs = yield with_driver(uri, lambda driver: driver.names_and_macs())
            clash = sorted(known & {item.name for item in plan.items})
            if clash:
                raise errors.AlreadyExists(f"{uri} has a domain {clash[0]!r}; choose another name")
            taken.add(macs)
        xml = (yield from _asked(base, wanted.uri)) if wanted.via == "api" else None
        moment = yield from moments.hold(context, base, uri, quiesce=wanted.quiesce)

        def make(item: Item, where: Address) -> Directory:
            return individuals.clone(
                context.store, moment.base, where.volume, where.path, place(*where),
                Identity.new(item.name), taken, plan.wishes(item, xml),
            )  # fmt: skip

        try:
            made = yield from batch.run(
                (item.name, partial(make, item, where))
                for item, where in zip(plan.items, places, strict=True)
            )
        finally:
            moments.release(context, moment)
    if wanted.power_on:
        yield from power_on(work, made, wanted.uri)
    return {
        "source": source,
        "consistency": moment.consistency,
        "vms": [told(each, each.machine) for each in made],
        "bytes_copied": 0,
        "pool": batch.pools.get(hosts.pool_name_of_vm(made[0].volume, made[0].path)),
    }


def _asked(base: Directory, uri: str) -> Steps[bytes]:
    """The base's XML as the hypervisor has it."""
    machine = base.machine
    at = machine.uri or uri
    text: str = yield with_driver(at, lambda driver: driver.xml_to_change(machine.uuid))
    return text.encode()


def power_on(work: Work, made: list[Directory], uri: str) -> Steps[None]:
    """Start registered VMs; those that do not start have failed, and stay registered."""
    work.registers(uri, powers=True)
    yield durable
    yield from connected(uri, partial(_start_all, work, made))


def _start_all(work: Work, made: list[Directory], driver: Hypervisor) -> Steps[None]:
    for each in made:
        machine = each.machine
        try:
            yield LibvirtCall(partial(driver.start, machine.uuid))
        except TOLD_TO_STOP:
            raise
        except errors.RametError as error:
            work.failed(machine.name, error)


def vm_ls(context: Context, volume: str | None) -> Steps[Result]:
    """All VMs, or those of a volume, by address; by pages, so others are served meanwhile.

    A VM whose mark is damaged is told with what to do about it (``damaged``).
    """
    rows: list[dict[str, Any]] = []
    for each in context.store.volumes():
        if volume in (None, each.name):
            found = yield from each_vm(each, partial(_row, context, each))
            rows += [row for row in found if row is not None]
    in_order: list[dict[str, Any]] = yield partial(sorted, rows, key=itemgetter("address"))
    return in_order


def _row(context: Context, volume: Volume, ino: int, payload: bytes) -> dict[str, Any] | None:
    path = volume.path_of(ino)
    if path is None:
        return None
    directory = Directory(volume, path, None)
    try:
        row = told(directory, machines.machine_in(volume, payload)) | {"damaged": None}
    except errors.Corrupt as error:
        row = told_damaged(directory, error)
    return row | {
        "unique_bytes": unique_of(context, directory.volume, directory.inode),
        "as_of": as_of(context),
    }


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
    directory.volume.check_not_presented(directory.inode)
    if not dry_run:
        yield from unregister(context, [directory], None, force=force)
        parent, name = directory.volume.resolve_parent(directory.path)
        found = directory.volume.lookup(parent.ino, name)
        if (found.ino, found.generation) != (directory.inode.ino, directory.inode.generation):
            raise errors.Stale(f"somebody has moved VM {machine.name} meanwhile; see `ramet vm ls`")
        yield from context.store.removal(directory.volume, parent.ino, name)
    return told(directory, machine) | {"dry_run": dry_run}


READS: tuple[Operation, ...] = (vm_ls, vm_show)
CHANGES: tuple[Operation, ...] = (vm_add, vm_rm)
JOBS: tuple[JobCommand, ...] = (vm_clone,)
