"""``ramet clone --replace`` of a directory: put one VM, or any directory, back as it was.

One atomic change of one directory; the volume's others are not touched.  A VM must be off: its
hypervisor is asked first, and a file of it that is open says so as well.  If its hardware was
another then, it is defined again, once the files are durable.
"""

from typing import Any

from engine import Inode, errors
from hypervisor import revert
from hypervisor.interface import Hypervisor
from hypervisor.machines import Directory, Machine
from service.addresses import Address, Context, parse
from service.closes import closes_arrive
from service.libvirt_calls import with_driver
from service.steps import TOLD_TO_STOP, Steps, durable
from service.vm_places import directory_at
from service.work import Work


def replace_directory(
    context: Context, work: Work, origin: Address, target: str, force: bool
) -> Steps[dict[str, Any]]:
    """Clone a directory over another; a VM stays the VM it is.

    Busy names the VM that runs, or the file that is open; ``force`` goes on although files are
    open, or the hypervisor does not answer, and never while it says that the VM runs.
    """
    yield from closes_arrive(context, parse(context, target).volume)
    where = parse(context, target)
    machine = _machine(context, where)
    if machine is not None and machine.uri is not None:
        yield from _check_off(machine, machine.uri, force=force)
        where, origin = parse(context, target), parse(context, str(origin))
        if _machine(context, where) != machine:
            raise errors.Busy(f"somebody else changes VM {machine.name}; try again")
    parent, name = where.volume.resolve_parent(where.path)
    before = where.volume.record.blocks
    again = False
    if machine is None:
        source = origin.volume.directory(origin.volume.resolve(origin.path).ino)
        context.store.replace_tree(
            origin.volume, source.ino, where.volume, parent.ino, name, force=force
        )
    else:
        past = directory_at(context, origin, machine.uri)
        now = directory_at(context, where, machine.uri)
        again = machine.uri is not None and not revert.same_hardware(past, now)
        if again:
            context.mounted_path(where.volume, where.path)  # before anything changes
            past.check_identity()
        revert.revert(context.store, past, now, parent.ino, name, force=force)
    work.done(max(where.volume.record.blocks - before, 0))
    if again and machine is not None and machine.uri is not None:
        yield from _define(directory_at(context, where, machine.uri), machine.uri)
    return {
        "source": str(origin),
        "clones": [str(where)],
        "vm": None if machine is None else machine.name,
        "bytes_copied": 0,
    }


def _machine(context: Context, where: Address) -> Machine | None:
    """The VM that is in the place now."""
    try:
        inode: Inode = where.volume.resolve(where.path)
    except errors.NotFound:
        return None
    return revert.machine_at(directory_at(context, where)) if inode.is_dir else None


def _check_off(machine: Machine, uri: str, *, force: bool) -> Steps[None]:
    try:
        state = yield with_driver(uri, lambda driver: driver.state(machine.uuid))
    except TOLD_TO_STOP:
        raise
    except errors.RametError as error:
        if not force:
            raise errors.Busy(
                f"nobody knows whether {machine.name} is off ({error}); --force replaces it anyway"
            ) from error
        return
    if state == "running":
        raise errors.Busy(f"{machine.name} is running; shut it down first")


def _define(directory: Directory, uri: str) -> Steps[None]:
    try:
        text = directory.own_xml()

        def define(driver: Hypervisor) -> None:
            driver.define_all([text])

        yield durable
        yield with_driver(uri, define)
    except errors.RametError as error:
        raise errors.PartlyDone(
            f"the files are as they were, but {uri} keeps the VM's newer hardware ({error}); "
            f"`ramet vm register {directory.volume}:{directory.path}` tells it again"
        ) from error
