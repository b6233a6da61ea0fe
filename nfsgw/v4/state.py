"""All that a server knows of its clients: the one object that the operations share.

Stateids are looked for among those of the session's client only, so one that another client has,
or had before a restart, is BAD_STATEID. What a client has goes with the client, whole (``_drop``):
what remains of it anywhere else is a mistake that the tests look for. Nobody can use any of it
from then on; but it may be much, so it is closed in steps (``drain``), and whoever wants what it is
in the way of until then is told DELAY.
"""

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeVar

import trio

from engine import Store
from nfsgw.access import READ, WRITE
from nfsgw.files import Place
from nfsgw.v4.clients import EXPIRED_MAX, Client, Clients
from nfsgw.v4.limits import Limits
from nfsgw.v4.open_files import OpenFiles
from nfsgw.v4.opens import SHARE_READ, SHARE_WRITE, LockState, Open
from nfsgw.v4.origins import Quotas
from nfsgw.v4.protocol import Failed, Status
from nfsgw.v4.recovery import Recovery
from nfsgw.v4.sessions import Channel, Session
from nfsgw.v4.stateids import ANONYMOUS, BYPASS, CURRENT, SPECIAL, Stateid

if TYPE_CHECKING:
    from nfsgw.v4.current import Current

S = TypeVar("S", Open, LockState)
DROPPED_MAX = 32  # opens, locks and ranges of a client, in one step; of more the rest is left
DRAINED_MAX = 256


class State:
    """Clients, sessions, opens and locks of a store's server."""

    def __init__(
        self, store: Store, limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.limits = limits or Limits()
        self.clock = clock
        self.recovery = Recovery(store, clock, self.limits.lease_s)
        self.quotas = Quotas(self.limits)
        self.clients = Clients(self.limits, clock, self._drop)
        self.sessions: dict[bytes, Session] = {}
        self.open_files = OpenFiles(self.recovery.boot, self.limits)
        self.swept = False  # clients' records are gone, though not on disk yet
        self._leaving: dict[int, Client] = {}  # clients that are gone, and have something yet
        self._exports: Collection[int] | None = None  # what may be open is of these
        self.left = trio.Event()  # there is something to drain

    # --- sessions

    def session(self, session_id: bytes) -> Session:
        """BADSESSION."""
        session = self.sessions.get(session_id)
        if session is None:
            raise Failed(Status.BADSESSION)
        return session

    def channel(self, client: Client, wanted: Channel) -> Channel:
        """What a session of a client can have; TOOSMALL, INVAL, DELAY when there is no room."""
        if len(client.sessions) >= self.limits.sessions_of_client:
            raise Failed(Status.DELAY)
        if client.origin.slots.full:
            self.clients.expire(0)
        room = client.origin.slots.room
        if not room:
            left = self.quotas.slots.left
            if not self.clients.evict(client, slots=True):
                raise Failed(Status.DELAY)
            room = self.quotas.slots.left - left
        return wanted.granted(self.limits, room)

    def add_session(self, session: Session) -> None:
        self.sessions[session.id] = session.client.sessions[session.id] = session
        self._count_slots(session.client, len(session.slots))

    def remove_session(self, session: Session) -> None:
        del self.sessions[session.id], session.client.sessions[session.id]
        self._count_slots(session.client, -len(session.slots))

    @staticmethod
    def _count_slots(client: Client, more: int) -> None:
        client.slots += more
        client.origin.slots.add(more)

    # --- the end of clients

    def _drop(self, client: Client) -> None:
        """All that a client has."""
        for session in list(client.sessions.values()):
            self.remove_session(session)
        client.states = {}
        if client.reclaim_complete:
            self.recovery.forget(client.owner)
        self._leaving[client.id] = client
        self._close_some(client, DROPPED_MAX)
        if client.id in self._leaving:
            self.swept = True
            self.left.set()

    def _close_some(self, client: Client, most: int) -> int:
        """Of what a client has that is gone; what is left of ``most``."""
        most = self.open_files.close_some(client.opens.values(), most)
        if not client.opens:
            assert not client.locks
            del self._leaving[client.id]
        return most

    def drain(self) -> bool:
        """A step of closing what nobody can ask for any more; whether there may be more."""
        most = DRAINED_MAX
        while most and self._leaving:
            most = self._close_some(next(iter(self._leaving.values())), most)
        most = self.open_files.close_stale(most)
        if self._exports is not None:
            most = self.open_files.close_unexported(self._exports, most)
        if most and self.left.is_set():
            self.left = trio.Event()
        return not most

    def export(self, exports: Collection[int]) -> None:
        """What may be open from now on is of these exports (their numbers)."""
        self._exports = exports
        if self.drain():
            self.left.set()

    def in_grace(self, current: "Current") -> bool:
        """Whether it is grace; it ends here when its time has come."""
        if self.recovery.end_if_over() or self.swept:
            current.must_store = True  # others rely on what is gone
        return self.recovery.in_grace

    def expire(self, current: "Current", client: Client) -> bool:
        """Take away what a client has that has not been heard of for a lease; whether it is one.
        Its record has to be gone durably before anybody relies on it.  DELAY: there is more to
        take away than one step does."""
        if client.id in self._leaving:
            self._close_some(client, DROPPED_MAX)
        elif self.clients.expired(client):
            self.clients.remove(client)
        else:
            return False
        current.must_store = True
        if client.id in self._leaving:
            raise Failed(Status.DELAY)
        return True

    def denied(
        self, current: "Current", place: Place, access: int, deny: int, but: Open | None = None
    ) -> bool:
        """Whether anybody's Open, other than ``but``, stands against such an open of the file at a
        place.  Expired clients lose what does; DELAY: there are many."""
        file = self.open_files.find(place)
        for _ in range(EXPIRED_MAX):
            found = None if file is None else file.against(access, deny, but)
            if found is None:
                return False
            if not self.expire(current, found.client):
                return True
        raise Failed(Status.DELAY)

    def holder(self, client_id: int) -> Client:
        """Who has a lock."""
        return self._leaving.get(client_id) or self.clients.find(client_id)

    def room_for_open(self, current: "Current") -> None:
        """DELAY when there are as many opens as there may be."""
        self._room(current, self.open_files.check_room_for_open)

    def room_for_lock(self, current: "Current") -> None:
        self._room(current, self.open_files.check_room_for_lock)

    def _room(self, current: "Current", check: Callable[[Client], None]) -> None:
        """At a limit those go who have not been heard of for a lease."""
        assert current.session is not None
        client = current.session.client
        try:
            check(client)
        except Failed:
            self.drain()
            if self.clients.expire(0):
                current.must_store = True
            check(client)

    def sweep(self) -> int:
        """A step of what nobody has asked for in hours; to be called now and then, until it is 0.
        Clients removed: until that is on disk, and ``swept`` is unset, whoever takes anything waits
        for the disk."""
        self.drain()
        removed = self.clients.expire(self.limits.courtesy_s)
        self.swept = self.swept or removed > 0
        return removed

    # --- stateids

    def find(self, current: "Current", stateid: Stateid) -> Open | LockState:
        """BAD_STATEID, OLD_STATEID."""
        assert current.session is not None
        if stateid == CURRENT:
            if current.stateid is None:
                raise Failed(Status.BAD_STATEID)
            stateid = current.stateid
        found = current.session.client.states.get(stateid.other)
        if found is None or stateid.seqid > found.seqid:
            raise Failed(Status.BAD_STATEID)
        if stateid.seqid and stateid.seqid < found.seqid:
            raise Failed(Status.OLD_STATEID)
        return found

    def open_at(self, current: "Current", stateid: Stateid, place: Place) -> Open:
        """The Open of the file at ``place`` that a stateid names."""
        return self._at(Open, current, stateid, place)

    def lock_at(self, current: "Current", stateid: Stateid, place: Place) -> LockState:
        """The LockState in the file at ``place`` that a stateid names."""
        return self._at(LockState, current, stateid, place)

    def _at(self, kind: type[S], current: "Current", stateid: Stateid, place: Place) -> S:
        found = self.find(current, stateid)
        if not isinstance(found, kind):
            raise Failed(Status.BAD_STATEID)
        _check_file(found, place)
        return found

    def for_io(
        self, current: "Current", stateid: Stateid, place: Place, wanted: int
    ) -> Open | None:
        """What a stateid allows for READ, or WRITE, of the file at ``place`` (access.READ, WRITE).

        The Open: permission was checked when the client opened the file. None: it has to be checked
        now (a special stateid, the user is not the one who opened it, or a READ by a client that
        has opened for writing and needs to know what it overwrites a part of). BAD_STATEID,
        OLD_STATEID, OPENMODE, LOCKED, GRACE, STALE.
        """
        assert wanted in (READ, WRITE)
        if stateid.other in SPECIAL and stateid != CURRENT:
            self._check_special(current, stateid, place, wanted)
            return None
        found = self.find(current, stateid)
        _check_file(found, place)
        held = found.open if isinstance(found, LockState) else found
        if wanted == WRITE and not held.access & SHARE_WRITE:
            raise Failed(Status.OPENMODE)
        access = SHARE_READ if wanted == READ else SHARE_WRITE
        return held if held.rights.get(place.who.uid, 0) & access else None

    def _check_special(
        self, current: "Current", stateid: Stateid, place: Place, wanted: int
    ) -> None:
        if stateid not in (ANONYMOUS, BYPASS):
            raise Failed(Status.BAD_STATEID)
        if self.in_grace(current):
            raise Failed(Status.GRACE)
        if stateid == BYPASS and wanted == READ:
            return
        if self.denied(current, place, SHARE_READ if wanted == READ else SHARE_WRITE, 0):
            raise Failed(Status.LOCKED)


def _check_file(found: Open | LockState, place: Place) -> None:
    """That a stateid is one of this file.  BAD_STATEID; STALE after a forced restore."""
    file = found.file
    if file.volume is not place.volume or file.ino != place.inode.ino:
        raise Failed(Status.BAD_STATEID)
    if file.stale:
        raise Failed(Status.STALE)
