"""A VM's identity: a clone with one of its own, or another one for a VM that is there.

All that can be refused is refused before anything is changed (``prepare``).
"""

import xml.etree.ElementTree as ET
from collections.abc import Container
from pathlib import PurePosixPath

from engine import Inode, Store, Volume, errors
from hypervisor import domain, hardware, seed
from hypervisor.customize import SEED, customize
from hypervisor.identity import Identity
from hypervisor.machine_index import index_of
from hypervisor.machines import MARK, XML, XML_MODE, Directory, Machine
from hypervisor.placing import outputs
from hypervisor.wishes import Wishes

AS_IT_IS = Wishes()
HOST_LABELS = b"trusted.libvirt."  # what libvirt notes on a file while a VM of the base uses it


def clone(
    store: Store, base: Directory, target: Volume, path: str, mounted: PurePosixPath | None,
    identity: Identity, taken: Container[str], wishes: Wishes = AS_IT_IS,
) -> Directory:  # fmt: skip
    """A new VM from a base VM: directory cloned, every identity rewritten, a seed of its own."""
    parent, name = target.resolve_parent(path)
    made = store.clone_tree(base.volume, base.inode.ino, target, parent.ino, name)
    try:
        directory = Directory(target, path, mounted)
        root = base.xml() if wishes.xml is None else domain.parse(wishes.xml)
        change = prepare(directory, root, identity, taken, wishes, base.mounted)
        change.write()
        change.finish()
    except BaseException:
        store.remove_tree(target, parent.ino, name)
        raise
    assert directory.inode.ino == made.ino
    return directory


def renew(
    store: Store, directory: Directory, identity: Identity, wishes: Wishes = AS_IT_IS
) -> Machine:  # fmt: skip
    """Give an existing VM, or a plain clone of one's directory, an identity of its own."""
    payload = directory.volume.get_mark(directory.inode.ino, MARK)
    if payload is not None and directory.machine.uri is not None:
        raise errors.Busy(
            f"{directory.machine.name} is registered; unregister it first, or use --via api"
        )
    taken = index_of(store).macs
    change = prepare(directory, directory.xml(), identity, taken, wishes)
    try:
        change.write()
        change.finish()
    except BaseException:
        change.revert()
        raise
    return change.machine


class Change:
    """A VM's new identity, all of it known and nothing of it done.

    ``write`` puts XML, seed image and mark in place, ``revert`` takes them back; ``finish`` does
    what cannot be taken back.
    """

    def __init__(
        self, directory: Directory, machine: Machine, files: dict[str, tuple[bytes, int]],
        stale: list[str], grow: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.machine = machine
        self._files = files
        self._stale = stale
        self._grow = grow
        self._before: dict[str, tuple[bytes, int] | None] = {}
        self._mark_before = directory.volume.get_mark(directory.inode.ino, MARK)

    @property
    def text(self) -> str:
        """The domain XML."""
        return self._files[XML][0].decode()

    def write(self, *, uri: str | None = None, formerly: str | None = None) -> None:
        """Reversible.  ``uri``: where it is, or may be, registered; ``formerly`` as in the mark."""
        volume = self.directory.volume
        for name, (data, mode) in self._files.items():
            inode = self.directory.child(name)
            self._before[name] = None
            if inode is not None:
                self._before[name] = (volume.read(inode.ino, 0, inode.size), inode.mode & 0o7777)
            if name == XML:
                self.directory.write_xml(data, mode, self.machine)
            else:
                self.directory.write(name, data, mode)
        machine = self.machine
        self.directory.set_machine(Machine(machine.name, machine.uuid, machine.macs, uri, formerly))

    def revert(self) -> None:
        """As it was before ``write``."""
        volume, top = self.directory.volume, self.directory.inode.ino
        for name, old in self._before.items():
            if old is not None:
                self.directory.write(name, *old)
            elif self.directory.child(name) is not None:
                volume.unlink(top, name.encode())
        if self._mark_before is None:
            volume.clear_mark(top, MARK)
        else:
            volume.set_mark(top, MARK, self._mark_before)

    def finish(self) -> None:
        """Grow the disk, drop what the old VM has put out and what libvirt noted of it."""
        volume = self.directory.volume
        drop_host_labels(self.directory)
        for relative in self._stale:
            if self.directory.child(relative) is not None:
                parent, name = volume.resolve_parent(f"{self.directory.path}/{relative}")
                volume.unlink(parent.ino, name)
        if self._grow is not None:
            ino, size = self._grow
            volume.setattr(ino, size=size)


def prepare(
    directory: Directory, root: ET.Element, identity: Identity, taken: Container[str],
    wishes: Wishes, before: PurePosixPath | None = None,
) -> Change:  # fmt: skip
    """Make the tree the XML of a new VM in ``directory``; all that can be refused is, here.

    ``before``: where the directory that the XML is from was mounted.
    """
    stale = [directory.own(path, before) for path in outputs(root)]
    if wishes.virt_type is not None:
        root.set("type", wishes.virt_type)
    hardware.resize(root, wishes.memory_bytes, wishes.vcpus)
    macs = customize(
        root, identity, lambda path: directory.place(path, before), directory.where(SEED), taken
    )
    grow = None
    if wishes.disk_bytes is not None:
        grow = _growing(directory, root, wishes.disk_bytes).ino, wishes.disk_bytes
    user_data, network = wishes.render(identity, macs)
    files = {
        XML: (domain.serialize(root), XML_MODE),
        SEED: (seed.build(identity, user_data, network), 0o600),
    }
    machine = Machine(identity.name, identity.uuid, macs)
    return Change(directory, machine, files, [each for each in stale if each is not None], grow)


def _growing(directory: Directory, root: ET.Element, size: int) -> Inode:
    """The boot disk, which a hole at its end may make larger; InvalidArgument for shrinking."""
    disk, source = hardware.boot_disk(root)
    path = source.get("file", "")
    relative = directory.own(path)
    inode = None if relative is None else directory.child(relative)
    driver = disk.find("driver")
    if inode is None:
        raise errors.NotFound(f"the boot disk {path} is not in the VM's directory; import it there")
    if driver is not None and driver.get("type", "raw") != "raw":
        raise errors.InvalidArgument(
            f"{path} is {driver.get('type')}; only raw disks grow: `ramet import` makes them raw"
        )
    if size < inode.size:
        raise errors.InvalidArgument(
            f"{path} has {inode.size} bytes, {size} would cut it off; disks only grow"
        )
    return inode


def drop_host_labels(directory: Directory) -> None:
    """A base VM that runs has libvirt's notes on its disks; they are not the clone's."""
    volume, pending = directory.volume, [directory.inode.ino]
    while pending:
        for entry in volume.readdir(pending.pop(), limit=1 << 20):
            inode = volume.inode(entry.ino)
            if inode.is_dir:
                pending.append(entry.ino)
            for name in volume.list_xattrs(entry.ino):
                if name.startswith(HOST_LABELS):
                    volume.remove_xattr(entry.ino, name)
