"""What is exported, and what a client may do with it: data that the service makes and replaces.

An export is a volume or a snapshot under a path of one name, ``/VOL`` or ``/VOL@SNAP``. Its number
is never used again, so a handle of an export that was taken away is never one of another. Rules
are looked at for every call, not at mount: MOUNT is no barrier (RFC 1813, 5.2.1 has none).
"""

import ipaddress
from dataclasses import dataclass
from enum import IntEnum

from nfsgw.rpc import Address

_CLIENTS_MAX = 1024
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Right(IntEnum):
    """What a client may: read; write too, root being nobody; write, root being root."""

    READ = 1
    WRITE = 2
    ROOT = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """What the clients of a network may."""

    network: Network
    right: Right


@dataclass(frozen=True, slots=True)
class Export:
    """A volume, or snapshot, that clients may mount at ``path``."""

    id: int
    path: str
    volume_id: int
    rules: tuple[Rule, ...]

    @property
    def name(self) -> str:
        """The path without its slash: its name in the pseudo-root of NFSv4."""
        return self.path[1:]

    def right_of(self, client: Address) -> Right | None:
        """What the rule of the smallest network that has the client says; None: nothing."""
        client = getattr(client, "ipv4_mapped", None) or client
        fitting = (rule for rule in self.rules if client in rule.network)
        best = max(fitting, key=lambda rule: rule.network.prefixlen, default=None)
        return None if best is None else best.right


class Exports:
    """The table of exports; ``replace`` puts a new one in its place in one step."""

    def __init__(self) -> None:
        self._by_id: dict[int, Export] = {}
        self._by_path: dict[str, Export] = {}
        self._admitted: dict[Address, bool] = {}
        self.changed_ns = 0  # when they were last replaced; the pseudo-root's change counter

    def replace(self, exports: list[Export], now_ns: int) -> None:
        self._by_id = {export.id: export for export in exports}
        self._by_path = {export.path: export for export in exports}
        self._admitted.clear()
        self.changed_ns = max(now_ns, self.changed_ns + 1)

    def admit(self, client: Address) -> bool:
        """Whether any rule of any export is for this client.  Asked in each call of NFSv4, so what
        was found is kept until the exports change."""
        found = self._admitted.get(client)
        if found is None:
            if len(self._admitted) >= _CLIENTS_MAX:
                self._admitted.clear()
            found = any(each.right_of(client) is not None for each in self._by_id.values())
            self._admitted[client] = found
        return found

    def by_id(self, number: int) -> Export | None:
        return self._by_id.get(number)

    def by_path(self, path: str) -> Export | None:
        return self._by_path.get(path)

    def all(self) -> list[Export]:
        """In the order of their paths."""
        return sorted(self._by_id.values(), key=lambda export: export.path)
