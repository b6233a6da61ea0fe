"""libvirt behind a small interface.  Every call blocks: run it on a thread, never on the loop.

The thread matters twice: libvirt may look at files on our own mount while it answers.
"""

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TypeVar

import libvirt

from engine import errors
from hypervisor import capabilities, domain
from hypervisor.capabilities import Capabilities, DomainCapabilities
from hypervisor.connection import open_connection, or_none, translated
from hypervisor.interface import Agent, Hypervisor
from hypervisor.pools import Pools

UNDEFINE_FLAGS: int = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_TPM
)
REPLACE_FLAGS: int = (
    UNDEFINE_FLAGS & ~libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
)
_UNKNOWN = (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG)
"""What a driver says to a call, or a flag, that it does not know."""
T = TypeVar("T")
KNOWN_ONE_BY_ONE = 16
AGENT = "org.qemu.guest_agent.0"


class LibvirtDriver:
    """One connection to a libvirt URI, local or remote: what all of its drivers have."""

    def __init__(self, uri: str, connection: "libvirt.virConnect | None" = None) -> None:
        self.uri = uri
        self._connection = open_connection(uri) if connection is None else connection

    def close(self) -> None:
        with suppress(libvirt.libvirtError):
            self._connection.close()

    def pools(self, store: uuid.UUID) -> Pools:
        """The host's storage pools, as a store sees them."""
        return Pools(self._connection, store)

    def names_and_macs(self) -> tuple[set[str], set[str]]:
        """What is taken on this host."""
        names: set[str] = set()
        macs: set[str] = set()
        with translated("cannot list the domains"):
            for each in self._connection.listAllDomains():
                with suppress(libvirt.libvirtError):  # undefined since the list was made
                    names.add(each.name())
                    macs |= set(domain.macs(ET.fromstring(each.XMLDesc())))  # noqa: S314
        return names, macs

    def known(self, uuids: Collection[str]) -> set[str]:
        """Which of these it has; by one list of all when they are many."""
        if len(uuids) <= KNOWN_ONE_BY_ONE:
            return {each for each in uuids if self._find(each) is not None}
        with translated("cannot list the domains"):
            return {each.UUIDString() for each in self._connection.listAllDomains()} & set(uuids)

    def check_off(self, uuids: Collection[str]) -> None:
        """Busy when one of these runs; one that it does not have is as good as off."""
        flag = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        with translated("cannot list the domains that run"):
            for each in self._connection.listAllDomains(flag):
                if each.UUIDString() in uuids:
                    raise errors.Busy(
                        f"{each.name()} is running; shut it down first, or use --force"
                    )

    def capabilities(self) -> Capabilities:
        """What it says of itself."""
        connection = self._connection
        with translated(f"cannot ask {self.uri} what it can do"):
            pools = _unless_unsupported(connection.getStoragePoolCapabilities)
            return capabilities.read_host(connection.getType(), connection.getCapabilities(), pools)

    def domain_capabilities(
        self, kind: str, arch: str | None, machine: str | None
    ) -> DomainCapabilities:  # fmt: skip
        """What domains of a type can have; nothing is known where the driver does not tell."""
        with translated(f"cannot ask {self.uri} what its domains can have"):
            text = _unless_unsupported(
                lambda: self._connection.getDomainCapabilities(None, arch, machine, kind)
            )
        return DomainCapabilities() if text is None else capabilities.read_domain(text)

    def check_runs(self, text: str) -> None:
        """Whether this host runs such a domain; InvalidArgument says what to use instead."""
        root = domain.parse(text.encode())
        kind = root.get("type", "qemu")
        os_type = root.find("os/type")
        arch = None if os_type is None else os_type.get("arch")
        offered = self.capabilities().domain_types
        types = offered.get(arch, frozenset()) if arch else frozenset().union(*offered.values())
        if offered and kind not in types:
            others = " or ".join(sorted(types)) or "another host"
            raise errors.InvalidArgument(
                f"{self.uri} cannot run domains of type {kind!r} ({arch or 'any architecture'}); "
                f"use --virt-type {others}"
            )
        machine = None if os_type is None else os_type.get("machine")
        missing = self.domain_capabilities(kind, arch, machine).missing(root)
        if missing:
            raise errors.InvalidArgument(
                f"{self.uri} does not have {' and '.join(missing)}, which the VM needs"
            )

    def define_all(self, texts: list[str]) -> None:
        """Define domains: all, or none; PartlyDone when libvirt is lost on the way."""
        done: list[libvirt.virDomain] = []
        for text in texts:
            try:
                with translated("libvirt refused the domain"):
                    done.append(self._connection.defineXML(text))
            except errors.RametError as error:
                left = [each.name() for each in done if not self._try_undefine(each)]
                if left or not self._answers():  # then nobody knows what became of the last one
                    raise errors.PartlyDone(
                        f"{error}; {self.uri} may have kept some of the domains; "
                        "remove their VMs (`ramet vm rm`) when it answers again"
                    ) from None
                raise

    def _answers(self) -> bool:
        try:
            return bool(self._connection.isAlive() == 1)
        except libvirt.libvirtError:
            return False

    def undefine_all(self, uuids: list[str], *, stop: bool = False) -> None:
        """Undefine domains with all that libvirt keeps of them; gone already is as good.

        Busy when one runs and ``stop`` is not set; then none is touched.
        """
        found = [each for each in map(self._find, uuids) if each is not None]
        running = [each for each in found if each.isActive()]
        if running and not stop:
            raise errors.Busy(f"{running[0].name()} is running; shut it down first, or use --force")
        for each in found:
            with translated(f"cannot undefine {each.name()}"):
                if each.isActive():
                    each.destroy()
                self._undefine(each)

    def state(self, uuid: str) -> str:
        """``running``, ``shut off``, or ``not registered``."""
        found = self._find(uuid)
        if found is None:
            return "not registered"
        with translated("cannot ask for the state"):
            return "running" if found.isActive() else "shut off"

    def xml(self, name: str) -> str:
        """The inactive XML of a domain of this host, secrets left out."""
        with translated(f"no domain {name!r} at {self.uri}"):
            found = self._connection.lookupByName(name)
            return str(found.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def xml_to_change(self, uuid: str) -> str:
        """The inactive XML of a domain that is to be defined again, so with its secrets."""
        found = self._existing(uuid)
        with translated(f"cannot read the XML of {found.name()}"):
            flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
            return str(found.XMLDesc(flags))

    def replace(self, uuid: str, text: str) -> None:
        """A domain that is off becomes another one, with its NVRAM file where it is.

        When the new one is refused the old one is defined again; PartlyDone when that fails too.
        """
        old = self.xml_to_change(uuid)
        found = self._existing(uuid)
        if found.isActive():
            raise errors.Busy(f"{found.name()} is running; shut it down first")
        with translated(f"cannot undefine {found.name()}"):
            self._undefine(found, REPLACE_FLAGS)
        try:
            with translated("libvirt refused the domain"):
                self._connection.defineXML(text)
        except errors.RametError as error:
            try:
                with translated("the old domain cannot be defined again"):
                    self._connection.defineXML(old)
            except errors.RametError as again:
                raise errors.PartlyDone(f"{error}; {again}; `ramet vm register` it") from None
            raise

    def start(self, uuid: str) -> None:
        """Power on; a VM that runs is as good."""
        found = self._existing(uuid)
        with translated(f"cannot start {found.name()}"):
            if not found.isActive():
                found.create()

    def agent(self, uuid: str) -> Agent:
        """Whether the guest agent of a running domain answers; no agent is known here."""
        self._existing(uuid)
        return "none"

    def freeze(self, uuid: str, limit_s: int) -> int:
        """Flush and freeze the guest's file systems; how many.  Bounded by ``limit_s`` seconds."""
        found = self._existing(uuid)
        with translated(f"the guest agent of {found.name()} does not freeze its file systems"):
            _unless_unsupported(lambda: found.agentSetResponseTimeout(limit_s, 0))
            return int(found.fsFreeze(None, 0))

    def thaw(self, uuid: str, limit_s: int) -> int:
        """How many file systems were frozen until now."""
        found = self._existing(uuid)
        with translated(f"the guest agent of {found.name()} does not thaw its file systems"):
            _unless_unsupported(lambda: found.agentSetResponseTimeout(limit_s, 0))
            return int(found.fsThaw(None, 0))

    def _find(self, uuid: str) -> "libvirt.virDomain | None":
        with translated("cannot look for a domain"):
            return or_none(
                lambda: self._connection.lookupByUUIDString(uuid), libvirt.VIR_ERR_NO_DOMAIN
            )

    def _existing(self, uuid: str) -> "libvirt.virDomain":
        found = self._find(uuid)
        if found is None:
            raise errors.NotFound(f"{self.uri} has no domain {uuid}; `ramet vm register` it")
        return found

    @staticmethod
    def _undefine(each: "libvirt.virDomain", flags: int = UNDEFINE_FLAGS) -> None:
        older = flags & ~libvirt.VIR_DOMAIN_UNDEFINE_TPM  # libvirt before 8.9
        for known in (flags, older, None):
            try:
                each.undefine() if known is None else each.undefineFlags(known)
            except libvirt.libvirtError as error:
                if known is None or error.get_error_code() not in _UNKNOWN:
                    raise
            else:
                return

    def _try_undefine(self, each: "libvirt.virDomain") -> bool:
        try:
            self._undefine(each)
        except libvirt.libvirtError as error:
            return bool(error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN)
        return True


class QemuDriver(LibvirtDriver):
    """QEMU and KVM, local or remote."""

    def agent(self, uuid: str) -> Agent:
        """Whether the guest agent of a running domain answers."""
        found = self._existing(uuid)
        with translated(f"cannot look at {found.name()}"):
            root = ET.fromstring(found.XMLDesc())  # noqa: S314 - libvirt's own
        target = root.find(f"devices/channel/target[@name='{AGENT}']")
        if target is None:
            return "none"
        return "connected" if target.get("state") == "connected" else "disconnected"


class MockDriver(LibvirtDriver):
    """libvirt's own mock hypervisor (``test:///``): domains without guests.

    There is no agent channel to look at; it answers freeze and thaw by itself.
    """

    def agent(self, uuid: str) -> Agent:
        return "connected" if self._existing(uuid).isActive() else "none"


_DRIVERS: dict[str, type[LibvirtDriver]] = {"QEMU": QemuDriver, "TEST": MockDriver}


def connect(uri: str) -> Hypervisor:
    """The driver for what answers at ``uri``; other drivers of libvirt's get the common part."""
    connection = open_connection(uri)
    with translated(f"cannot ask {uri} what it is"):
        kind = _DRIVERS.get(connection.getType(), LibvirtDriver)
    return kind(uri, connection)


def _unless_unsupported(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except libvirt.libvirtError as error:
        if error.get_error_code() in _UNKNOWN:
            return None
        raise
