"""Opens and locks of files: who has what, and what stands against what (RFC 8881, 9).

A file is known by volume, era and inode: a forced restore begins another era, and what was open in
the one before is stale from then on, and in nobody's way. Invariants:
- a file that somebody has open is held in the engine, so it lives on when its last name goes;
- an open-owner has at most one Open of a file, whose access and deny are the union of what it
  asked for; a lock-owner one LockState of a file, which belongs to the Open it came by;
- all ranges that a lock-owner has in a file go when its LockState goes.

Locks and shares are between clients of NFSv4: programs on the mount have those of its kernel.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

from engine import Volume
from nfsgw.v4.clients import Client
from nfsgw.v4.ranges import Holder, Range, Ranges
from nfsgw.v4.stateids import Stateid

SHARE_READ, SHARE_WRITE, SHARE_BOTH = 1, 2, 3
USERS_MAX = 16  # of an open-owner, whose rights are remembered


@dataclass(slots=True, eq=False)
class OpenFile:
    """A file that is open."""

    volume: Volume
    era: int
    ino: int
    opens: "dict[Open, None]" = field(default_factory=dict)  # in order; each goes in O(1)
    accesses: list[int] = field(default_factory=lambda: [0] * 3)  # how many have SHARE_READ, _WRITE
    denies: list[int] = field(default_factory=lambda: [0] * 3)
    ranges: Ranges = field(default_factory=Ranges)

    @property
    def key(self) -> Hashable:
        return self.volume.id, self.era, self.ino

    @property
    def of_volume(self) -> tuple[int, int]:
        return self.volume.id, self.era

    @property
    def stale(self) -> bool:
        """Whether a forced restore has replaced it."""
        return self.volume.era != self.era

    def against(self, access: int, deny: int, but: "Open | None" = None) -> "Open | None":
        """An Open that such an open stands against; ``but`` is the owner's own."""
        own = (0, 0) if but is None else (but.access, but.deny)
        if not (_others(self.accesses, deny, own[0]) or _others(self.denies, access, own[1])):
            return None  # which is found out without a look at each
        return next(
            each for each in self.opens
            if each is not but and (each.deny & access or each.access & deny)
        )  # fmt: skip

    def count(self, access: int, deny: int, more: int) -> None:
        """So many more Opens, or fewer, have these."""
        for bit in (SHARE_READ, SHARE_WRITE):
            self.accesses[bit] += more if access & bit else 0
            self.denies[bit] += more if deny & bit else 0


def _others(counts: list[int], wanted: int, own: int) -> bool:
    """Whether any but one's own are counted for one of the bits."""
    return any(wanted & bit and counts[bit] > (own & bit > 0) for bit in (SHARE_READ, SHARE_WRITE))


@dataclass(slots=True, eq=False)
class Open:
    """A file that an open-owner has open.  ``export``: the number of the one that it was opened
    in, last.  ``rights``: which user was found to be allowed which access; an open-owner may speak
    for several, each of whom has what he was granted."""

    client: Client
    owner: bytes
    file: OpenFile
    other: bytes
    export: int
    seqid: int = 0
    access: int = 0
    deny: int = 0
    rights: dict[int, int] = field(default_factory=dict)
    asked: set[tuple[int, int]] = field(default_factory=set)  # access and deny of each OPEN
    locks: "dict[LockState, None]" = field(default_factory=dict)

    @property
    def stateid(self) -> Stateid:
        return Stateid(self.seqid, self.other)

    def widen(self, uid: int, access: int, deny: int) -> None:
        """Another OPEN by the same owner, for a user."""
        if uid not in self.rights and len(self.rights) >= USERS_MAX:
            del self.rights[next(iter(self.rights))]  # whose rights are looked at again each time
        self.rights[uid] = self.rights.get(uid, 0) | access
        self.asked.add((access, deny))
        self._share(self.access | access, self.deny | deny)
        self._change()

    def narrow(self, access: int, deny: int) -> bool:
        """OPEN_DOWNGRADE; False unless some of the OPENs together are just that."""
        left = {each for each in self.asked if not (each[0] & ~access or each[1] & ~deny)}
        accesses = denies = 0
        for each in left:
            accesses |= each[0]
            denies |= each[1]
        if (accesses, denies) != (access, deny):
            return False
        self.asked = left
        self._share(access, deny)
        self.rights = {uid: rights & access for uid, rights in self.rights.items()}
        self._change()
        return True

    def _share(self, access: int, deny: int) -> None:
        self.file.count(self.access, self.deny, -1)
        self.access, self.deny = access, deny
        self.file.count(access, deny, 1)

    def end(self) -> None:
        """It is not one of its file's any more."""
        self._share(0, 0)
        del self.file.opens[self]

    def _change(self) -> None:
        self.seqid = next_seqid(self.seqid)


@dataclass(slots=True, eq=False)
class LockState:
    """The locks of a lock-owner in a file."""

    client: Client
    owner: bytes
    open: Open
    other: bytes
    seqid: int = 0

    @property
    def file(self) -> OpenFile:
        return self.open.file

    @property
    def holder(self) -> Holder:
        """Who it is in the file's ranges."""
        return self.client.id, self.owner

    @property
    def stateid(self) -> Stateid:
        return Stateid(self.seqid, self.other)

    def put(self, new: Range) -> int:
        """Lock; how many more ranges."""
        self.seqid = next_seqid(self.seqid)
        return self.file.ranges.put(self.holder, new)

    def clear(self, start: int, end: int) -> int:
        """Unlock; how many more ranges."""
        self.seqid = next_seqid(self.seqid)
        return self.file.ranges.clear(self.holder, start, end)


def next_seqid(seqid: int) -> int:
    """After the largest comes 1: 0 means "the newest" (RFC 8881, 8.2.2)."""
    return seqid % 0xFFFFFFFF + 1
