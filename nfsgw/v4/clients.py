"""Clients, as they introduce themselves by EXCHANGE_ID, and their leases (RFC 8881, 2.4 and 18.35).

A client is known by its owner string; its verifier changes when it reboots; its principal is who
may speak for it. A record becomes confirmed by CREATE_SESSION. Invariants:
- of an owner there is at most one confirmed and one unconfirmed record, and the unconfirmed one
  takes the other's place, with all that it had, when it is confirmed;
- client ids are nothing that anybody can guess: the answer to a CREATE_SESSION that is sent again
  has the session's id, and whoever has that could destroy the session;
  what others are told of a client is an ``alias``, the same each time and good for nothing else;
- a lease that has run out takes nothing away by itself: that happens when somebody else needs it
  (courtesy), or after hours.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nfsgw.rpc import Call
from nfsgw.v4.limits import Limits
from nfsgw.v4.origins import Origin
from nfsgw.v4.protocol import Failed, Status
from nfsgw.v4.recovery import Principal

if TYPE_CHECKING:
    from nfsgw.v4.opens import LockState, Open
    from nfsgw.v4.sessions import Session

EXPIRED_MAX = 32  # in one step
Key = tuple[bytes, Hashable]  # an open-owner or lock-owner, and a file


@dataclass(slots=True, eq=False)
class Created:
    """The last CREATE_SESSION of a client, to be answered again: its sequence, status, body."""

    sequence: int
    status: Status = Status.SEQ_MISORDERED
    body: bytes = b""


@dataclass(slots=True, eq=False)
class Client:
    """One client, and all that it has."""

    id: int
    owner: bytes
    verifier: bytes
    principal: Principal
    origin: Origin
    renewed: float
    confirmed: bool = False
    reclaim_complete: bool = False
    running: int = 0  # compounds in progress
    slots: int = 0  # of its sessions
    created: Created = field(default_factory=lambda: Created(0))
    sessions: "dict[bytes, Session]" = field(default_factory=dict)
    states: "dict[bytes, Open | LockState]" = field(default_factory=dict)
    opens: "dict[Key, Open]" = field(default_factory=dict)
    locks: "dict[Key, LockState]" = field(default_factory=dict)
    ranges: int = 0  # locked ranges, in all files

    @property
    def idle(self) -> bool:
        """Whether it has nothing that another client could miss."""
        return not self.sessions and not self.states


def principal_of(call: Call) -> Principal:
    """Who may speak for a client: the user it said it was."""
    return None if call.credential is None else call.credential.uid


class Clients:
    """All clients.  ``drop`` takes away what one has; it is called before it is forgotten."""

    def __init__(
        self, limits: Limits, clock: Callable[[], float], drop: Callable[[Client], None]
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._drop = drop
        self._key = secrets.token_bytes(16)  # of aliases
        self._renewed = clock()  # none that is silent was renewed before
        self._by_id: dict[int, Client] = {}
        self._confirmed: dict[bytes, Client] = {}
        self._unconfirmed: OrderedDict[bytes, Client] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, client_id: int) -> Client:
        """STALE_CLIENTID; also for one that has not come back in time to be confirmed."""
        client = self._by_id.get(client_id)
        if client is not None and not client.confirmed and self.expired(client):
            self._forget(client)
            client = None
        if client is None:
            raise Failed(Status.STALE_CLIENTID)
        return client

    def alias(self, client_id: int) -> int:
        """What others may call a client."""
        digest = hashlib.blake2s(client_id.to_bytes(8, "big"), key=self._key, digest_size=8)
        return int.from_bytes(digest.digest(), "big")

    def expired(self, client: Client, over_s: float = 0) -> bool:
        """Whether the lease ran out, ``over_s`` seconds ago or more."""
        quiet_s = self._clock() - client.renewed
        return client.running == 0 and quiet_s > self._limits.lease_s + over_s

    def renew(self, client: Client) -> None:
        client.renewed = self._clock()

    # --- EXCHANGE_ID, by the cases of RFC 8881, 18.35.4

    def introduce(
        self, owner: bytes, verifier: bytes, principal: Principal, origin: Origin
    ) -> Client:  # fmt: skip
        """A client says who it is: its confirmed record, or a new one.  CLID_INUSE, DELAY."""
        known = self._confirmed.get(owner)
        if known is not None and known.principal != principal:
            if not known.idle and not self.expired(known):
                raise Failed(Status.CLID_INUSE)  # case 3
            self.remove(known)
        elif known is not None and known.verifier == verifier:
            self.renew(known)
            return known  # case 2
        # cases 1, 4 and 5: the confirmed record of a client that has rebooted stays for now
        if owner in self._unconfirmed:
            self._forget(self._unconfirmed[owner])
        self._make_room(origin)
        client = Client(secrets.randbits(64), owner, verifier, principal, origin, self._clock())
        self._by_id[client.id] = self._unconfirmed[owner] = origin.waiting[owner] = client
        origin.unconfirmed.add(1)
        return client

    def update(self, owner: bytes, verifier: bytes, principal: Principal) -> Client:
        """A client changes what it has said before.  NOENT, NOT_SAME, PERM (cases 6 to 9)."""
        known = self._confirmed.get(owner)
        if known is None:
            raise Failed(Status.NOENT)
        if known.verifier != verifier:
            raise Failed(Status.NOT_SAME)
        if known.principal != principal:
            raise Failed(Status.PERM)
        self.renew(known)
        return known

    def _make_room(self, origin: Origin) -> None:
        """For an unconfirmed record: the oldest of its address goes, or else the oldest of all."""
        if origin.unconfirmed.full:
            self._forget(next(iter((origin.waiting or self._unconfirmed).values())))

    def check_confirm(self, client: Client, principal: Principal) -> None:
        """Before CREATE_SESSION.  CLID_INUSE: somebody else's record; DELAY: too many clients."""
        if client.principal != principal and not client.confirmed:
            raise Failed(Status.CLID_INUSE)
        if client.confirmed or client.owner in self._confirmed:
            return
        if client.origin.clients.full:
            self.expire(0)
        if client.origin.clients.full and not self.evict(client):
            raise Failed(Status.DELAY)

    def confirm(self, client: Client) -> None:
        """The record takes the place of the one before, whose state is gone."""
        self.renew(client)
        if client.confirmed:
            return
        old = self._confirmed.get(client.owner)
        if old is not None:
            self.remove(old)
        self._unlist(client)
        client.confirmed = True
        client.origin.clients.add(1)
        self._confirmed[client.owner] = client

    # --- their end

    def expire(self, over_s: float) -> int:
        """Remove some whose lease ran out ``over_s`` ago; how many, none if there are none."""
        now = self._clock()
        if now - self._renewed <= self._limits.lease_s + over_s:
            return 0
        late = [each for each in self._by_id.values() if self.expired(each, over_s)]
        for client in late[:EXPIRED_MAX]:
            self.remove(client)
        silent = (each.renewed for each in self._by_id.values() if not each.running)
        self._renewed = min(silent, default=now)
        return len(late[:EXPIRED_MAX])

    def evict(self, but: Client, *, slots: bool = False) -> bool:
        """For a client, or its ``slots``: remove one that has nothing open, of the address that has
        most clients, or slots, if that keeps as many as its own has, or of its own; of these the
        one that has been silent longest, if there is one.  It introduces itself again and has lost
        nothing: who opens nothing keeps nobody out."""

        def has(client: Client) -> int:
            return client.origin.slots.count if slots else client.origin.clients.count

        def may_go(client: Client) -> bool:
            less = client.slots if slots else 1
            own = client.origin is but.origin
            return less > 0 and (own or has(client) - less >= has(but))

        idle = (
            each for each in self._confirmed.values()
            if each is not but and not each.states and not each.running and may_go(each)
        )  # fmt: skip
        found = max(idle, key=lambda each: (has(each), -each.renewed), default=None)
        if found is not None:
            self.remove(found)
        return found is not None

    def remove(self, client: Client) -> None:
        self._drop(client)
        self._forget(client)

    def _forget(self, client: Client) -> None:
        del self._by_id[client.id]
        if client.confirmed:
            del self._confirmed[client.owner]
            client.origin.clients.add(-1)
        else:
            self._unlist(client)

    def _unlist(self, client: Client) -> None:
        """It is not one of the unconfirmed any more."""
        del self._unconfirmed[client.owner], client.origin.waiting[client.owner]
        client.origin.unconfirmed.add(-1)
