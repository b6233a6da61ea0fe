"""Undo what a job has done to VMs that were there before it: they stay, as they were.

A VM that was registered gets its mark back (its domain is gone by then, ``service.undo``).  One
that was customized gets back what the job has put in place, its XML, seed image and mark, and what
that dropped, out of the snapshot in which the job has held the volume: clones, so nothing is
copied.  Its disks are not touched; one that was grown stays so.

Whoever has done something else to the VM meanwhile has the last word: it then has another identity,
or is registered, and is left alone.
"""

from contextlib import suppress

from engine import Inode, Store, Volume, errors
from hypervisor.customize import SEED
from hypervisor.machines import MARK, XML, Directory, Machine, machine_in
from hypervisor.placing import outputs
from service.addresses import Context
from service.jobs import HELD, REGISTERED, Made
from service.log import log


def take_back(context: Context, volume: Volume, made: Made) -> None:
    """In one stretch; again is as good.  Raises what a full disk does."""
    if made.kind == HELD:
        with suppress(errors.NotFound):
            context.store.remove_snapshot(volume, made.before.decode(), force=True)
        return
    with suppress(errors.Stale):
        inode = volume.inode(made.ino)
        if inode.generation == made.generation:
            if made.kind == REGISTERED:
                _mark_again(volume, made)
            else:
                _restore(context.store, volume, inode, made)


def _mark_again(volume: Volume, made: Made) -> None:
    now, before = _machine(volume, made.ino), _decoded(volume, made.before)
    if now is not None and before is not None and now.uuid == before.uuid:
        volume.set_mark(made.ino, MARK, made.before)


def _restore(store: Store, volume: Volume, inode: Inode, made: Made) -> None:
    try:
        past = store.snapshot(volume, made.before.decode())
        was = past.directory(made.ino)
    except (errors.NotFound, errors.Stale):
        log(f"{volume}:{volume.path_of(made.ino)} keeps its new identity: its snapshot is gone")
        return
    payload = past.get_mark(was.ino, MARK)
    before = None if payload is None else _decoded(past, payload)
    now = _machine(volume, made.ino)
    known = {made.uuid, None if before is None else before.uuid}
    if now is not None and (now.uuid not in known or now.uri is not None):
        return
    for relative in (XML, SEED):
        _put_back(store, past, was, volume, inode, relative, replace=True)
    for relative in _dropped(past, was):
        _put_back(store, past, was, volume, inode, relative, replace=False)
    if payload is None:
        volume.clear_mark(made.ino, MARK)
    else:
        volume.set_mark(made.ino, MARK, payload)


def _dropped(past: Volume, was: Inode) -> list[str]:
    """What a new identity drops: what the old one has put out."""
    path = past.path_of(was.ino)
    if path is None:
        return []
    directory = Directory(past, path, None)
    try:
        found = [directory.own(path) for path in outputs(directory.xml())]
    except errors.RametError:
        return []
    return [each for each in found if each is not None]


def _put_back(
    store: Store, past: Volume, was: Inode, volume: Volume, inode: Inode, relative: str, *,
    replace: bool,
) -> None:  # fmt: skip
    """One file as it was; one that was not there goes, if it is ours to ``replace``."""
    *directories, name = (part.encode(errors="surrogateescape") for part in relative.split("/"))
    try:
        for each in directories:
            was, inode = past.lookup(was.ino, each), volume.lookup(inode.ino, each)
        old, new = past.entry(was.ino, name), volume.entry(inode.ino, name)
    except (errors.NotFound, errors.NotADirectory):
        return
    if new is not None and (not replace or (old is not None and old.ino == new.ino)):
        return
    if old is not None:
        store.clone_file(past, old.ino, volume, inode.ino, name, replace=True)
    elif new is not None:
        volume.unlink(inode.ino, name)


def _machine(volume: Volume, ino: int) -> Machine | None:
    payload = volume.get_mark(ino, MARK)
    return None if payload is None else _decoded(volume, payload)


def _decoded(volume: Volume, payload: bytes) -> Machine | None:
    try:
        return machine_in(volume, payload)
    except errors.Corrupt:
        return None
