"""Undo: take back what a job has made, however far it came, also after a crash; again is as good.

Domains first, then files, so that no domain is ever without its files.  While the hypervisor does
not answer nothing is touched: the VMs are noted as registered (`vm rm` finishes one), the job keeps
its pieces and says that something is ``left``.

A thing is known by volume id, inode number and generation, never by name: what somebody has put in
its place stays, and where somebody has moved it, it is found.  Nothing is undone in a snapshot or
a clone of the volume: what these have is theirs.  What was done to VMs that were there before is
taken back by ``undo_vms``.
"""

from contextlib import suppress
from functools import partial

from engine import Inode, Volume, errors
from hypervisor.interface import Hypervisor
from hypervisor.machine_index import index_of
from hypervisor.machines import Directory
from hypervisor.pools import Pools
from service import hosts, undo_vms
from service.addresses import Context
from service.jobs import MADE, Job, Made
from service.libvirt_calls import with_driver
from service.log import log
from service.steps import Steps, Stopping, insist

UNDO_STEP = 32


def undo(context: Context, job: Job) -> Steps[None]:
    """Take all back.  ``job.left`` says what could not be, and why; empty: nothing is left.

    StoreFailed: nothing can be changed any more.
    """
    job.left = ""
    try:
        if job.uri:
            yield from _undo_domains(context, job)
        for number in reversed(range(job.pieces)):
            yield from _undo_piece(context, job, number)
    except errors.StoreFailed:
        raise
    except _NotTakenBack as error:
        job.left = (
            f"its domains and their files stay: `ramet job cancel {job.id}` when the hypervisor "
            f"answers again, or `ramet vm rm` of each ({error})"
        )
        yield from _note_all(context, job)
    except Exception as error:
        job.left = f"it could not all be undone ({error}); `ramet job cancel {job.id}` tries again"
    else:
        job.items_done = job.blocks_done = 0


class _NotTakenBack(errors.PartlyDone):
    """The hypervisor does not let go of the domains."""


def _undo_piece(context: Context, job: Job, number: int) -> Steps[None]:
    for n, each in enumerate(reversed(context.jobs.piece(job, number)), 1):
        yield from take_back(context, each)
        if n % UNDO_STEP == 0:
            yield from turn()
    context.jobs.drop_piece(job, number)
    yield from turn()


def turn() -> Steps[None]:
    """Others may have their turn; who wants us to stop has to wait, this is the way to stop."""
    with suppress(Stopping):
        yield None


# --- files and volumes


def take_back(context: Context, made: Made) -> Steps[None]:
    """Remove one thing, if it is still there and still what was made."""
    volume = _volume(context, made)
    if volume is None:
        return
    if made.kind != MADE:
        undo_vms.take_back(context, volume, made)
        yield from turn()
        return
    if not made.ino:
        context.store.remove_volume(volume.name, force=True)
        return
    for _ in range(2):  # where it was put, and where it was moved or linked since
        inode = _inode(volume, made)
        if inode is None:
            return
        for parent, name in ((made.parent, made.name), (inode.parent, volume.last_name(inode))):
            entry = None if name is None else volume.entry(parent, name)
            if entry is not None and entry.ino == made.ino and name is not None:
                yield from _remove(context, volume, parent, name)
                break


def _remove(context: Context, volume: Volume, parent: int, name: bytes) -> Steps[None]:
    """In short steps; whoever takes it away, or its volume back, meanwhile has done our work."""
    steps = context.store.removal(volume, parent, name)
    with suppress(StopIteration, errors.Stale):
        while True:
            next(steps)
            yield from turn()


def _volume(context: Context, made: Made) -> Volume | None:
    with suppress(errors.Stale):
        return context.store.volume_by_id(made.volume_id)
    return None


def _inode(volume: Volume, made: Made) -> Inode | None:
    with suppress(errors.Stale):
        inode = volume.inode(made.ino)
        return inode if inode.generation == made.generation else None
    return None


# --- domains


def _undo_domains(context: Context, job: Job) -> Steps[None]:
    registered = [each for each in context.jobs.made(job) if each.uuid]
    uuids = [each.uuid for each in registered]

    def undefine(driver: Hypervisor) -> None:
        driver.undefine_all(uuids, stop=job.powers)

    if not uuids:
        return
    for _ in index_of(context.store).ready():
        yield from turn()
    doomed = _pools(context, registered, job.uri)
    drop = partial(Pools.drop_all, names=doomed)
    try:
        yield from insist(with_driver(job.uri, undefine))
        yield from insist(hosts.on_pools(job.uri, context.store, drop))
    except errors.RametError as error:
        raise _NotTakenBack(str(error)) from error


def _pools(context: Context, registered: list[Made], uri: str) -> set[str]:
    """Directory pools of these VMs that no other registered VM is in; a host's are its rescan's."""
    if hosts.at(context.store, uri) is not None:
        return set()
    places: list[tuple[Volume, int]] = []
    for volume_id, parent in {(each.volume_id, each.parent) for each in registered}:
        with suppress(errors.Stale):
            places.append((context.store.volume_by_id(volume_id), parent))
    doomed = {each.uuid for each in registered}
    return hosts.unused_pools(context.store, uri, places, but=doomed)


def _note_all(context: Context, job: Job) -> Steps[None]:
    """Every VM of the job that is still there may be registered."""
    for n, each in enumerate(context.jobs.made(job), 1):
        volume = _volume(context, each)
        if each.uuid and volume is not None and _inode(volume, each) is not None:
            try:
                note(_directory(volume, each), job.uri)
            except errors.StoreFailed:
                raise
            except errors.RametError as error:  # the job still knows it
                log(f"{job.uri} may have a domain {each.uuid}, which is not noted: {error}")
        if n % UNDO_STEP == 0:
            yield from turn()


def _directory(volume: Volume, made: Made) -> Directory:
    path = volume.path_of(made.ino)
    if path is None:
        raise errors.NotFound(f"inode {made.ino} of {volume} has no name")
    return Directory(volume, path, None)


def note(directory: Directory, uri: str) -> None:
    """The VM is, or may be, registered there."""
    directory.set_machine(directory.machine.at(uri))
