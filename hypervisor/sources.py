"""Where a domain's disks lead: a path, a LUN, or in words why neither.

The XML is any domain's, also one that Ramet has not made, running or not.  A running one has its
backing chain in the XML (``backingStore``); of the others the image itself is asked (``backing``).

Sources: libvirt's "Domain XML format" (formatdomain.html), "Hard drives, floppy disks, CDROMs";
QEMU docs/interop/qcow2.txt; udev's names of iSCSI disks (60-persistent-storage.rules).  MISSION.md
A2.
"""

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import libvirt

from engine import errors
from hypervisor import domain
from hypervisor.connection import connected, translated

CHAIN_MAX = 64
HEADER_BYTES = 1 << 16  # of a qcow2 image: its header and extensions lie in its first cluster
BACKING_FORMAT, DATA_FILE, END = 0xE2792ACA, 0x44415441, 0
NAME_BYTES_MAX = 1023
_BY_PATH = re.compile(r"/dev/disk/by-path/ip-.*-iscsi-(?P<iqn>.+)-lun-(?P<lun>\d+)")
_UNIT = re.compile(r"unit:\d+:\d+:(?P<lun>\d+)")


class Exported(NamedTuple):
    """A file of an NFS server: an address or name, and an absolute path there."""

    server: str
    path: str


class Place(NamedTuple):
    """Where an image is: ``path`` on the host, ``lun``, or ``nfs``; none: ``note`` says what it is.

    ``identity``: (st_dev, st_ino) of the path, where the host is this machine.
    """

    source: str
    via: str
    path: str | None = None
    lun: tuple[str, int] | None = None
    note: str | None = None
    identity: tuple[int, int] | None = None
    nfs: Exported | None = None


class Image(NamedTuple):
    """A disk's image, or one that it is based on (``level`` 1 and up)."""

    target: str
    device: str
    level: int
    form: str
    place: Place
    chain_known: bool  # the XML tells what the image is based on, or that it is on nothing


class Domain(NamedTuple):
    """What libvirt says of a domain."""

    name: str
    uuid: str
    state: str
    images: list[Image]


Lookup = Callable[[str, str], Place]


def ask(uri: str, name: str | None, uuid: str | None = None) -> Domain:
    """A domain by name or UUID, as it is now, and its images.  Blocks.  NotFound, RametError."""
    with connected(uri) as connection:
        with translated(f"no domain {name or uuid!r} at {uri}"):
            found = (
                connection.lookupByUUIDString(uuid) if name is None
                else connection.lookupByName(name)
            )  # fmt: skip
        with translated(f"cannot ask {uri} for domain {name or uuid!r}"):
            root = domain.parse(found.XMLDesc().encode())
            state = "running" if found.isActive() else "shut off"
            images = list(images_of(root, lambda *words: _volume(connection, *words)))
            return Domain(found.name(), found.UUIDString(), state, identified(uri, images))


def everyone(uri: str) -> list[Domain]:
    """All domains of a host.  Blocks."""
    with connected(uri) as connection, translated(f"cannot list the domains at {uri}"):
        found = []
        for each in connection.listAllDomains():
            # undefined since the list was made, or XML that is past all limits
            with suppress(libvirt.libvirtError, errors.RametError):
                root = domain.parse(each.XMLDesc().encode())
                images = list(images_of(root, lambda *words: _volume(connection, *words)))
                state = "running" if each.isActive() else "shut off"
                found.append(Domain(each.name(), each.UUIDString(), state,
                                    identified(uri, images)))  # fmt: skip
        return found


def is_local(uri: str) -> bool:
    """Whether the hypervisor's files are this machine's."""
    return not urlsplit(uri).netloc


def identified(uri: str, images: list[Image]) -> list[Image]:
    """With the identity of each path, if they are paths of this machine.  Blocks."""
    if not is_local(uri):
        return images
    return [each._replace(place=identify(each.place)) for each in images]


def identify(place: Place) -> Place:
    """With the file's identity; as it is when nothing is there."""
    if place.path is None:
        return place
    try:
        found = os.stat(place.path)
    except (OSError, ValueError):
        return place
    return place._replace(identity=(found.st_dev, found.st_ino))


def images_of(root: ET.Element, pools: Lookup) -> Iterator[Image]:
    """The images of all disks, each followed by what the XML says it is based on."""
    for disk in root.iterfind("devices/disk"):
        target = disk.find("target")
        name = "" if target is None else target.get("dev", "")
        device = disk.get("device", "disk")
        driver = disk.find("driver")
        form = "raw" if driver is None else driver.get("type", "raw")
        yield Image(
            name, device, 0, form, _place(disk, pools), disk.find("backingStore") is not None
        )
        below, level = disk.find("backingStore"), 1
        while below is not None and len(below):
            kind = below.find("format")
            form = "raw" if kind is None else kind.get("type", "raw")
            deeper = below.find("backingStore")
            yield Image(name, device, level, form, _place(below, pools), deeper is not None)
            below, level = deeper, level + 1


def _place(disk: ET.Element, pools: Lookup) -> Place:
    kind, source = disk.get("type", ""), disk.find("source")
    if source is None or not (source.attrib or len(source)):
        return Place("", "none", note="an empty drive")
    if kind == "file":
        path = source.get("file", "")
        return Place(path, "file", path)
    if kind == "block":
        return device(source.get("dev", ""))
    if kind == "volume":
        return pools(source.get("pool", ""), source.get("volume", ""))
    if kind == "network":
        return _network(source)
    return Place(source.get("dir") or source.get("type") or kind, kind,
                 note=f"a disk of type {kind!r}, not in the store")  # fmt: skip


def device(path: str) -> Place:
    """A block device of the host: a LUN when udev's name says so."""
    found = _BY_PATH.fullmatch(path)
    if found is None:
        return Place(path, "block", note="a device of the host, not in the store")
    return Place(path, "block", lun=(found["iqn"], int(found["lun"])))


def _network(source: ET.Element) -> Place:
    protocol, name = source.get("protocol", ""), source.get("name", "")
    host = source.find("host")
    address = "" if host is None else host.get("name") or host.get("socket") or ""
    text = f"{protocol}://{address}/{name.lstrip('/')}"
    if protocol == "iscsi":
        iqn, _, number = name.rpartition("/") if "/" in name else (name, "", "0")
        if number.isascii() and number.isdecimal():
            return Place(text, "iscsi", lun=(iqn, int(number)))
        return Place(text, "iscsi", note=f"{name!r} names no LUN")
    if protocol == "nfs":
        return Place(text, "nfs", nfs=Exported(address, "/" + name.lstrip("/")))
    return Place(text, protocol, note=f"a {protocol} disk, not in the store")


def _volume(connection: "libvirt.virConnect", pool: str, volume: str) -> Place:
    """A volume of a storage pool: its path, or its LUN."""
    text = f"{pool}/{volume}"
    try:
        found = connection.storagePoolLookupByName(pool)
        root = ET.fromstring(found.XMLDesc())  # noqa: S314 - libvirt's own
        kind = root.get("type", "")
        iqn = root.find("source/device")
        unit = _UNIT.fullmatch(volume)
        if kind == "iscsi-direct" and iqn is not None and unit is not None:
            return Place(text, f"pool {pool}", lun=(iqn.get("path", ""), int(unit["lun"])))
        path = found.storageVolLookupByName(volume).path()
    except libvirt.libvirtError as error:
        reason = (error.get_error_message() or "").replace("\n", " ")
        return Place(text, f"pool {pool}", note=f"libvirt cannot say where it is: {reason}")
    if kind == "netfs":
        server, directory = root.find("source/host"), root.find("source/dir")
        if server is not None and directory is not None:
            at = Exported(server.get("name", ""), f"{directory.get('path', '')}/{volume}")
            return Place(text, f"pool {pool}", nfs=at)
    if kind in ("dir", "fs", "netfs"):
        return Place(text, f"pool {pool}", path)
    place = device(path)
    return place._replace(source=text, via=f"pool {pool}")


class Backing(NamedTuple):
    """What a qcow2 image is based on, and the format it says that has."""

    name: str
    form: str
    data_file: str | None = None


def backing(head: bytes) -> Backing | None:
    """What the header of a qcow2 image names; None: nothing, or this is no qcow2 image.

    The bytes are a guest's or a stranger's: what is out of bounds is nothing.
    """
    if head[:4] != b"QFI\xfb" or len(head) < 72:
        return None
    at, size = int.from_bytes(head[8:16], "big"), int.from_bytes(head[16:20], "big")
    name = ""
    if 0 < at < len(head) and 0 < size <= NAME_BYTES_MAX:
        name = head[at : at + size].decode(errors="surrogateescape")
    form, data_file = "raw", None
    version = int.from_bytes(head[4:8], "big")
    where = int.from_bytes(head[100:104], "big") if version >= 3 else 72
    while where >= 72 and where + 8 <= len(head):
        kind, length = (int.from_bytes(head[where + n : where + n + 4], "big") for n in (0, 4))
        if kind == END:
            break
        text = head[where + 8 : where + 8 + length].decode(errors="replace")
        if kind == BACKING_FORMAT:
            form = text
        elif kind == DATA_FILE:
            data_file = text
        where += 8 + (length + 7) // 8 * 8
    return Backing(name, form, data_file) if name or data_file else None


def based_on(image: Place, name: str) -> Place:
    """Where the backing file ``name`` of an image is."""
    if name.startswith("nfs://"):
        with suppress(ValueError):
            url = urlsplit(name)
            return Place(name, "backing", nfs=Exported(url.hostname or "", url.path))
    if name.startswith("json:") or re.match(r"[a-z][a-z0-9+.-]*:", name):
        return Place(name, "backing", note="not a file, not in the store")
    if image.nfs is not None and not name.startswith("/"):
        return Place(name, "backing", nfs=Exported(image.nfs.server, _beside(image.nfs.path, name)))
    return Place(name, "backing", _beside(image.path or "", name))


def _beside(path: str, name: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(path), name))
