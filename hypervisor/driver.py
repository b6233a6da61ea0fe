"""libvirt behind a small interface.  Every call blocks: run it on a thread, never on the loop.

The thread matters twice: libvirt may look at files on our own mount while it answers.
"""

import uuid
import xml.etree.ElementTree as ET
from contextlib import suppress

import libvirt

from engine import errors
from hypervisor import domain
from hypervisor.connection import open_connection, or_none, translated
from hypervisor.pools import Pools

UNDEFINE_FLAGS: int = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class LibvirtDriver:
    """One connection to a libvirt URI, local or remote."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._connection = open_connection(uri)

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

    def check_runs(self, text: str) -> None:
        """Whether this host runs a domain's type; InvalidArgument says what to use instead."""
        root = domain.parse(text.encode())
        kind = root.get("type", "qemu")
        if self._connection.getType() == "Test":
            return
        os_type = root.find("os/type")
        arch, machine = (None, None) if os_type is None else (os_type.get("arch"), None)
        try:
            self._connection.getDomainCapabilities(None, arch, machine, kind)
        except libvirt.libvirtError as error:
            raise errors.InvalidArgument(
                f"{self.uri} cannot run domains of type {kind!r} ({error.get_error_message()}); "
                "use --virt-type qemu"
            ) from None

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

    def _find(self, uuid: str) -> "libvirt.virDomain | None":
        with translated("cannot look for a domain"):
            return or_none(
                lambda: self._connection.lookupByUUIDString(uuid), libvirt.VIR_ERR_NO_DOMAIN
            )

    @staticmethod
    def _undefine(each: "libvirt.virDomain") -> None:
        try:
            each.undefineFlags(UNDEFINE_FLAGS)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (
                libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG,
            ):  # fmt: skip
                raise
            each.undefine()  # a driver that knows no such flags

    def _try_undefine(self, each: "libvirt.virDomain") -> bool:
        try:
            self._undefine(each)
        except libvirt.libvirtError as error:
            return bool(error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN)
        return True
