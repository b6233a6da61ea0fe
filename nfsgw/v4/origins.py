"""Where clients come from: what all those of one address have together (quotas.py).

A client is its address's from the EXCHANGE_ID on that has made it, from wherever it calls later.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from nfsgw.quotas import Quota
from nfsgw.v4.limits import Limits

if TYPE_CHECKING:
    from nfsgw.v4.clients import Client


class Quotas:
    """What there is for all."""

    def __init__(self, limits: Limits) -> None:
        self.unconfirmed, self.clients = Quota(limits.clients), Quota(limits.clients)
        self.slots, self.opens, self.locks = map(Quota, (limits.slots, limits.opens, limits.locks))
        self._origins: WeakValueDictionary[bytes, Origin] = WeakValueDictionary()

    def origin(self, address: bytes) -> "Origin":
        """An address's, to be kept by each of its clients."""
        found = self._origins.get(address)
        if found is None:
            found = self._origins[address] = Origin(self, address)
        return found


class Origin:
    """What the clients of an address have.  ``waiting``: its unconfirmed ones, the oldest first."""

    __slots__ = ("__weakref__", "clients", "locks", "opens", "slots", "unconfirmed", "waiting")

    def __init__(self, quotas: Quotas, address: bytes) -> None:
        self.unconfirmed = quotas.unconfirmed.of(address)
        self.clients = quotas.clients.of(address)
        self.slots = quotas.slots.of(address)
        self.opens = quotas.opens.of(address)
        self.locks = quotas.locks.of(address)
        self.waiting: OrderedDict[bytes, Client] = OrderedDict()  # by their owners
