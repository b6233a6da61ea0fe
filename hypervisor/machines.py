"""VMs as directories of a volume: domain XML, disks, seed image, and a mark that finds them.

``machine_index`` finds VMs, ``adopting`` makes a directory one, ``individuals`` gives it an
identity.  Everything in these is synchronous and on the engine's thread; one call is one atomic
change.  Calls to a hypervisor are in ``driver`` and belong on another thread.
"""

import copy
import xml.etree.ElementTree as ET
from pathlib import PurePosixPath
from uuid import UUID

import msgspec

from engine import Inode, Volume, errors
from hypervisor import domain
from hypervisor.placing import localize

XML = "domain.xml"
XML_MODE = 0o600  # it may hold the passwords of consoles
MARK = b"vm"
SYMLINK = 0o120000
Stamp = tuple[int, int, int]


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


_decode = msgspec.msgpack.Decoder(Machine).decode


def read_mark(payload: bytes) -> Machine:
    """Corrupt for what is no mark of a VM."""
    try:
        return _decode(payload)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise errors.Corrupt(f"the mark of a VM is damaged ({error})") from None


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
        self._local: tuple[Stamp, str, tuple[str, str]] | None = None

    @property
    def machine(self) -> Machine:
        """NotFound when the directory is not one of ours; Corrupt when its mark is damaged."""
        payload = self.volume.get_mark(self.inode.ino, MARK)
        if payload is None:
            raise errors.NotFound(
                f"{self.volume}:{self.path} is no VM; make it one: `ramet vm add`"
            )
        try:
            return machine_in(self.volume, payload)
        except errors.Corrupt as error:
            raise errors.Corrupt(f"{error}; {self.remedy}") from None

    @property
    def remedy(self) -> str:
        """What to do about a mark that is damaged."""
        at = f"{self.volume}:{self.path}"
        return (
            f"`ramet vm add {at}` makes it anew from its {XML}, then `ramet vm register {at}` if "
            "a hypervisor has it"
        )

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

    def own_xml(self) -> str:
        """The XML to register.  InvalidArgument as ``check_identity``."""
        text, said = self._localized()
        self._check_said(*said)
        return text

    def check_identity(self) -> None:
        """InvalidArgument when name and UUID in the XML are not the VM's: it describes another's
        domain, and to define it would change that one."""
        self._check_said(*_said(self.xml()))

    def _check_said(self, name: str, uuid: str) -> None:
        machine = self.machine
        if name != machine.name or not same_uuid(uuid, machine.uuid):
            at = f"{self.volume}:{self.path}"
            raise errors.InvalidArgument(
                f"{XML} of {at} is that of {name!r}, UUID {uuid or 'missing'}, and the VM is "
                f"{machine.name!r}, UUID {machine.uuid}; put its own back, make it the VM that the "
                f"file says by `ramet vm add {at}`, or a new one by `ramet vm customize {at}`"
            )

    def local_xml(self) -> str:
        """The XML as it lies there: the VM's own files are where the mount is now."""
        return self._localized()[0]

    def _localized(self) -> tuple[str, tuple[str, str]]:
        """With the name and the UUID that are in it."""
        if self.mounted is None:
            raise errors.InvalidArgument("the store is not mounted; run `ramet mount DIR` first")
        inode = self.child(XML)
        if inode is not None and self._local is not None and self._local[0] == _stamp(inode):
            return self._local[1:]
        root = self.xml()
        localize(root, self.place)
        return domain.serialize(root).decode(), _said(root)

    def write_xml(self, text: bytes, mode: int, machine: Machine) -> None:
        """XML of that VM, whose paths are those of the mount."""
        self.write(XML, text, mode)
        inode = self.child(XML)
        assert inode is not None
        self._local = _stamp(inode), text.decode(), (machine.name, machine.uuid)

    def write(self, name: str, data: bytes, mode: int) -> None:
        """Put a whole file, in one step."""
        staged = self.volume.create_staged(mode, 0, 0)
        try:
            self.volume.write(staged.ino, 0, data)
            self.volume.publish(staged.ino, self.inode.ino, name.encode(), replace=True)
        except BaseException:
            self.volume.release(staged.ino)
            raise


def _said(root: ET.Element) -> tuple[str, str]:
    """The name and the UUID in a domain's XML."""
    return domain.text_of(root, "name"), domain.text_of(root, "uuid")


def same_uuid(one: str, other: str) -> bool:
    """Whether they are written alike, or are two ways to write the same."""
    try:
        return UUID(one) == UUID(other)
    except ValueError:
        return one == other


def _stamp(inode: Inode) -> Stamp:
    """Another one whenever another file, or other contents, are there."""
    return inode.ino, inode.generation, inode.change
