"""What a hypervisor can do, as it says itself: read from libvirt's capability documents.

Source: libvirt, formatcaps.html, formatdomaincaps.html, formatstoragecaps.html.  What a driver has
no document for is unknown, and unknown refuses nothing: the hypervisor will say so itself.
"""

import xml.etree.ElementTree as ET
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """``domain_types``: by architecture.  ``pool_types`` None: the driver does not tell.

    ``customizing``: the ways in which a VM can be customized (MISSION.md, G1).
    """

    hypervisor: str
    domain_types: dict[str, frozenset[str]]
    pool_types: frozenset[str] | None = None
    customizing: tuple[str, ...] = ("file", "api")

    @property
    def iscsi(self) -> bool:
        """Whether LUNs can be shown to guests without the host's SCSI stack."""
        return "iscsi-direct" in (self.pool_types or ())


@dataclass(frozen=True, slots=True)
class DomainCapabilities:
    """For one domain type, architecture and machine.  None: the driver does not tell."""

    efi: bool | None = None
    secure_boot: bool | None = None
    tpm_emulator: bool | None = None

    def missing(self, root: ET.Element) -> list[str]:
        """What the domain's XML needs and the hypervisor says it does not have."""
        found = []
        os_, loader = root.find("os"), root.find("os/loader")
        if self.efi is False and os_ is not None and os_.get("firmware") == "efi":
            found.append("UEFI firmware (install ovmf)")
        if self.secure_boot is False and loader is not None and loader.get("secure") == "yes":
            found.append("secure boot")
        emulator = root.find("devices/tpm/backend[@type='emulator']")
        if self.tpm_emulator is False and emulator is not None:
            found.append("an emulated TPM (install swtpm)")
        return found


def read_host(hypervisor: str, text: str, pools: str | None) -> Capabilities:
    """From virConnectGetCapabilities and, where there is one, GetStoragePoolCapabilities."""
    types: dict[str, frozenset[str]] = {}
    for arch in ET.fromstring(text).iterfind("guest/arch"):  # noqa: S314 - libvirt's own
        name = arch.get("name", "")
        here = frozenset(each.get("type", "") for each in arch.iterfind("domain"))
        types[name] = types.get(name, frozenset()) | here
    if pools is None:
        return Capabilities(hypervisor, types)
    offered = ET.fromstring(pools).iterfind("pool[@supported='yes']")  # noqa: S314
    return Capabilities(hypervisor, types, frozenset(each.get("type", "") for each in offered))


def read_domain(text: str) -> DomainCapabilities:
    """From virConnectGetDomainCapabilities."""
    root = ET.fromstring(text)  # noqa: S314 - libvirt's own
    return DomainCapabilities(
        efi=_offers(root, "os/enum[@name='firmware']", "efi"),
        secure_boot=_offers(root, "os/loader/enum[@name='secure']", "yes"),
        tpm_emulator=_offers(root, "devices/tpm/enum[@name='backendModel']", "emulator"),
    )


def _offers(root: ET.Element, path: str, value: str) -> bool | None:
    enum = root.find(path)
    if enum is None:
        return None
    return value in [(each.text or "").strip() for each in enum.iterfind("value")]
