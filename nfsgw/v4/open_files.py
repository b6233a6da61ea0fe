"""The table of all files that are open, and how opens and locks enter and leave it.

What is asked for is checked first, as a whole; then it is granted, which cannot fail. A stateid is
the server's start and a number that is used once. What goes without anybody's asking goes in steps:
``close_some``, ``close_stale`` and ``close_unexported`` close as much as they are told to, at most.
"""

from collections.abc import Collection, Hashable, Iterable
from itertools import islice
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
        self._of_volume: dict[tuple[int, int], dict[OpenFile, None]] = {}  # by their volume and era
        self._of_export: dict[int, dict[Open, None]] = {}

    def _other(self) -> bytes:
        self._last += 1
        return self._boot + self._last.to_bytes(8, "big")

    def find(self, place: Place) -> OpenFile | None:
        """The file at a place, if anybody has it open."""
        return self._files.get(key_of(place))

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
                self._of_volume.setdefault(file.of_volume, {})[file] = None
            held = Open(client, owner, file, self._other(), place.export.id)
            file.opens[held] = None
            client.opens[owner, key] = client.states[held.other] = held
            client.origin.opens.add(1)
        else:
            self._unlist(held)
        held.export = place.export.id
        self._of_export.setdefault(held.export, {})[held] = None
        held.widen(place.who.uid, access, deny)
        return held

    def _unlist(self, held: Open) -> None:
        """It is not one of its export's any more."""
        of_export = self._of_export[held.export]
        del of_export[held]
        if not of_export:
            del self._of_export[held.export]

    def close(self, held: Open) -> None:
        """An Open goes, and the locks that came by it."""
        for each in list(held.locks):
            self.free_lock(each)
        client, file = held.client, held.file
        del client.opens[held.owner, file.key]
        client.states.pop(held.other, None)
        client.origin.opens.add(-1)
        self._unlist(held)
        held.end()
        if not file.opens:
            self._forget(file)

    def _forget(self, file: OpenFile) -> None:
        del self._files[file.key]
        of_volume = self._of_volume[file.of_volume]
        del of_volume[file]
        if not of_volume:
            del self._of_volume[file.of_volume]
        file.volume.release_of(file.era, file.ino)

    def close_some(self, opens: Iterable[Open], most: int) -> int:
        """Close opens, or take some of their locks, ``most`` of all these; what is left of that."""
        for held in list(islice(opens, most)):
            for each in list(islice(held.locks, most)):
                most = self._unlock_some(each, most)
            if most <= 0:
                return 0
            self.close(held)
            most -= 1
        return most

    def _unlock_some(self, state: LockState, most: int) -> int:
        """As ``close_some``, of one that has locks."""
        if most > 0:
            ranges = state.file.ranges
            gone = ranges.shorten(state.holder, most)
            self._count(state.client, -gone)
            if not ranges.held(state.holder):
                self.free_lock(state)
            most -= gone + 1
        return max(most, 0)

    def close_stale(self, most: int) -> int:
        """Some of what was open before a forced restore; its clients have no way to close it.
        As ``close_some``."""
        for files in list(self._of_volume.values()):
            while files and most > 0:
                file = next(iter(files))
                if not file.stale:
                    break
                most = self.close_some(file.opens, most)
        return most

    def close_unexported(self, exports: Collection[int], most: int) -> int:
        """Some of what was opened in others than these (their numbers): its clients cannot close
        it, for their handles are stale.  As ``close_some``."""
        for number in [each for each in self._of_export if each not in exports]:
            most = self.close_some(self._of_export[number], most)
        return most

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
        del client.locks[state.owner, state.file.key]
        client.states.pop(state.other, None)
        client.origin.locks.add(-1)

    @staticmethod
    def _count(client: Client, more: int) -> None:
        client.ranges += more
        client.origin.locks.add(more)
