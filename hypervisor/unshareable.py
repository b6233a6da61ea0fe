"""What belongs to one VM and cannot be made anew for another: such a VM is not cloned.

The answer is an error that says what to remove; a clone that starts and then fights with its base
over a device or a port would be worse.  Source: libvirt, formatdomain.html.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Collection
from typing import NoReturn

from engine import errors
from hypervisor.placing import CHARACTER_DEVICES, Place, renamed_in

_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_INTERFACES = {
    "hostdev": "a host device",
    "vdpa": "a vDPA device",
    "vhostuser": "a vhost-user socket",
    "server": "a TCP port",
}
_FREE_TEXT = {"title", "description", "metadata"}


def check(root: ET.Element) -> None:
    """InvalidArgument for devices, ports and sockets that two VMs cannot have."""
    if root.find("devices/hostdev") is not None:
        _refuse("a host device belongs to one VM", "<hostdev>")
    for device in ("nvram", "lease", "shmem"):
        if root.find(f"devices/{device}[@name]") is not None:
            _refuse(f"<{device}> is shared by name", "it")
    for interface in root.iterfind("devices/interface"):
        _check_interface(interface)
    for backend in root.iterfind("devices/tpm/backend"):
        if backend.get("type") != "emulator":
            _refuse(f"a TPM of type {backend.get('type')!r} belongs to one VM", "<tpm>")
    for device_input in root.iterfind("devices/input"):
        if device_input.get("type") in ("passthrough", "evdev"):
            _refuse("an input device of the host belongs to one VM", "<input>")
    for filesystem in root.iterfind("devices/filesystem"):
        source = filesystem.find("source")
        alone = filesystem.get("type") in ("file", "block") and filesystem.find("readonly") is None
        if alone or (source is not None and source.get("socket")):
            _refuse("a file system that one VM serves or writes is not shared", "<filesystem>")
    for tag in CHARACTER_DEVICES:
        for each in root.iterfind(f"devices/{tag}"):
            _check_character_device(each)


def _refuse(why: str, what: str) -> NoReturn:
    raise errors.InvalidArgument(f"{why}; remove {what} and clone")


def _check_interface(interface: ET.Element) -> None:
    what = _INTERFACES.get(interface.get("type", ""))
    if any(source.get("type") == "unix" for source in interface.iterfind("source")):
        what = _INTERFACES["vhostuser"]
    target = interface.find("target")
    if target is not None and target.get("managed") == "no":
        what = f"the tap device {target.get('dev')}"
    if what is not None:
        _refuse(f"{what} belongs to one VM", "that <interface>")


def _check_character_device(device: ET.Element) -> None:
    if device.get("type") == "dev":
        _refuse(f"a device of the host belongs to one VM ({_path(device)})", f"<{device.tag}>")
    if device.get("type") in ("tcp", "udp"):
        for source in device.iterfind("source[@mode='bind']"):
            port = source.get("service")
            if device.get("type") == "tcp" or port not in (None, "0"):
                _refuse(f"two VMs cannot listen on port {port}", f"<{device.tag}>")


def _path(device: ET.Element) -> str:
    source = device.find("source")
    return "" if source is None else source.get("path", "")


def check_arguments(
    root: ET.Element, name: str, identities: Collection[str], place: Place
) -> None:  # fmt: skip
    """Arguments for QEMU and the kernel are the user's: those that name the base VM, or a file of
    it, cannot be rewritten.
    """
    for_qemu = [element.get("value", "") for element in root.iterfind(f"{_QEMU}commandline/*")]
    known = [each.lower() for each in identities if each]
    for value in (*for_qemu, root.findtext("os/cmdline") or ""):
        named = any(each in value.lower() for each in known)
        named |= value in for_qemu and renamed_in(value, name, "") != value
        paths = [part for part in re.split(r"[=,:\s]", value) if part.startswith("/")]
        if named or "systemd.machine_id=" in value or any(place(path) for path in paths):
            raise errors.InvalidArgument(
                f"an argument names the base VM ({value[:60]!r}); remove it from "
                "<qemu:commandline> or <cmdline> and clone"
            )


def check_paths(root: ET.Element, place: Place) -> None:
    """The last look: no file of the base may be left in the XML, wherever it stands."""
    for top in root:
        if top.tag in _FREE_TEXT:
            continue
        for element in top.iter():
            for value in (element.text or "").strip(), *element.attrib.values():
                if value.startswith("/") and place(value) not in (None, value):
                    raise errors.InvalidArgument(
                        f"<{element.tag}> names a file of the base VM ({value[:80]}) and it is not "
                        "known how to give the clone its own; remove it and clone"
                    )
