"""What a restarted server knows of its clients, and the grace period in which they take back.

Opens and locks live in memory; who had them is recorded in the store under ``nfs4/client/``. After
a restart the recorded clients may reclaim, and nobody may take anything new that they might have,
until all have said RECLAIM_COMPLETE or the grace period is over (RFC 8881, 8.4.2). Invariants:
- a client is recorded, durably, before it can have anything (its RECLAIM_COMPLETE is answered);
- it is recorded with its principal: until it has come back, or the grace period is over, nobody
  else has its name. A record of the first form has none, and is anybody's who has the name;
- whose state was given to others, or may be from now on, has no record any more: he who slept
  through one grace period may not reclaim in the next one (8.4.2.1). Commits are in order, so a
  crash that keeps what others have done since keeps that too.
"""

import contextlib
import hashlib
import struct
from collections.abc import Callable

from engine import Store, errors

BOOT_KEY = "nfs4/boot"
CLIENT_PREFIX = "nfs4/client/"


Principal = int | None  # a user, as he says; None: AUTH_NONE
ANYBODY, _NOBODY = -1, -2  # who has a record of the first form; who has none
_FORM, _HEAD = 1, struct.Struct(">BBI")  # form, whether there is a user, the user; then the owner


def _key(owner: bytes) -> str:
    return CLIENT_PREFIX + hashlib.blake2b(owner, digest_size=16).hexdigest()


def _packed(owner: bytes, principal: Principal) -> bytes:
    return _HEAD.pack(_FORM, principal is not None, principal or 0) + owner


def read_record(key: str, value: bytes) -> tuple[bytes, Principal] | None:
    """The owner and principal of a record; None for what is none.  Its key tells the forms apart:
    it is made of the owner, which is all that the first form has."""
    if key == _key(value):
        return value, ANYBODY
    if len(value) < _HEAD.size or key != _key(value[_HEAD.size :]):
        return None
    form, known, uid = _HEAD.unpack_from(value)
    return (value[_HEAD.size :], uid if known else None) if form == _FORM else None


class Recovery:
    """The records, and whether it is grace.  ``boot`` counts the starts of the server."""

    def __init__(self, store: Store, clock: Callable[[], float], grace_s: float) -> None:
        self._store = store
        self._clock = clock
        self._grace_s = grace_s
        records = store.records
        self.boot = int.from_bytes(records.get(BOOT_KEY) or b"\0", "big") + 1 & 0xFFFFFFFF
        records.put_admitted(BOOT_KEY, self.boot.to_bytes(4, "big"))
        found = (read_record(*each) for each in records.items(CLIENT_PREFIX))
        self._waiting: dict[bytes, Principal] = dict(each for each in found if each is not None)
        self._started = clock()
        self._ends = self._started + grace_s if self._waiting else None

    @property
    def in_grace(self) -> bool:
        return self._ends is not None

    def may_reclaim(self, owner: bytes, principal: Principal) -> bool:
        """Whether a client had something when the server went down, and has not taken it back."""
        return self.in_grace and self._waiting.get(owner, _NOBODY) in (principal, ANYBODY)

    def is_anothers(self, owner: bytes, principal: Principal) -> bool:
        """Whether a client is expected back that has this name, and is somebody else's."""
        known = self._waiting.get(owner, ANYBODY)
        return self.in_grace and known not in (principal, ANYBODY)

    def reclaimed(self) -> None:
        """Somebody is at it: he gets half a period more, all in all twice a period."""
        if self._ends is not None:
            more = max(self._ends, self._clock() + self._grace_s / 2)
            self._ends = min(more, self._started + 2 * self._grace_s)

    def record(self, owner: bytes, principal: Principal) -> None:
        """RECLAIM_COMPLETE: the client has taken back what it wants.  Must be stored."""
        self._store.records.put_admitted(_key(owner), _packed(owner, principal))
        self._waiting.pop(owner, None)
        if not self._waiting:
            self._ends = None

    def forget(self, owner: bytes) -> None:
        """The client has nothing any more.  Must be stored before anybody else gets it."""
        with contextlib.suppress(errors.StoreFailed):  # then nothing can be stored any more
            self._store.records.delete(_key(owner))
        self._waiting.pop(owner, None)
        if not self._waiting:
            self._ends = None

    def end_if_over(self) -> bool:
        """End the grace period if its time has come: those who did not come lose their records.

        Whether it has ended now; then that must be stored, too.
        """
        if self._ends is None or self._clock() < self._ends:
            return False
        for owner in list(self._waiting):
            self.forget(owner)
        self._ends = None
        return True
