"""New identities for VMs that are there: ``vm customize``, and the copies of a cloned volume.

By file, the stored XML is parsed and rewritten (MISSION.md G2): one VM in one step.  All copies of
a volume are a job, all or none: a snapshot holds the volume as it was until the last one is done,
and from there the job is undone (``service.undo_vms``).

By the hypervisor's own interface (G3): ask, change, define again.  The store is first and durable:
from then on the VM's mark has both UUIDs, the new one and the one that the hypervisor still knows,
so that `vm rm` finds the domain whatever happens in between.  When the hypervisor refuses the new
domain, it keeps the old one and the store gets back what it had.
"""

import xml.etree.ElementTree as ET
from collections.abc import Container
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import uuid4

from engine import Volume, errors
from hypervisor import domain, individuals
from hypervisor.identity import Identity
from hypervisor.individuals import Change
from hypervisor.interface import Hypervisor
from hypervisor.machine_index import index_of
from hypervisor.machines import Directory, Machine
from hypervisor.revert import machine_at
from hypervisor.wishes import Wishes
from service import hosts
from service.addresses import Address, Context, parse, volume_of_all
from service.clone_plan import Item, Plan, plan_of
from service.clone_spec import CloneSpec
from service.jobs import CUSTOMIZED, HELD, Made
from service.libvirt_calls import LibvirtCall, connected
from service.registration import note_damaged
from service.steps import Steps, durable, insist
from service.vm_batch import Macs
from service.vm_listing import vms_of
from service.vm_places import directory_at, place_of, told
from service.work import JobCommand, Work

CUSTOMIZE_STEP = 2  # VMs: about 1 ms each
Result = dict[str, Any]


class Renaming(NamedTuple):
    """A copy, and what it shall be: one item of a plan."""

    directory: Directory
    plan: Plan
    item: Item


def vm_customize(
    context: Context, work: Work, address: str, name: str, spec: dict[str, Any]
) -> Steps[Result]:  # fmt: skip
    """A new identity for an existing VM, or for a plain clone of a VM's directory.

    Via file: the stored XML is parsed and rewritten.  Via api: the hypervisor is asked for the
    domain, and the changed one is defined there (MISSION.md, G2 and G3).
    """
    where = parse(context, address)
    wanted = CloneSpec.of(spec)
    yield from index_of(context.store).ready()
    directory = directory_at(context, where)
    plan = plan_of(wanted, name, interfaces(directory))
    identity, wishes = Identity.new(name), plan.wishes(plan.items[0])
    if wanted.via == "api":
        known = machine_at(directory)
        uri = (None if known is None else known.uri) or wanted.uri
        directory = directory_at(context, where, uri)
        machine = yield from customize_by_api(context, directory, identity, wishes, uri)
    else:
        machine = individuals.renew(context.store, directory, identity, wishes)
    work.done(0)
    return told(directory, machine)


def interfaces(directory: Directory) -> int:
    """So many MACs will a VM with this XML have."""
    return len(directory.xml().findall("devices/interface"))


# --- all copies of a volume


def renamings(
    context: Context, volume: Volume, n: int, pattern: str, spec: CloneSpec
) -> Steps[list[Renaming]]:
    """What the copies of a volume shall be; the pattern knows {vm}, {volume} and {n}.

    InvalidArgument for names or templates that do not fit, told before anything is changed.
    """
    listed = yield from vms_of(context, volume, spec.uri if spec.registers else None)
    copies = [
        (each.directory, each.machine) for each in listed
        if each.machine and each.machine.home not in (0, volume.id)
    ]  # fmt: skip
    if not copies:
        return []
    rows: list[dict[str, bool | int | str]] = [
        {"vm": machine.name, "volume": volume.name, "n": n} for _, machine in copies
    ]
    wanted = CloneSpec.of(spec.to_dict() | {"rows": rows, "count": None})
    fewest = min(len(machine.macs) for _, machine in copies)
    # on a thread: a hundred thousand rows in templates take their time
    plan: Plan = yield partial(plan_of, wanted, pattern, fewest)
    return [
        Renaming(each, plan, item)
        for (each, _), item in zip(copies, plan.items, strict=True)
    ]  # fmt: skip


def change_of(context: Context, each: Renaming, taken: Container[str]) -> Change:
    """All of a copy's new identity."""
    directory, item, origin = each.directory, each.item, None
    with suppress(errors.Stale):
        original = context.store.volume_by_id(directory.volume.origin_id)
        if not original.is_snapshot:
            origin = place_of(context, Address(original, directory.path))
    return individuals.prepare(
        directory, directory.xml(), Identity.new(item.name), taken, each.plan.wishes(item), origin
    )


def vm_customize_all(
    context: Context, work: Work, address: str, vm_name: str, spec: dict[str, Any]
) -> Steps[Result]:
    """Give every copy of a volume an identity of its own; all, or none when one fails.

    VMs that have one are left alone; one whose mark is damaged has failed, and the others are
    customized all the same.
    """
    volume, asked = volume_of_all(context, address), CloneSpec.of(spec)
    if asked.via == "api":
        raise errors.InvalidArgument("copies are no domains yet; leave --via api out")
    yield from index_of(context.store).ready()
    wanted = yield from renamings(context, volume, 1, vm_name, asked)
    damaged = [each.damaged for each in (yield from vms_of(context, volume))]
    work.plan(len(wanted), 0)
    if wanted:
        yield from _customize_copies(context, work, volume, wanted)
    note_damaged(work, damaged)
    return {"vms": [told(each.directory, each.directory.machine) for each in wanted]}


def _customize_copies(
    context: Context, work: Work, volume: Volume, wanted: list[Renaming]
) -> Steps[None]:
    held = f"customize-{uuid4().hex[:12]}"
    context.store.create_snapshot(volume, held)
    work.note(Made(volume.id, 0, 0, 0, b"", kind=HELD, before=held.encode()))
    taken = index_of(context.store).macs
    for n, each in enumerate(wanted, 1):
        try:
            change = change_of(context, each, taken)
            inode = each.directory.inode
            work.note(Made(
                volume.id, inode.parent, inode.ino, inode.generation, b"", change.machine.uuid,
                kind=CUSTOMIZED, before=held.encode(),
            ))  # fmt: skip
            change.write()
            change.finish()
        except errors.RametError as error:
            work.failed(each.item.name, error)
            raise
        work.done(0)
        if n % CUSTOMIZE_STEP == 0:
            yield None
    with suppress(errors.NotFound):  # removed by hand
        context.store.remove_snapshot(volume, held, force=True)


# --- by the hypervisor's own interface


def customize_by_api(
    context: Context, directory: Directory, identity: Identity, wishes: Wishes, uri: str
) -> Steps[Machine]:
    """Registered when it is done.  NotFound when the hypervisor has no such domain, Busy when it
    is this VM's own and runs.
    """
    if directory.mounted is None:
        raise errors.InvalidArgument("the store is not mounted; run `ramet mount DIR` first")
    known = domain.text_of(directory.xml(), "uuid")
    yield from connected(uri, partial(_customize, context, directory, identity, wishes, known))
    return directory.machine


def _customize(
    context: Context, directory: Directory, identity: Identity, wishes: Wishes, known: str,
    hypervisor: Hypervisor,
) -> Steps[None]:  # fmt: skip
    text: str = yield LibvirtCall(partial(hypervisor.xml_to_change, known))
    root = domain.parse(text.encode())
    assert directory.mounted is not None
    own = _is_of(root, directory.mounted)
    state: str = yield LibvirtCall(partial(hypervisor.state, known))
    if own and state == "running":
        raise errors.Busy(f"{domain.name_of(root)} is running; shut it down first")
    _, macs = yield LibvirtCall(hypervisor.names_and_macs)
    yield from index_of(context.store).ready()
    taken = Macs(context.store, macs)
    change = individuals.prepare(directory, root, identity, taken, wishes)
    yield from _define(hypervisor, change, known if own else None)
    pools = hypervisor.pools(context.store.uuid)
    for pool in hosts.pools_of_vms(context, [directory], hypervisor.uri):
        yield from insist(LibvirtCall(partial(pools.show, pool)))  # it is done, told to stop or not


def _is_of(root: ET.Element, mounted: PurePosixPath) -> bool:
    """Whether the domain is this VM's own, and not that of the VM whose copy it is."""
    paths = [PurePosixPath(source.get("file", "")) for _, source in domain.disks(root)]
    return any(path.is_relative_to(mounted) for path in paths)


def _define(hypervisor: Hypervisor, change: Change, old: str | None) -> Steps[None]:
    uri = hypervisor.uri
    change.write(uri=uri, formerly=old)
    try:
        yield durable
        yield LibvirtCall(partial(hypervisor.check_runs, change.text))
        if old is None:
            yield LibvirtCall(partial(hypervisor.define_all, [change.text]))
        else:
            yield LibvirtCall(partial(hypervisor.replace, old, change.text))
    except errors.PartlyDone:
        raise  # nobody knows what the hypervisor has: the mark names both
    except BaseException:
        change.revert()
        raise
    change.directory.set_machine(change.machine.at(uri))
    change.finish()


JOBS: tuple[JobCommand, ...] = (vm_customize, vm_customize_all)
