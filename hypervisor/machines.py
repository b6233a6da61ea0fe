"""VMs as directories of a volume: domain XML, disks, seed image, and a mark that finds them.

Everything here is synchronous and on the engine's thread; one call is one atomic change.  Calls to
a hypervisor are in ``driver`` and belong on another thread.
"""

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

import msgspec

from engine import Inode, Store, Volume, errors
from hypervisor import domain, images, seed
from hypervisor.customize import SEED, customize, localize, outputs
from hypervisor.identity import Identity, check_name

XML = "domain.xml"
MARK = b"vm"
HEAD_BYTES = 512
HOST_LABELS = b"trusted.libvirt."  # what libvirt notes on a file while a VM of the base uses it


class Machine(msgspec.Struct, frozen=True):
    """What the mark of a VM's directory says.  ``uri``: where it is registered, or None."""

    name: str
    uuid: str
    macs: list[str] = []
    uri: str | None = None


def read_mark(payload: bytes) -> Machine:
    """Corrupt for what is no mark of a VM."""
    try:
        return msgspec.msgpack.decode(payload, type=Machine)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise errors.Corrupt(f"the mark of a VM is damaged ({error}); run `ramet fsck`") from None


class Directory:
    """A VM's directory: in a volume, and on the mount if there is one."""

    def __init__(self, volume: Volume, path: str, mounted: PurePosixPath | None) -> None:
        self.volume = volume
        self.path = path
        self.inode: Inode = volume.directory(volume.resolve(path).ino)
        self.mounted = mounted

    @property
    def machine(self) -> Machine:
        """NotFound when the directory is not one of ours."""
        payload = self.volume.get_mark(self.inode.ino, MARK)
        if payload is None:
            raise errors.NotFound(
                f"{self.volume}:{self.path} is no VM; make it one: `ramet vm add`"
            )
        return read_mark(payload)

    def set_machine(self, machine: Machine) -> None:
        self.volume.set_mark(self.inode.ino, MARK, msgspec.msgpack.encode(machine))

    def child(self, relative: str) -> Inode | None:
        try:
            return self.volume.resolve(f"{self.path}/{relative}")
        except (errors.NotFound, errors.NotADirectory):
            return None

    def where(self, relative: str) -> str:
        """A file's path for the hypervisor; relative while the store is not mounted."""
        return relative if self.mounted is None else str(self.mounted / relative)

    def own(self, path: str, before: PurePosixPath | None = None) -> str | None:
        """``path`` relative to this directory, if it names a file of it, wherever it was before.

        The longest tail of the path that exists here counts; a relative path, and one below where
        the directory was mounted ``before``, counts even if nothing is there yet.
        """
        parts = PurePosixPath(path).parts
        if not path or ".." in parts:
            return None
        if not path.startswith("/"):
            return str(PurePosixPath(path))
        for n in range(1, len(parts)):
            tail = "/".join(parts[n:])
            if self.child(tail) is not None:
                return tail
        for root in (before, self.mounted):
            if root is not None and PurePosixPath(path).is_relative_to(root):
                return str(PurePosixPath(path).relative_to(root))
        return None

    def place(self, path: str, before: PurePosixPath | None = None) -> str | None:
        relative = self.own(path, before)
        return None if relative is None else self.where(relative)

    def xml(self) -> ET.Element:
        inode = self.child(XML)
        if inode is None or inode.is_dir:
            raise errors.NotFound(f"{self.volume}:{self.path} has no {XML}; give one with --xml")
        return domain.parse(self.volume.read(inode.ino, 0, domain.XML_BYTES_MAX + 1))

    def local_xml(self) -> str:
        """The XML to register: the VM's own files are where the mount is now."""
        if self.mounted is None:
            raise errors.InvalidArgument("the store is not mounted; run `ramet mount DIR` first")
        root = self.xml()
        localize(root, self.place)
        return domain.serialize(root).decode()

    def write(self, name: str, data: bytes, mode: int) -> None:
        """Put a whole file, in one step."""
        staged = self.volume.create_staged(mode, 0, 0)
        try:
            self.volume.write(staged.ino, 0, data)
            self.volume.publish(staged.ino, self.inode.ino, name.encode(), replace=True)
        except BaseException:
            self.volume.release(staged.ino)
            raise


def everyone(store: Store) -> Iterator[tuple[Directory, Machine]]:
    """All VMs of all volumes, without their place on a mount; none of snapshots."""
    for volume in store.volumes():
        for ino, payload in volume.marks(MARK):
            path = volume.path_of(ino)
            if path is not None:
                yield Directory(volume, path, None), read_mark(payload)


def taken_macs(store: Store) -> set[str]:
    return {mac for _, machine in everyone(store) for mac in machine.macs}


def add(store: Store, directory: Directory, text: bytes | None, virt_type: str | None) -> Machine:
    """Make a directory with disks a VM: ``text`` is its domain XML, None means it has one.

    Each disk must be in the directory, whole, or a read-only medium of the host's.
    """
    root = directory.xml() if text is None else domain.parse(text)
    if virt_type is not None:
        root.set("type", virt_type)
    name = check_name(domain.name_of(root))
    for disk, source in domain.disks(root):
        _check_disk(directory, disk, source)
    if not domain.text_of(root, "uuid"):
        _new_uuid(root, name)
    localize(root, directory.place)
    uuid, macs = domain.text_of(root, "uuid"), domain.macs(root)
    for other, machine in everyone(store):
        here = other.volume is directory.volume and other.inode.ino == directory.inode.ino
        if not here and (machine.uuid == uuid or set(machine.macs) & set(macs)):
            raise errors.AlreadyExists(
                f"{other.volume}:{other.path} has the same UUID or MAC; a copy of a VM gets its "
                "identity by `ramet vm clone` or `ramet vm customize`"
            )
    directory.write(XML, domain.serialize(root), 0o644)
    made = Machine(name, uuid, macs)
    directory.set_machine(made)
    return made


def _new_uuid(root: ET.Element, name: str) -> None:
    element = ET.Element("uuid")
    element.text = Identity.new(name).uuid
    root.insert(1, element)


def _check_disk(directory: Directory, disk: ET.Element, source: ET.Element) -> None:
    path = source.get("file", "")
    relative = directory.own(path)
    inode = None if relative is None else directory.child(relative)
    if inode is None:
        if domain.is_shared_medium(disk):
            return
        raise errors.NotFound(
            f"disk {path} is not in {directory.volume}:{directory.path}; `ramet import` it there"
        )
    driver = disk.find("driver")
    said = "raw" if driver is None else driver.get("type", "raw")
    head = directory.volume.read(directory.volume.file(inode.ino).ino, 0, HEAD_BYTES)
    if said != "raw" and images.detect(head) == "raw" and driver is not None:
        driver.set("type", "raw")  # an image that was made raw on import
    elif said != "raw":
        images.check_head(head, path)


def clone(
    store: Store, base: Directory, target: Volume, path: str, mounted: PurePosixPath | None,
    identity: Identity, taken: Collection[str], extra: bytes | None = None,
    virt_type: str | None = None,
) -> Directory:  # fmt: skip
    """A new VM from a base VM: directory cloned, every identity rewritten, a seed of its own."""
    parent, name = target.resolve_parent(path)
    made = store.clone_tree(base.volume, base.inode.ino, target, parent.ino, name)
    try:
        directory = Directory(target, path, mounted)
        drop_host_labels(directory)
        root = base.xml()
        if virt_type is not None:
            root.set("type", virt_type)
        _become(directory, root, identity, taken, extra, base.mounted)
    except BaseException:
        store.remove_tree(target, parent.ino, name)
        raise
    assert directory.inode.ino == made.ino
    return directory


def renew(
    store: Store, directory: Directory, identity: Identity, extra: bytes | None = None
) -> Machine:  # fmt: skip
    """Give an existing VM, or a plain clone of one's directory, an identity of its own."""
    payload = directory.volume.get_mark(directory.inode.ino, MARK)
    if payload is not None and directory.machine.uri is not None:
        raise errors.Busy(f"{directory.machine.name} is registered; unregister it first")
    drop_host_labels(directory)
    return _become(directory, directory.xml(), identity, taken_macs(store), extra, None)


def _become(
    directory: Directory, root: ET.Element, identity: Identity, taken: Collection[str],
    extra: bytes | None, before: PurePosixPath | None,
) -> Machine:  # fmt: skip
    for path in outputs(root):
        relative = directory.own(path, before)
        if relative is not None and directory.child(relative) is not None:
            parent, name = directory.volume.resolve_parent(f"{directory.path}/{relative}")
            directory.volume.unlink(parent.ino, name)
    macs = customize(
        root, identity, lambda path: directory.place(path, before), directory.where(SEED), taken
    )
    directory.write(XML, domain.serialize(root), 0o644)
    directory.write(SEED, seed.build(identity, extra), 0o600)
    machine = Machine(identity.name, identity.uuid, macs)
    directory.set_machine(machine)
    return machine


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
