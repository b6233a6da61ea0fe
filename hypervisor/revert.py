"""A VM taken back to an earlier state of its own directory, in one step of the engine.

It stays the VM it is: name, UUID, MACs and where it is registered do not change, so the two states
must be of one VM.  What was noted on its disks while it ran at the time of the snapshot is not the
state of now, and goes.
"""

import xml.etree.ElementTree as ET

import msgspec

from engine import Inode, Store, errors
from hypervisor import domain
from hypervisor.individuals import drop_host_labels
from hypervisor.machines import MARK, Directory, Machine, machine_in


def machine_at(directory: Directory) -> Machine | None:
    """The VM that a directory is, if it is one."""
    payload = directory.volume.get_mark(directory.inode.ino, MARK)
    return None if payload is None else machine_in(directory.volume, payload)


def check_same(past: Directory, now: Machine) -> Machine:
    """The earlier state of a VM; InvalidArgument when it is another's.

    libvirt knows a domain by UUID and name: while it is registered neither may change.
    """
    then = machine_at(past)
    if then is None or then.uuid != now.uuid:
        raise errors.InvalidArgument(
            f"{past.volume}:{past.path} is no earlier state of VM {now.name}; "
            "`ramet vm clone` makes a new VM of another"
        )
    if now.uri is not None and then.name != now.name:
        raise errors.InvalidArgument(
            f"the VM was called {then.name} then and is registered as {now.name}; "
            "unregister it first"
        )
    return then


def same_hardware(past: Directory, now: Directory) -> bool:
    """Whether both states have the same domain XML, so that the hypervisor need not be told."""
    try:
        return ET.canonicalize(domain.serialize(past.xml()).decode()) == ET.canonicalize(
            domain.serialize(now.xml()).decode()
        )
    except errors.RametError:  # what is there now has no sound XML
        return False


def revert(
    store: Store, past: Directory, now: Directory, parent: int, name: bytes, *, force: bool
) -> None:
    """Put the directory's earlier state in its place.  Raises what ``replace_tree`` raises."""
    machine = now.machine
    then = check_same(past, machine)
    kept = Machine(then.name, then.uuid, then.macs, machine.uri, home=now.volume.id)

    def prepare(made: Inode) -> None:
        where = now.volume.path_of(made.ino)
        assert where is not None
        drop_host_labels(Directory(now.volume, where, None))
        now.volume.set_mark(made.ino, MARK, msgspec.msgpack.encode(kept))

    store.replace_tree(
        past.volume, past.inode.ino, now.volume, parent, name, force=force, prepare=prepare
    )
