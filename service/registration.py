"""Registering VMs at a hypervisor, and taking that back: ``vm register``, ``vm unregister``.

Files first and durable, then domains, so that no domain is ever without its files.  Registering is
all or none: what was registered by the job is undone with it (``service.vm_batch``), a domain that
the hypervisor had before is not.  Unregistering cannot be undone, for what libvirt keeps of a
domain goes with it (NVRAM, TPM state, saved state): a few at a time, each noted at once, so what is
cut short is finished by the same again.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from engine import Volume, errors
from hypervisor.interface import Hypervisor
from hypervisor.machine_index import index_of
from hypervisor.machines import Directory
from hypervisor.pools import Pools
from service import hosts
from service.addresses import Context, parse, volume_of_all
from service.libvirt_calls import LibvirtCall, connected, with_driver
from service.steps import TOLD_TO_STOP, Steps, insist
from service.vm_batch import Batch
from service.vm_listing import vms_of
from service.vm_places import directory_at, told
from service.work import JobCommand, Work

Result = dict[str, Any]
UNDEFINE_STEP = 16


def vm_register(context: Context, work: Work, address: str, uri: str) -> Steps[Result]:
    """Define a VM where it is mounted now; again is as good."""
    directory = directory_at(context, parse(context, address), uri)
    formerly = directory.machine.formerly
    if formerly is not None:  # it was to become this VM, and that was cut short
        yield with_driver(uri, lambda driver: driver.undefine_all([formerly]))
    yield from register(context, work, [directory], uri)
    return told(directory, directory.machine)


def vm_register_all(context: Context, work: Work, address: str, uri: str) -> Steps[Result]:
    """Define every VM of a volume that is not registered; all or none.

    One whose mark is damaged has failed, and the others are defined all the same.
    """
    listed = yield from vms_of(context, volume_of_all(context, address), uri)
    found = [each.directory for each in listed if each.machine and each.machine.uri is None]
    yield from register(context, work, found, uri)
    note_damaged(work, [each.damaged for each in listed])
    return {"vms": [told(each, each.machine) for each in found]}


def note_damaged(work: Work, damaged: list[errors.Corrupt | None]) -> None:
    """VMs of a volume that nobody can do anything with have failed."""
    for error in damaged:
        if error is not None:
            work.failed("damaged VM", error)


def register(context: Context, work: Work, found: list[Directory], uri: str) -> Steps[None]:
    """Define all, note it, show them in pools.  InvalidArgument for a copy, or without a mount."""
    for each in found:
        each.check_own()
        context.mounted_path(each.volume, each.path)
    work.plan(len(found), 0)
    if not found:
        return
    uuids = [each.machine.uuid for each in found]
    known: set[str] = yield with_driver(uri, lambda driver: driver.known(uuids))
    batch = Batch(context, work, uri, "undo", blocks_of_one=0, known=known)
    yield from batch.run((each.path, partial(_as_it_is, each)) for each in found)


def _as_it_is(directory: Directory) -> Directory:
    return directory


def vm_unregister(
    context: Context, work: Work, address: str, uri: str | None, force: bool
) -> Steps[Result]:
    """Undefine a VM and keep its files."""
    directory = directory_at(context, parse(context, address))
    yield from _unregister_all(context, work, [directory], uri, force=force)
    return told(directory, directory.machine)


def vm_unregister_all(
    context: Context, work: Work, address: str, force: bool
) -> Steps[Result]:  # fmt: skip
    """Undefine every registered VM of a volume, and keep the files.

    Busy when one runs, and then none is touched at its hypervisor; ``force`` powers off.
    PartlyDone when it ends on the way: those that are unregistered stay so.
    """
    listed = yield from vms_of(context, volume_of_all(context, address))
    found = [each.directory for each in listed if each.machine and each.machine.uri is not None]
    yield from _unregister_all(context, work, found, None, force=force)
    note_damaged(work, [each.damaged for each in listed])
    return {"vms": [told(each, each.machine) for each in found]}


def registered_in(context: Context, volume: Volume) -> Steps[list[Directory]]:
    """The VMs of a volume that are registered somewhere."""
    listed = yield from vms_of(context, volume)
    return [each.directory for each in listed if each.machine and each.machine.uri is not None]


def _unregister_all(
    context: Context, work: Work, found: list[Directory], uri: str | None, *, force: bool
) -> Steps[None]:  # fmt: skip
    work.plan(len(found), 0)
    try:
        yield from unregister(context, found, uri, force=force, done=lambda: work.done(0))
    except errors.RametError as error:
        done = work.job.items_done
        if not done or isinstance(error, errors.StoreFailed):
            raise
        why = "told to stop" if isinstance(error, TOLD_TO_STOP) else error
        raise errors.PartlyDone(
            f"{why}; {done} of {len(found)} are unregistered, and stay so; the same again does "
            "the rest"
        ) from error


def unregister(
    context: Context, found: list[Directory], uri: str | None, *, force: bool,
    done: Callable[[], None] = lambda: None,
) -> Steps[None]:  # fmt: skip
    """Undefine VMs where they are registered, or at ``uri``, and drop the pools that none needs.

    Busy when one runs, unless ``force``; then no VM of its hypervisor is touched.  ``done`` is
    called for each.
    """
    yield from index_of(context.store).ready()
    at: dict[str, list[Directory]] = {}
    for each in found:
        where = uri or each.machine.uri
        if where is not None:
            each.check_own()
            at.setdefault(where, []).append(each)
    for where, group in at.items():
        use = partial(_unregister_at, context, group, where, force, done)
        yield from connected(where, use)


def _unregister_at(
    context: Context, group: list[Directory], uri: str, force: bool, done: Callable[[], None],
    driver: Hypervisor,
) -> Steps[None]:  # fmt: skip
    uuids = [each.machine.uuids for each in group]
    if len(group) > UNDEFINE_STEP and not force:
        every = {uuid for each in uuids for uuid in each}
        yield LibvirtCall(partial(driver.check_off, every))
    for n in range(0, len(group), UNDEFINE_STEP):
        some = [uuid for each in uuids[n : n + UNDEFINE_STEP] for uuid in each]
        yield LibvirtCall(partial(driver.undefine_all, some, stop=force))
        for each in group[n : n + UNDEFINE_STEP]:
            with suppress(errors.Stale, errors.NotFound):  # removed meanwhile
                each.set_machine(each.machine.at(None))
            done()
    if hosts.at(context.store, uri) is None:  # else a rescan of it decides
        places = {(each.volume, each.inode.parent) for each in group}
        unused = hosts.unused_pools(context.store, uri, places)
        if unused:
            drop = partial(Pools.drop_all, names=unused)
            yield from insist(hosts.on_pools(uri, context.store, drop))


JOBS: tuple[JobCommand, ...] = (
    vm_register, vm_register_all, vm_unregister, vm_unregister_all,
)  # fmt: skip
