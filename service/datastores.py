"""Whole datastores with their VMs: cloned, presented, discovered, customized, registered.

The clone itself copies one root, however much is in the volume (MISSION.md D1), and with it the
marks of the VMs: each is at first a *copy*, with the identity of its original and registered
nowhere.  What follows is a step for each VM, never for its files: an identity of its own (G4), and
then, made durable first, a domain in a storage pool of the mount (F2, H1).  Each of these is a
command as well, for a volume that is there: `vm customize --all`, `vm register --all`.

A clone with its VMs is one job, all or none: what fails takes back domains, pool and volumes.
"""

from functools import partial
from typing import Any

from engine import Volume, errors
from hypervisor.identity import hostname_of
from hypervisor.machine_index import index_of
from hypervisor.machines import Directory
from service import vms
from service.addresses import Context, parse_volume
from service.clone_spec import CloneSpec
from service.clones import expand_all
from service.closes import closes_arrive
from service.customizing import Renaming, change_of, renamings
from service.libvirt_calls import with_driver
from service.operations import Operation, Result, told_volume
from service.registration import registered_in, unregister
from service.share_records import Table
from service.steps import Steps
from service.vm_batch import Batch
from service.vm_places import told
from service.work import JobCommand, Work

VM_NAME = "{vm}-{volume}"
VOLUMES_STEP = 64


def _check_names(wanted: list[Renaming], known: set[str], uri: str) -> None:
    """Unlike within one volume, which the plan has checked."""
    names = [each.item.name for each in wanted]
    if len({hostname_of(name) for name in names}) < len(names):
        raise errors.InvalidArgument(
            "two VMs would have the same name; put {vm} and {volume} or {n} into --vm-name"
        )
    clash = sorted(known & set(names))
    if clash:
        raise errors.AlreadyExists(
            f"{uri} has a domain {clash[0]!r}; choose other names with --vm-name"
        )


# --- clone a volume, and all that is in it


def volume_clone(
    context: Context, work: Work, source: str, target: str, count: int = 1, start: int = 1,
    spec: dict[str, Any] | None = None, vm_name: str = VM_NAME,
) -> Steps[dict[str, Any]]:  # fmt: skip
    """Clone a volume or snapshot; with ``{n}`` in the name, ``count`` times: all or none.

    ``spec`` (a ``CloneSpec``): give each VM in the clones an identity of its own, named after
    ``vm_name``, and register and start it if the spec says so.
    """
    names = yield from expand_all(target, start, count)
    origin = parse_volume(context, source)
    wanted = None if spec is None else CloneSpec.of(spec)
    if wanted is not None and wanted.registers:
        context.mounted_path(origin, "/")
    work.plan(count, origin.record.blocks * count)
    made: list[Volume] = []
    for n, name in enumerate(names):
        try:
            volume = context.store.clone_volume(origin, name)
        except errors.RametError as error:
            work.failed(name, error)
            raise
        work.made(volume, None, 0, b"")
        work.done(volume.record.blocks)
        made.append(volume)
        if n % VOLUMES_STEP == VOLUMES_STEP - 1:
            yield None
    result: dict[str, Any] = {"bytes_copied": 0}
    if wanted is not None:
        found = yield from _vms_of_clones(context, work, made, start, wanted, vm_name)
        result["vms"] = [told(each, each.machine) for each in found]
    if "{n" not in target:
        return told_volume(made[0]) | result
    return {"source": source, "volumes": [told_volume(each) for each in made]} | result


def _vms_of_clones(
    context: Context, work: Work, made: list[Volume], start: int, spec: CloneSpec, pattern: str
) -> Steps[list[Directory]]:
    """Customize, and register, the VMs of new volumes."""
    wanted: list[Renaming] = []
    for n, volume in enumerate(made, start):
        wanted += yield from renamings(context, volume, n, pattern, spec)
        yield None
    if not wanted:
        return []
    uri = spec.uri if spec.registers else None
    yield from index_of(context.store).ready()
    batch = Batch(context, work, uri, "undo", blocks_of_one=0)
    work.plan(len(made) + len(wanted), sum(volume.record.blocks for volume in made))
    with batch.macs() as taken:
        known: set[str] = set()
        if uri is not None:
            known, macs = yield with_driver(uri, lambda driver: driver.names_and_macs())
            taken.add(macs)
        _check_names(wanted, known, spec.uri)

        def make(each: Renaming) -> Directory:
            change = change_of(context, each, taken)
            change.write()
            change.finish()
            return each.directory

        done = yield from batch.run((each.item.name, partial(make, each)) for each in wanted)
    if spec.power_on:
        yield from vms.power_on(work, done, spec.uri)
    return done


# --- and removed


def volume_rm(context: Context, name: str, dry_run: bool, force: bool = False) -> Steps[Result]:
    """Remove a volume and its snapshots.

    Busy while it is shared, while files are open, or while VMs of it are registered; ``force``
    powers these off and undefines them, and lets files go stale; a share is removed first.
    """
    store = context.store
    for each in (*store.snapshots(store.volume(name)), store.volume(name)):
        yield from closes_arrive(context, each)
    volume = store.volume(name)
    Table(store).check_not_shared(volume)
    registered = yield from registered_in(context, volume)
    if registered and not force:
        first = registered[0].machine
        raise errors.Busy(
            f"{len(registered)} VMs of {name} are registered, {first.name} first; "
            f"`ramet vm unregister {name}: --all`, or --force"
        )
    *snapshots, _ = store.check_remove_volume(name, force=force)
    answer = {
        "removed": name,
        "files": volume.files,
        "snapshots": [str(each) for each in snapshots],
        "unregistered": [each.machine.name for each in registered],
        "dry_run": dry_run,
    }
    if dry_run:
        return answer
    while registered:
        Table(store).check_not_shared(volume)  # nor meanwhile
        yield from unregister(context, registered, None, force=True)
        _check_still(context, name, volume)
        registered = yield from registered_in(context, volume)
    _check_still(context, name, volume)
    Table(store).check_not_shared(volume)
    store.remove_volume(name, force=force)
    return answer


def _check_still(context: Context, name: str, volume: Volume) -> None:
    if context.store.volume(name) is not volume:
        raise errors.Stale(f"somebody else has removed {name} meanwhile; look what is there")


READS: tuple[Operation, ...] = ()
CHANGES: tuple[Operation, ...] = (volume_rm,)
JOBS: tuple[JobCommand, ...] = (volume_clone,)
