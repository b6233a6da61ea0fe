"""What Ramet asks of a hypervisor: one small interface, whatever is behind it.

Every call blocks and belongs on a thread.  Errors are Ramet's own; `driver.connect` finds the
implementation for a URI.
"""

import uuid as uuids
from collections.abc import Collection
from typing import Literal, Protocol

from hypervisor.capabilities import Capabilities
from hypervisor.pools import Pools

Agent = Literal["connected", "disconnected", "none"]


class Hypervisor(Protocol):
    """A connection.  VMs are known by UUID."""

    uri: str

    def close(self) -> None: ...

    def capabilities(self) -> Capabilities: ...

    def check_runs(self, text: str) -> None:
        """InvalidArgument, with what to do, when this host cannot run such a domain."""

    def names_and_macs(self) -> tuple[set[str], set[str]]:
        """What is taken there."""

    def known(self, uuids: Collection[str]) -> set[str]:
        """Which of these it has."""

    def check_off(self, uuids: Collection[str]) -> None:
        """Busy when one of these runs."""

    def xml(self, name: str) -> str:
        """The XML of a domain that is to be taken over, without its secrets."""

    def xml_to_change(self, uuid: str) -> str:
        """The XML of a domain that is to be defined again, so with its secrets; NotFound."""

    def state(self, uuid: str) -> str:
        """``running``, ``shut off``, or ``not registered``."""

    def define_all(self, texts: list[str]) -> None:
        """Register VMs: all or none; PartlyDone when the hypervisor is lost on the way."""

    def replace(self, uuid: str, text: str) -> None:
        """A domain becomes another one; when that fails it is what it was."""

    def undefine_all(self, uuids: list[str], *, stop: bool = False) -> None:
        """Forget VMs and all that is kept of them; gone already is as good."""

    def start(self, uuid: str) -> None:
        """Power on; a VM that runs is as good."""

    def agent(self, uuid: str) -> Agent:
        """Whether the guest agent of a running VM answers."""

    def freeze(self, uuid: str, limit_s: int) -> int:
        """Flush and freeze the guest's file systems; how many."""

    def thaw(self, uuid: str, limit_s: int) -> int:
        """How many were frozen until now."""

    def pools(self, store: uuids.UUID) -> Pools:
        """Its storage pools, as a store sees them."""
