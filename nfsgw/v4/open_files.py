"""The table of all files that are open, and how opens and locks enter and leave it.

What is asked for is checked first, as a whole; then it is granted, which cannot fail. A stateid is
the server's start and a number that is used once.
"""

from collections.abc import Collection, Hashable
from typing import TYPE_CHECKING

from nfsgw.files import Place
from nfsgw.v4.clients import Client
from nfsgw.v4.limits import Limits
from nfsgw.v4.opens import LockState, Open, OpenFile
from nfsgw.v4.protocol import Failed, Status
from nfsgw.v4.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Iterator


def key_of(place: Place) -> Hashable:
    """What a file is known by while it is open."""
    return place.volume.id, place.volume.era, place.inode.ino


class OpenFiles:
    """Opens and locks of all clients."""

    def __init__(self, boot: int, limits: Limits) -> None:
        self._boot = boot.to_bytes(4, "big")
        self._limits = limits
        self._last = 0
        self._files: dict[Hashable, OpenFile] = {}

    def _other(self) -> bytes:
        self._last += 1
        return self._boot + self._last.to_bytes(8, "big")

    def find(self, place: Place) -> OpenFile | None:
        """The file at a place, if anybody has it open."""
        return self._files.get(key_of(place))

    def against(self, place: Place, access: int, deny: int, but: Open | None = None) -> list[Open]:
        """The Opens that such an open of the file at a place stands against."""
        file = self.find(place)
        return [] if file is None else list(file.against(access, deny, but))

    def __iter__(self) -> "Iterator[OpenFile]":
        return iter(self._files.values())

    # --- opens

    def check_room_for_open(self, client: Client) -> None:
        """DELAY when a client, or those of its address, have as much open as there may be."""
        if client.origin.opens.full or len(client.opens) >= self._limits.opens_of_client:
            raise Failed(Status.DELAY)

    def open_of(self, client: Client, owner: bytes, place: Place) -> Open | None:
        """What an open-owner has open of the file at a place."""
        return client.opens.get((owner, key_of(place)))

    def grant_open(
        self, client: Client, owner: bytes, place: Place, access: int, deny: int
    ) -> Open:  # fmt: skip
        """Open, or open further; the caller has looked at what stands against it."""
        key = key_of(place)
        held = client.opens.get((owner, key))
        if held is None:
            file = self._files.get(key)
            if file is None:
                place.volume.hold(place.inode.ino)
                file = OpenFile(place.volume, place.volume.era, place.inode.ino)
                self._files[key] = file
            held = Open(client, owner, file, self._other(), place.export.id)
            file.opens[held] = None
            client.opens[owner, key] = client.states[held.other] = held
            client.origin.opens.add(1)
        held.export = place.export.id
        held.widen(place.who.uid, access, deny)
        return held

    def close(self, held: Open) -> None:
        """An Open goes, and the locks that came by it."""
        for each in list(held.locks):
            self.free_lock(each)
        client, file = held.client, held.file
        del client.opens[held.owner, file.key], client.states[held.other]
        client.origin.opens.add(-1)
        del file.opens[held]
        if not file.opens:
            del self._files[file.key]
            file.volume.release_of(file.era, file.ino)

    def close_stale(self) -> None:
        """What was open before a forced restore; its clients have no way to close it."""
        for file in [each for each in self if each.stale]:
            for held in list(file.opens):
                self.close(held)

    def close_unexported(self, exports: Collection[int]) -> None:
        """What was opened in others than these (their numbers): its clients cannot close it, for
        their handles are stale."""
        for file in list(self):
            for held in list(file.opens):
                if held.export not in exports:
                    self.close(held)

    # --- locks

    def check_room_for_lock(self, client: Client) -> None:
        """DELAY; a lock may take two ranges more, and a lock-owner."""
        most = min(
            client.origin.locks.room,
            self._limits.locks_of_client - client.ranges - len(client.locks),
        )
        if most < 3:
            raise Failed(Status.DELAY)

    def grant_lock(self, held: Open, owner: bytes, new: Range) -> LockState:
        """Lock for a lock-owner, who may be new; the caller has looked for conflicts."""
        client = held.client
        key = owner, held.file.key
        state = client.locks.get(key)
        if state is None:
            state = LockState(client, owner, held, self._other())
            held.locks[state] = None
            client.locks[key] = client.states[state.other] = state
            client.origin.locks.add(1)
        self._count(client, state.put(new))
        return state

    def unlock(self, state: LockState, start: int, end: int) -> None:
        """DELAY when a hole would make a range more than there may be."""
        if state.file.ranges.splits(state.holder, start, end):
            self.check_room_for_lock(state.client)
        self._count(state.client, state.clear(start, end))

    def free_lock(self, state: LockState) -> None:
        """A LockState goes, with what it has locked."""
        client = state.client
        self._count(client, -state.file.ranges.forget(state.holder))
        del state.open.locks[state]
        del client.locks[state.owner, state.file.key], client.states[state.other]
        client.origin.locks.add(-1)

    @staticmethod
    def _count(client: Client, more: int) -> None:
        client.ranges += more
        client.origin.locks.add(more)
