"""Rewrite every identity in a domain's XML tree.

What virt-clone changes is changed (name, UUID, MACs, disk and NVRAM paths, channel paths, fixed
graphics ports), and what it leaves alone as well: SMBIOS values, genid, disk serials and WWNs,
vsock CIDs, interface ids of virtual ports, fixed runtime values.
"""

import secrets
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Container
from pathlib import PurePosixPath

from engine import errors
from hypervisor import domain, unshareable
from hypervisor.identity import Identity, new_mac
from hypervisor.placing import BOOT_FILES, TEXTS, Place, own_path, paths, renamed_in

SEED = "seed.iso"
_SMBIOS_SERIALS = {"serial", "asset"}
_PORT_IDS = ("interfaceid", "instanceid")
_ADDRESSES = ("MAC", "IP", "IPV6")


def customize(
    root: ET.Element, identity: Identity, place: Place, seed: str, taken_macs: Container[str]
) -> list[str]:
    """Make the tree the XML of a new VM; returns its MACs.

    ``seed`` is the path of its seed image.  InvalidArgument when the XML has what two VMs cannot
    share and what cannot be rewritten.
    """
    old_name, old_uuid = domain.name_of(root), domain.text_of(root, "uuid")
    old_macs = domain.macs(root)
    unshareable.check(root)
    _name_and_ids(root, identity, old_name)
    _boot_files(root, place)
    _disks(root, place, seed)
    macs = _interfaces(root, taken_macs)
    _paths(root, old_name, identity.name, place)
    _graphics(root, old_name, identity.name)
    _runtime(root)
    unshareable.check_arguments(root, old_name, [old_uuid, *old_macs], place)
    unshareable.check_paths(root, place)
    _lineage(root, old_name, old_uuid)
    return macs


def _set(root: ET.Element, path: str, text: str) -> None:
    element = root.find(path)
    if element is None:
        element = ET.Element(path)
        root.insert(1, element)
    element.text = text


def _name_and_ids(root: ET.Element, identity: Identity, old_name: str) -> None:
    root.attrib.pop("id", None)
    _set(root, "name", identity.name)
    _set(root, "uuid", identity.uuid)
    title = root.find("title")
    if title is not None and title.text:
        title.text = renamed_in(title.text, old_name, identity.name)
    genid = root.find("genid")
    if genid is not None:
        genid.text = identity.genid
    for entry in root.iterfind("sysinfo//entry"):
        if entry.get("name") == "uuid":  # libvirt wants it equal to the domain's
            entry.text = identity.uuid
        elif entry.get("name") in _SMBIOS_SERIALS:
            entry.text = identity.name


def _boot_files(root: ET.Element, place: Place) -> None:
    for tag in BOOT_FILES:
        element = root.find(f"os/{tag}")
        if element is None or not (element.text or "").strip():
            continue
        new = place((element.text or "").strip())
        if new is not None:
            element.text = new
        elif tag == "nvram":  # libvirt makes a new one from its template, under the new name
            element.text = None
    for source in root.iterfind("os/nvram/source"):
        new = place(source.get("file", ""))
        if new is None:
            raise errors.InvalidArgument("the NVRAM is not in the VM's directory; move it there")
        source.set("file", new)
    for path in TEXTS:
        for element in root.iterfind(path):
            new = place((element.text or "").strip())
            if new is None:
                raise errors.InvalidArgument(
                    f"{element.text} is not in the VM's directory; move it there"
                )
            element.text = new


def _disks(root: ET.Element, place: Place, seed: str) -> None:
    has_seed = False
    for disk, source in domain.disks(root):
        path = source.get("file", "")
        for tag in ("backingStore", "mirror", "auth"):
            for element in disk.findall(tag):
                disk.remove(element)
        source.attrib.pop("index", None)
        if PurePosixPath(path).name == SEED:
            source.set("file", seed)
            has_seed = True
            continue
        new = place(path)
        if new is not None:
            source.set("file", new)
        elif not domain.is_shared_medium(disk):
            raise errors.InvalidArgument(
                f"disk {path} is not in the VM's directory; import it there"
            )
        serial, wwn = disk.find("serial"), disk.find("wwn")
        if serial is not None:
            serial.text = secrets.token_hex(10)
        if wwn is not None:  # NAA 5, and 60 random bits
            wwn.text = f"5{secrets.randbits(60):015x}"
    if not has_seed:
        _add_seed(root, seed)


_SEED_PLACES = {  # targets from the end, so that those a user would take next stay free
    "virtio": [f"vd{letter}" for letter in "zyxwvutsrqponmlkjihgfedcb"],
    "scsi": [f"sd{letter}" for letter in "zyxwvutsrqponmlkjihgfedcb"],
    "sata": [f"sd{letter}" for letter in "fedcb"],
    "ide": ["hdd", "hdc", "hdb"],
}


def _add_seed(root: ET.Element, path: str) -> None:
    """On the bus of the boot disk: what the guest boots from, it has a driver for.

    (Debian's cloud kernel, for one, has none for AHCI, so a SATA CD-ROM would never be seen.)
    """
    devices = root.find("devices")
    if devices is None:
        raise errors.InvalidArgument("the domain XML has no <devices>")
    target = root.find("devices/disk[@device='disk']/target")
    bus = "" if target is None else target.get("bus", "")
    bus = bus if bus in _SEED_PLACES else "sata" if _has_sata(root) else "ide"
    taken = {t.get("dev") for t in root.iterfind("devices/disk/target")}
    free = [dev for dev in _SEED_PLACES[bus] if dev not in taken]
    if not free:
        raise errors.InvalidArgument(f"no {bus} place is free for the seed image; remove a disk")
    device = "disk" if bus == "virtio" else "cdrom"
    disk = ET.SubElement(devices, "disk", {"type": "file", "device": device})
    ET.SubElement(disk, "driver", {"name": "qemu", "type": "raw"})
    ET.SubElement(disk, "source", {"file": path})
    ET.SubElement(disk, "target", {"dev": free[0], "bus": bus})
    ET.SubElement(disk, "readonly")


def _has_sata(root: ET.Element) -> bool:
    kind = root.find("os/type")
    machine = "" if kind is None else kind.get("machine", "")
    arch = "x86_64" if kind is None else kind.get("arch", "x86_64")
    return "q35" in machine or arch not in ("x86_64", "i686")


def _interfaces(root: ET.Element, taken: Container[str]) -> list[str]:
    made: list[str] = []
    for interface in root.iterfind("devices/interface"):
        mac = interface.find("mac")
        if mac is None:
            mac = ET.SubElement(interface, "mac")
        address = new_mac(taken, made)
        mac.set("address", address)
        made.append(address)
        target = interface.find("target")
        if target is not None:
            target.attrib.pop("dev", None)
        for source in interface.iterfind("source"):
            source.attrib.pop("portid", None)
        for parameters in interface.iterfind("virtualport/parameters"):
            for name in _PORT_IDS:
                if parameters.get(name):
                    parameters.set(name, str(uuid.uuid4()))
        for rules in interface.iterfind("filterref"):
            for parameter in rules.findall("parameter"):
                if parameter.get("name") in _ADDRESSES:  # the filter learns the clone's
                    rules.remove(parameter)
    return made


def _paths(root: ET.Element, old: str, new: str, place: Place) -> None:
    for element, attribute in list(paths(root)):
        element.set(attribute, own_path(element.get(attribute, ""), old, new, place))
    for source in root.iterfind("devices/filesystem/source[@dir]"):
        path = source.get("dir", "")
        source.set("dir", place(path) or path)
    for source in root.iterfind("devices/tpm/backend/source[@path]"):
        source.set("path", own_path(source.get("path", ""), old, new, place))


def _graphics(root: ET.Element, old: str, new: str) -> None:
    for graphics in root.iterfind("devices/graphics"):
        for attribute in ("port", "tlsPort", "websocket"):
            if graphics.get(attribute, "-1") not in ("-1", ""):
                graphics.set(attribute, "-1")
        if graphics.get("type") in ("vnc", "spice", "rdp") and graphics.get("socket") is None:
            graphics.set("autoport", "yes")
        for element in (graphics, *graphics.findall("listen")):
            socket = element.get("socket")
            if socket:
                element.set("socket", own_path(socket, old, new, lambda _: None))


def _runtime(root: ET.Element) -> None:
    for cid in root.iterfind("devices/vsock/cid"):
        cid.attrib.pop("address", None)
        cid.set("auto", "yes")
    for element in root.iterfind("devices/*"):
        if element.get("type") == "pty":
            element.attrib.pop("tty", None)
            for source in element.findall("source"):
                source.attrib.pop("path", None)
        alias = element.find("alias")
        if alias is not None and not alias.get("name", "").startswith("ua-"):
            element.remove(alias)
    for label in root.findall("seclabel"):
        if label.get("type") == "dynamic":
            root.remove(label)


def _lineage(root: ET.Element, name: str, old_uuid: str) -> None:
    metadata = root.find("metadata")
    if metadata is None:
        metadata = ET.SubElement(root, "metadata")
    tag = f"{{{domain.NAMESPACE}}}clone"
    for old in metadata.findall(tag):
        metadata.remove(old)
    ET.SubElement(metadata, tag, {"of": name, "of-uuid": old_uuid})
