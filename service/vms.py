"""``ramet vm``: machines on volumes and what libvirt knows of them, made to agree.

Changes of the store are atomic between two yields; calls to libvirt run on a thread.  What fails
half-way is undone: domains first, then files.  When libvirt is lost on the way and the domains
cannot be taken back, the files stay, and the VMs are noted as registered: no domain is ever without
its files, and `vm rm` finishes the work.
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
from hypervisor.pools import Pools
from hypervisor.revert import machine_at
from service import hosts, moments
from service.addresses import Address, Context, parse
from service.clone_plan import Item, Plan, plan_of
from service.clone_spec import CloneSpec
from service.customizing import customize_by_api
from service.libvirt_calls import LibvirtCall, connected, kind_of, with_driver
from service.operations import Operation, Result, as_of, unique_of
from service.steps import TOLD_TO_STOP, Steps, durable
from service.undo import note
from service.vm_batch import Batch, tree_blocks
from service.vm_places import directory_at, place_of, told, told_damaged
from service.work import JobCommand, Work

LS_STEP = 64  # VMs: about 2 ms


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
    plan: Plan = yield partial(plan_of, wanted, target, _interfaces(base))
    places = [parse(context, item.address) for item in plan.items]
    uri = wanted.uri if wanted.registers else None
    batch = Batch(context, work, uri, wanted.on_error)
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
                context.store, moment.base, where.volume, where.path, place_of(context, where, uri),
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
        "pool": hosts.pool_name_of_vm(made[0].volume, made[0].path) if uri is not None else None,
    }


def _interfaces(directory: Directory) -> int:
    """So many MACs will a clone have."""
    return len(directory.xml().findall("devices/interface"))


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


def register(context: Context, made: list[Directory], uri: str) -> Steps[None]:
    """Define all, note it, show them in a pool; undone in libvirt when any of it fails."""
    for each in made:
        each.check_own()
    texts = [each.local_xml() for each in made]
    uuids = [each.machine.uuid for each in made]
    pools = hosts.pools_of_vms(context, made, uri)

    def define(driver: Hypervisor) -> None:
        for text in {kind_of(text): text for text in texts}.values():
            driver.check_runs(text)
        driver.define_all(texts)

    yield durable  # no domain without its files, whatever happens next
    yield with_driver(uri, define)
    try:
        for pool in pools:
            yield hosts.on_pools(uri, context.store, partial(Pools.show, pool=pool))
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
    formerly = directory.machine.formerly
    if formerly is not None:  # it was to become this VM, and that was cut short
        yield with_driver(uri, lambda driver: driver.undefine_all([formerly]))
    yield from register(context, [directory], uri)
    return told(directory, directory.machine)


def vm_unregister(context: Context, address: str, uri: str | None, force: bool) -> Steps[Result]:
    """Undefine a VM and keep its files."""
    directory = directory_at(context, parse(context, address))
    yield from unregister(context, [directory], uri, force=force)
    return told(directory, directory.machine)


def unregister(
    context: Context, found: list[Directory], uri: str | None, *, force: bool
) -> Steps[None]:  # fmt: skip
    """Undefine VMs where they are registered, or at ``uri``, and drop the pools that none needs.

    Busy when one runs, unless ``force``; then no VM of its hypervisor is touched.
    """
    yield from index_of(context.store).ready()
    at: dict[str, list[Directory]] = {}
    for each in found:
        where = uri or each.machine.uri
        if where is not None:
            each.check_own()
            at.setdefault(where, []).append(each)
    for where, group in at.items():
        uuids = [uuid for each in group for uuid in each.machine.uuids]
        yield with_driver(where, partial(_undefine, uuids=uuids, stop=force))
        for each in group:
            each.set_machine(each.machine.at(None))
        if hosts.at(context.store, where) is None:  # else a rescan of it decides
            places = {(each.volume, each.inode.parent) for each in group}
            unused = hosts.unused_pools(context.store, where, places)
            yield hosts.on_pools(where, context.store, partial(_drop_all, names=unused))


def _undefine(driver: Hypervisor, uuids: list[str], *, stop: bool) -> None:
    driver.undefine_all(uuids, stop=stop)


def _drop_all(pools: Pools, names: set[str]) -> None:
    for name in sorted(names):
        pools.drop(name)


def vm_customize(
    context: Context, address: str, name: str, spec: dict[str, Any]
) -> Steps[Result]:  # fmt: skip
    """A new identity for an existing VM, or for a plain clone of a VM's directory.

    Via file: the stored XML is parsed and rewritten.  Via api: the hypervisor is asked for the
    domain, and the changed one is defined there (MISSION.md, G2 and G3).
    """
    where = parse(context, address)
    directory = directory_at(context, where)
    wanted = CloneSpec.of(spec)
    plan = plan_of(wanted, name, _interfaces(directory))
    identity, wishes = Identity.new(name), plan.wishes(plan.items[0])
    if wanted.via == "api":
        known = machine_at(directory)
        uri = (None if known is None else known.uri) or wanted.uri
        directory = directory_at(context, where, uri)
        machine = yield from customize_by_api(context, directory, identity, wishes, uri)
    else:
        machine = individuals.renew(context.store, directory, identity, wishes)
    return told(directory, machine)


def vm_ls(context: Context, volume: str | None) -> Steps[Result]:
    """All VMs, or those of a volume, by address; by pages, so others are served meanwhile.

    A VM whose mark is damaged is told with what to do about it (``damaged``).
    """
    rows: list[dict[str, Any]] = []
    for each in context.store.volumes():
        if volume in (None, each.name):
            rows += yield from _rows(context, each)
    in_order: list[dict[str, Any]] = yield partial(sorted, rows, key=itemgetter("address"))
    return in_order


def _rows(context: Context, volume: Volume) -> Steps[list[dict[str, Any]]]:
    """A volume's VMs.  What is made or removed meanwhile may be among them or not; a volume that
    is removed has none, one that is restored is listed anew."""
    rows: list[dict[str, Any]] = []
    era, after = volume.era, 0
    while not volume.removed:
        page = volume.marks(machines.MARK, after, LS_STEP)
        for ino, payload in page:
            path = volume.path_of(ino)
            if path is not None:
                rows.append(_row(context, Directory(volume, path, None), payload))
        if len(page) < LS_STEP:
            return rows
        after = page[-1][0]
        yield None
        if volume.era != era:
            era, after = volume.era, 0
            rows.clear()
    return []


def _row(context: Context, directory: Directory, payload: bytes) -> dict[str, Any]:
    try:
        row = told(directory, machines.machine_in(directory.volume, payload)) | {"damaged": None}
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
CHANGES: tuple[Operation, ...] = (
    vm_add, vm_register, vm_unregister, vm_customize, vm_rm,
)  # fmt: skip
JOBS: tuple[JobCommand, ...] = (vm_clone,)
