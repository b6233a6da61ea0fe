"""A clone's size: memory, virtual CPUs, and which disk is its boot disk.

Source: libvirt, formatdomain.html: "Memory Allocation", "CPU Allocation", "CPU model and topology".
A NUMA layout divides both and only its owner knows how it should grow, so such a VM is refused.
"""

import xml.etree.ElementTree as ET

from engine import errors
from hypervisor import domain

KIB = 1024
MEMORY_BYTES_MIN, MEMORY_BYTES_MAX = 1 << 20, 1 << 50
VCPUS_MAX = 4096
SECTOR_BYTES = 512
_UNITS = {
    "b": 1, "bytes": 1, "KB": 10**3, "k": 1 << 10, "KiB": 1 << 10, "MB": 10**6, "M": 1 << 20,
    "MiB": 1 << 20, "GB": 10**9, "G": 1 << 30, "GiB": 1 << 30, "TB": 10**12, "T": 1 << 40,
    "TiB": 1 << 40,
}  # fmt: skip


def check(memory_bytes: int | None, vcpus: int | None, disk_bytes: int | None) -> None:
    """InvalidArgument for a size that no VM can have."""
    if memory_bytes is not None and not (
        MEMORY_BYTES_MIN <= memory_bytes <= MEMORY_BYTES_MAX and memory_bytes % KIB == 0
    ):
        raise errors.InvalidArgument(
            f"memory of {memory_bytes} bytes; give whole KiB, at least 1 MiB, as in 2GiB"
        )
    if vcpus is not None and not 1 <= vcpus <= VCPUS_MAX:
        raise errors.InvalidArgument(f"{vcpus} virtual CPUs; give 1 to {VCPUS_MAX}")
    if disk_bytes is not None and (disk_bytes < SECTOR_BYTES or disk_bytes % SECTOR_BYTES):
        raise errors.InvalidArgument(
            f"a disk of {disk_bytes} bytes; give whole sectors of 512 bytes, as in 20GiB"
        )


def resize(root: ET.Element, memory_bytes: int | None, vcpus: int | None) -> None:
    """Set memory and virtual CPUs, now and at most; InvalidArgument when the XML cannot say it."""
    if memory_bytes is None and vcpus is None:
        return
    if root.find("cpu/numa") is not None:
        raise errors.InvalidArgument(
            "the VM has a NUMA layout; change it in its domain XML instead of --memory or --vcpus"
        )
    if memory_bytes is not None:
        _memory(root, memory_bytes)
    if vcpus is not None:
        _vcpus(root, vcpus)


def _memory(root: ET.Element, memory_bytes: int) -> None:
    limit = root.find("maxMemory")
    if limit is not None and memory_bytes > _bytes(limit):
        raise errors.InvalidArgument(
            f"memory of {memory_bytes} bytes is more than the VM's <maxMemory>; change the XML"
        )
    for tag in ("memory", "currentMemory"):
        element = root.find(tag)
        if element is None and tag == "memory":
            element = ET.Element(tag)
            root.insert(2, element)
        if element is not None:
            element.set("unit", "KiB")
            element.text = str(memory_bytes // KIB)


def _bytes(element: ET.Element) -> int:
    unit = _UNITS.get(element.get("unit", "KiB"))
    text = (element.text or "").strip()
    if unit is None or not text.isdecimal():
        raise errors.InvalidArgument(f"<{element.tag}> of the domain XML is no size; correct it")
    return int(text) * unit


def _vcpus(root: ET.Element, vcpus: int) -> None:
    element = root.find("vcpu")
    if element is None:
        element = ET.Element("vcpu")
        root.insert(2, element)
    element.attrib.pop("current", None)
    element.text = str(vcpus)
    for each in root.findall("vcpus"):  # one by one, as they were before
        root.remove(each)
    _topology(root, vcpus)
    for tune in root.iterfind("cputune"):
        for tag, attribute in (("vcpupin", "vcpu"), ("vcpusched", "vcpus")):
            for pin in tune.findall(tag):
                if not pin.get(attribute, "").isdecimal() or int(pin.get(attribute, "")) >= vcpus:
                    tune.remove(pin)


def _topology(root: ET.Element, vcpus: int) -> None:
    """More or fewer sockets of the same kind: libvirt wants their product to be ``vcpus``."""
    topology = root.find("cpu/topology")
    if topology is None:
        return
    in_socket = 1
    for name in ("dies", "clusters", "cores", "threads"):
        count = topology.get(name, "1")
        in_socket *= int(count) if count.isdecimal() and int(count) else 1
    if vcpus % in_socket:
        raise errors.InvalidArgument(
            f"{vcpus} virtual CPUs do not fill sockets of {in_socket} (the VM's CPU topology); "
            f"give a multiple of {in_socket}"
        )
    topology.set("sockets", str(vcpus // in_socket))


def boot_disk(root: ET.Element) -> tuple[ET.Element, ET.Element]:
    """The disk that the VM boots from, lowest boot order or first, and its ``<source>``."""
    found = [
        (disk, source)
        for disk, source in domain.disks(root)
        if disk.get("device", "disk") == "disk" and disk.find("readonly") is None
    ]
    if not found:
        raise errors.InvalidArgument("the VM has no disk that could grow")
    return min(found, key=lambda pair: _boot_order(pair[0]))


def _boot_order(disk: ET.Element) -> int:
    boot = disk.find("boot")
    order = "" if boot is None else boot.get("order", "")
    return int(order) if order.isdecimal() else 1 << 30
