"""Where a domain's XML names files, and what they become in another VM's directory."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from hypervisor import domain

Place = Callable[[str], str | None]
"""The path in the new VM for a file of the old one; None when it is none of the VM's own."""

CHARACTER_DEVICES = (
    "serial", "parallel", "console", "channel", "rng/backend", "redirdev", "smartcard",
)  # fmt: skip
BOOT_FILES = ("loader", "nvram", "kernel", "initrd", "dtb")
TEXTS = ("devices/memory/source/path", "devices/pstore/path")
"""Elements whose text is a file that the VM writes."""


def localize(root: ET.Element, place: Place) -> None:
    """Point the VM's own files to where its directory is now; nothing else changes."""
    for path in (*(f"os/{tag}" for tag in BOOT_FILES), *TEXTS):
        for element in root.iterfind(path):
            element.text = place((element.text or "").strip()) or element.text
    for element, attribute in own_files(root):
        path = element.get(attribute, "")
        element.set(attribute, place(path) or path)


def own_files(root: ET.Element) -> Iterator[tuple[ET.Element, str]]:
    """Attributes that may name a file of the VM."""
    yield from ((source, "file") for _, source in domain.disks(root))
    yield from ((source, "file") for source in root.iterfind("os/nvram/source"))
    yield from ((source, "dir") for source in root.iterfind("devices/filesystem/source[@dir]"))
    yield from ((source, "path") for source in root.iterfind("devices/tpm/backend/source[@path]"))
    yield from paths(root)


def paths(root: ET.Element) -> Iterator[tuple[ET.Element, str]]:
    """Files and sockets of character devices: the element, and its attribute with the path."""
    devices = root.find("devices")
    for tag in CHARACTER_DEVICES:
        for device in [] if devices is None else devices.iterfind(tag):
            if device.get("type") not in ("dev", "pty"):
                yield from ((s, "path") for s in device.iterfind("source") if s.get("path"))
            yield from ((s, "file") for s in device.iterfind("log") if s.get("file"))
    yield from ((audio, "path") for audio in root.iterfind("devices/audio[@path]"))


def outputs(root: ET.Element) -> list[str]:
    """Files that the hypervisor writes a VM's output to; a clone starts without them."""
    found = [element.get("file", "") for element in root.iterfind("devices/*/log")]
    for device in root.iterfind("devices/*[@type='file']"):
        if device.tag in CHARACTER_DEVICES:
            found += [element.get("path", "") for element in device.iterfind("source")]
    return [path for path in found if path]


def own_path(path: str, old: str, new: str, place: Place) -> str:
    """In the VM's own directory, or with the VM's name in it, or else with the name added."""
    placed = place(path)
    if placed is not None:
        return placed
    renamed = renamed_in(path, old, new)
    if renamed != path:
        return renamed
    if path.startswith("/dev/"):
        return path
    where = PurePosixPath(path)
    return str(where.with_name(f"{new}-{where.name}")) if where.name else path


def renamed_in(text: str, old: str, new: str) -> str:
    """The text with the old name, as a whole word, replaced."""
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(old)}(?![A-Za-z0-9])", lambda _: new, text)
