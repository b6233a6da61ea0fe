"""How much there is of something, and how much of it one client address may have.

An address that has more than is left gets no more (dynamic thresholds: Choudhury and Hahne,
IEEE/ACM Transactions on Networking 6, 1998).  So one that takes whatever it can has about half, of
n such addresses each has one part of n + 1 in the end, and one part is left for who comes next.
Nobody has to be told how many there are, and nothing is kept from whoever has little.

What can be taken back from its holder needs no such threshold: there the address that has most
gives (connections in server.py, answers in replay.py).
"""

from weakref import WeakValueDictionary


class Quota:
    """What all addresses have; ``count`` may be more than ``most`` by what was not known before."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self._portions: WeakValueDictionary[bytes, Portion] = WeakValueDictionary()

    @property
    def left(self) -> int:
        return self.most - self.count

    def of(self, address: bytes) -> "Portion":
        """What an address has, to be kept by whoever has it: it is forgotten with the last one."""
        found = self._portions.get(address)
        if found is None:
            found = self._portions[address] = Portion(self)
        return found


class Portion:
    """What one address has of a quota."""

    __slots__ = ("__weakref__", "_quota", "count")

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether it may have no more."""
        left = self._quota.most - self._quota.count
        return left <= 0 or self.count > left

    @property
    def room(self) -> int:
        """How much more it may have, taken one by one."""
        left = self._quota.left
        return max(0, min(left, (left - self.count) // 2 + 1))

    def beyond(self, kept: int) -> bool:
        """Whether it may have more of what is there, were ``kept`` of that not there."""
        left = self._quota.left - kept
        return left > 0 and self.count <= left

    def add(self, count: int) -> None:
        """It takes, or gives back what is below zero."""
        self.count += count
        self._quota.count += count
