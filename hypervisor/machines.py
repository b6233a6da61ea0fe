"""VMs as directories of a volume: domain XML, disks, seed image, and a mark that finds them.

Everything here is synchronous and on the engine's thread; one call is one atomic change.  Calls to
a hypervisor are in ``driver`` and belong on another thread.
"""

import copy
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

import msgspec

from engine import Inode, Store, Volume, errors
from hypervisor import domain, hardware, images, seed
from hypervisor.customize import SEED, customize
from hypervisor.identity import Identity, check_name
from hypervisor.placing import localize, outputs
from hypervisor.wishes import Wishes

XML = "domain.xml"
MARK = b"vm"
SYMLINK = 0o120000
HEAD_BYTES = 512
Stamp = tuple[int, int, int]
AS_IT_IS = Wishes()
HOST_LABELS = b"trusted.libvirt."  # what libvirt notes on a file while a VM of the base uses it


class Machine(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the mark of a VM's directory says.  ``uri``: where it is registered, or None.

    ``formerly``: the UUID of the domain that it may still be there, while it becomes another.
    ``home``: the number of the volume in which it was given its identity.  A mark is cloned with
    its volume, in no time, and is then a *copy's*: identity and domain are the original's.
    """

    name: str
    uuid: str
    macs: list[str] = []
    uri: str | None = None
    formerly: str | None = None
    home: int = 0

    @property
    def uuids(self) -> list[str]:
        """All that the hypervisor may know it by."""
        return [self.uuid] if self.formerly is None else [self.uuid, self.formerly]

    def at(self, uri: str | None) -> "Machine":
        """The same VM, registered there and nowhere else."""
        return Machine(self.name, self.uuid, self.macs, uri)


def read_mark(payload: bytes) -> Machine:
    """Corrupt for what is no mark of a VM."""
    try:
        return msgspec.msgpack.decode(payload, type=Machine)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise errors.Corrupt(f"the mark of a VM is damaged ({error}); run `ramet fsck`") from None


def machine_in(volume: Volume, payload: bytes) -> Machine:
    """What a mark says where it stands: a copy is registered nowhere."""
    machine = read_mark(payload)
    if machine.home in (0, volume.id):
        return machine
    return msgspec.structs.replace(machine, uri=None, formerly=None)


class Directory:
    """A VM's directory: in a volume, and on the mount if there is one."""

    def __init__(self, volume: Volume, path: str, mounted: PurePosixPath | None) -> None:
        self.volume = volume
        self.path = path
        self.inode: Inode = volume.directory(volume.resolve(path).ino)
        self.mounted = mounted
        self._parsed: tuple[Stamp, ET.Element] | None = None
        self._local: tuple[Stamp, str] | None = None

    @property
    def machine(self) -> Machine:
        """NotFound when the directory is not one of ours."""
        payload = self.volume.get_mark(self.inode.ino, MARK)
        if payload is None:
            raise errors.NotFound(
                f"{self.volume}:{self.path} is no VM; make it one: `ramet vm add`"
            )
        return machine_in(self.volume, payload)

    @property
    def is_copy(self) -> bool:
        """Whether it still has the identity of the VM that it was cloned from with its volume."""
        return self.machine.home not in (0, self.volume.id)

    def check_own(self) -> None:
        """InvalidArgument for a copy: what is done to its domain is done to the original's."""
        if self.is_copy:
            raise errors.InvalidArgument(
                f"{self.volume}:{self.path} has the identity of the VM it was cloned from; give it "
                "its own by `ramet vm customize`, or `ramet vm add` if the other is no more"
            )

    def set_machine(self, machine: Machine) -> None:
        """From now on the identity is this one's own."""
        here = msgspec.structs.replace(machine, home=self.volume.id)
        self.volume.set_mark(self.inode.ino, MARK, msgspec.msgpack.encode(here))

    def child(self, relative: str) -> Inode | None:
        ino = self.inode.ino
        for part in relative.encode(errors="surrogateescape").split(b"/"):
            entry = self.volume.entry(ino, part)
            if entry is None:
                return None
            if entry.kind == SYMLINK:
                return self._resolved(relative)
            ino = entry.ino
        return self.volume.inode(ino)

    def _resolved(self, relative: str) -> Inode | None:
        try:
            return self.volume.resolve(f"{self.path}/{relative}")
        except (errors.NotFound, errors.NotADirectory):
            return None

    def where(self, relative: str) -> str:
        """A file's path for the hypervisor; relative while the store is not mounted."""
        return relative if self.mounted is None else str(self.mounted / relative)

    def own(self, path: str, before: PurePosixPath | None = None) -> str | None:
        """``path`` relative to this directory, if it names a file of it, wherever it was before.

        Below where the directory is mounted, or was ``before``, a path counts even if nothing is
        there yet, and so does a relative one; elsewhere its longest tail that exists here does.
        """
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            return None
        if not path.startswith("/"):
            return "/".join(parts)
        plain = "/" + "/".join(parts)
        for root in (self.mounted, before):
            if root is not None and plain.startswith(f"{root}/"):
                return plain[len(str(root)) + 1 :]
        for n in range(1, len(parts)):
            tail = "/".join(parts[n:])
            if self.child(tail) is not None:
                return tail
        return None

    def place(self, path: str, before: PurePosixPath | None = None) -> str | None:
        relative = self.own(path, before)
        return None if relative is None else self.where(relative)

    def xml(self) -> ET.Element:
        """A tree of one's own; read and parsed again when the file has changed."""
        inode = self.child(XML)
        if inode is None or inode.is_dir:
            raise errors.NotFound(f"{self.volume}:{self.path} has no {XML}; give one with --xml")
        stamp = _stamp(inode)
        if self._parsed is None or self._parsed[0] != stamp:
            text = self.volume.read(inode.ino, 0, domain.XML_BYTES_MAX + 1)
            self._parsed = stamp, domain.parse(text)
        return copy.deepcopy(self._parsed[1])

    def local_xml(self) -> str:
        """The XML to register: the VM's own files are where the mount is now."""
        if self.mounted is None:
            raise errors.InvalidArgument("the store is not mounted; run `ramet mount DIR` first")
        inode = self.child(XML)
        if inode is not None and self._local is not None and self._local[0] == _stamp(inode):
            return self._local[1]
        root = self.xml()
        localize(root, self.place)
        return domain.serialize(root).decode()

    def write_xml(self, text: bytes, mode: int) -> None:
        """XML whose paths are those of the mount."""
        self.write(XML, text, mode)
        inode = self.child(XML)
        assert inode is not None
        self._local = _stamp(inode), text.decode()

    def write(self, name: str, data: bytes, mode: int) -> None:
        """Put a whole file, in one step."""
        staged = self.volume.create_staged(mode, 0, 0)
        try:
            self.volume.write(staged.ino, 0, data)
            self.volume.publish(staged.ino, self.inode.ino, name.encode(), replace=True)
        except BaseException:
            self.volume.release(staged.ino)
            raise


def _stamp(inode: Inode) -> Stamp:
    """Another one whenever another file, or other contents, are there."""
    return inode.ino, inode.generation, inode.change


def everyone(store: Store) -> Iterator[tuple[Directory, Machine]]:
    """All VMs of all volumes, without their place on a mount; none of snapshots."""
    for volume in store.volumes():
        for ino, payload in volume.marks(MARK):
            path = volume.path_of(ino)
            if path is not None:
                yield Directory(volume, path, None), machine_in(volume, payload)


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
        if not (here or other.is_copy) and (machine.uuid == uuid or set(machine.macs) & set(macs)):
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
    identity: Identity, taken: Collection[str], wishes: Wishes = AS_IT_IS,
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
    change = prepare(directory, directory.xml(), identity, taken_macs(store), wishes)
    change.write()
    change.finish()
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
                self.directory.write_xml(data, mode)
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
    directory: Directory, root: ET.Element, identity: Identity, taken: Collection[str],
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
    secret = root.find("devices/graphics[@passwd]") is not None
    files = {
        XML: (domain.serialize(root), 0o600 if secret else 0o644),
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
