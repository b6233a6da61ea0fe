"""Domain XML as a tree: parsed safely, asked, never built as a string.

Source: libvirt's "Domain XML format" (formatdomain.html).  The XML may come from a stranger: DTDs,
and with them all entity tricks, are refused, so are documents past a size or a depth.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from xml.parsers import expat

from engine import errors

XML_BYTES_MAX = 1 << 20
XML_DEPTH_MAX = 64
NAMESPACE = "https://ramet.dev/domain/1"
_PREFIXES = {
    "ramet": NAMESPACE,
    "qemu": "http://libvirt.org/schemas/domain/qemu/1.0",
    "libosinfo": "http://libosinfo.org/xmlns/libvirt/domain/1.0",
}
for _prefix, _uri in _PREFIXES.items():
    ET.register_namespace(_prefix, _uri)


def parse(text: bytes) -> ET.Element:
    """The ``<domain>`` element; InvalidArgument for anything else."""
    if len(text) > XML_BYTES_MAX:
        raise errors.InvalidArgument(f"domain XML of {len(text)} bytes; at most {XML_BYTES_MAX}")
    try:
        _refuse_tricks(text)
        root = ET.fromstring(text)  # noqa: S314 - DTDs are refused above
    except (ET.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        raise errors.InvalidArgument(f"this is no domain XML: {error}") from None
    if root.tag != "domain":
        raise errors.InvalidArgument(f"this is no domain XML: its root is <{root.tag[:40]}>")
    return root


def _refuse_tricks(text: bytes) -> None:
    depth = 0

    def doctype(*_: object) -> None:
        raise errors.InvalidArgument("domain XML with a DTD is refused; remove the DOCTYPE")

    def start(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > XML_DEPTH_MAX:
            raise errors.InvalidArgument(f"domain XML deeper than {XML_DEPTH_MAX} elements")

    def end(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.Parse(text, True)


def serialize(root: ET.Element) -> bytes:
    ET.indent(root)
    text = ET.tostring(
        root, encoding="unicode"
    )  # to bytes at once: by pieces it takes twice as long
    return text.encode(errors="xmlcharrefreplace") + b"\n"


def text_of(root: ET.Element, path: str) -> str:
    """The stripped text of a child; empty when it is not there."""
    return (root.findtext(path) or "").strip()


def name_of(root: ET.Element) -> str:
    name = text_of(root, "name")
    if not name:
        raise errors.InvalidArgument("the domain XML has no <name>")
    return name


def disks(root: ET.Element) -> Iterator[tuple[ET.Element, ET.Element]]:
    """Each disk that is a file, with its ``<source>``; InvalidArgument for another kind."""
    for disk in root.iterfind("devices/disk"):
        source = disk.find("source")
        if source is None and disk.get("device") in ("cdrom", "floppy"):
            continue  # an empty drive
        if disk.get("type") != "file" or source is None or not source.get("file"):
            raise errors.InvalidArgument(
                f"a {disk.get('type')!r} disk cannot be cloned; put it on the volume as a file"
            )
        yield disk, source


def is_shared_medium(disk: ET.Element) -> bool:
    """Whether nobody can write it, so that clones may share the host's file."""
    return disk.get("device") == "cdrom" or disk.find("readonly") is not None


def macs(root: ET.Element) -> list[str]:
    found = (mac.get("address", "") for mac in root.iterfind("devices/interface/mac"))
    return [mac.lower() for mac in found if mac]
