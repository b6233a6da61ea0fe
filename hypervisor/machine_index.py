"""What identities are taken, and which directories have VMs: all marks of a store, in memory.

Why in memory: marks are cloned with their volume, by copying one root; an index stored beside them
would have to be made anew for each clone, which takes no time at present, or would name the
original's VMs.  So it is derived: read once, by pages, when something is first asked, and from then
on each change is looked at again by itself.  A listener of the store notes which marks may have
changed (set, cleared, moved, removed; a volume made, restored, removed), and the next question
reads just these.  Nothing is ever assumed of a change but that it happened.

Invariants (``tests/hypervisor/test_machine_index.py`` holds them against a scan of all marks):
- an answer is that of a scan of the marks of all volumes (not of snapshots) at this instant;
- ``ready`` reads what is missing in steps of at most STEP marks; a question asked without it reads
  all of that at once;
- a mark that is damaged stands for each identity that its bytes, or the domain.xml beside it, still
  tell: none of these is given to another VM.
"""

import re
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator
from typing import NamedTuple, TypeVar

from engine import Change, Store, Volume, errors
from hypervisor import domain
from hypervisor.machines import MARK, XML, machine_in

STEP = 64
Key = tuple[int, int]  # volume id, inode number
Place = tuple[int, int]  # volume id, inode number of the directory that holds VMs' directories
K = TypeVar("K")
V = TypeVar("V")
_UUID = re.compile(rb"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_MAC = re.compile(rb"\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b")
_XML_UUID = re.compile(rb"<uuid>\s*(" + _UUID.pattern + rb")\s*</uuid>")


class Entry(NamedTuple):
    """One VM.  ``taken``: its UUIDs and MACs, in small letters; a copy's are its original's."""

    parent: int
    taken: frozenset[str]
    uri: str | None
    copy: bool
    damaged: bool


def index_of(store: Store) -> "MachineIndex":
    """The store's one index: it is among its listeners."""
    for each in store.listeners:
        if isinstance(each, MachineIndex):
            return each
    return MachineIndex(store)


class MachineIndex:
    """All VMs of a store, by what is asked of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: dict[int, dict[int, Entry]] = {}  # of volumes that are read, or being read
        self._eras: dict[int, int] = {}
        self._unread: dict[int, int] = {volume.id: 0 for volume in store.volumes()}  # read up to
        self._changed: set[Key] = set()
        self._changed_volumes: set[int] = set()
        self._owners: dict[str, set[Key]] = {}
        self._copied: Counter[str] = Counter()
        self._places: Counter[Place] = Counter()
        self._registered: dict[tuple[str, Place], set[int]] = {}
        self._damaged: dict[Place, set[int]] = {}
        store.listeners.append(self)

    def __call__(self, change: Change) -> None:
        """Note that something may have changed; on the engine's thread, in the midst of it."""
        if change.what == "volumes":
            self._changed_volumes.add(change.volume_id)
        elif change.what in ("entry", "mark"):
            known = self._entries.get(change.volume_id)
            if known is not None and (change.what == "mark" or change.ino in known):
                self._changed.add((change.volume_id, change.ino))

    # --- read

    def ready(self) -> Iterator[None]:
        """Read what is not known yet; others may have their turn at each yield."""
        while self._changed_volumes or self._changed or self._unread:
            self._look_at_volumes()
            for _ in range(min(STEP, len(self._changed))):
                self._read_again(*self._changed.pop())
            if not self._changed and self._unread:
                self._read_some(next(iter(self._unread)))
            if self._changed or self._unread:
                yield

    def _settle(self) -> None:
        if self._changed_volumes or self._changed or self._unread:
            for _ in self.ready():
                pass

    def _look_at_volumes(self) -> None:
        while self._changed_volumes:
            volume_id = self._changed_volumes.pop()
            volume = self._volume(volume_id)
            if volume is None or self._eras.get(volume_id, volume.era) != volume.era:
                self._forget(volume_id)
            if volume is not None and volume_id not in self._entries:
                self._unread.setdefault(volume_id, 0)

    def _volume(self, volume_id: int) -> Volume | None:
        try:
            volume = self._store.volume_by_id(volume_id)
        except errors.Stale:
            return None
        return None if volume.is_snapshot else volume

    def _forget(self, volume_id: int) -> None:
        for ino in list(self._entries.get(volume_id, ())):
            self._drop(volume_id, ino)
        self._entries.pop(volume_id, None)
        self._eras.pop(volume_id, None)
        self._unread.pop(volume_id, None)

    def _read_some(self, volume_id: int) -> None:
        volume = self._volume(volume_id)
        assert volume is not None, "a volume that goes is told"
        self._entries.setdefault(volume_id, {})
        self._eras[volume_id] = volume.era
        page = volume.marks(MARK, self._unread[volume_id], STEP)
        for ino, payload in page:
            self._put(volume, ino, payload)
            self._unread[volume_id] = ino
        if len(page) < STEP:
            del self._unread[volume_id]

    def _read_again(self, volume_id: int, ino: int) -> None:
        volume = self._volume(volume_id)
        if volume is None or volume_id not in self._entries:
            return
        payload = volume.get_mark(ino, MARK)
        if payload is None:
            self._drop(volume_id, ino)
        else:
            self._put(volume, ino, payload)

    # --- entries

    def _put(self, volume: Volume, ino: int, payload: bytes) -> None:
        self._drop(volume.id, ino)
        entry = _entry(volume, ino, payload)
        if entry is None:
            return
        key, place = (volume.id, ino), (volume.id, entry.parent)
        self._entries[volume.id][ino] = entry
        self._places[place] += 1
        if entry.copy:
            self._copied.update(entry.taken)
        else:
            for word in entry.taken:
                self._owners.setdefault(word, set()).add(key)
        if entry.uri is not None:
            self._registered.setdefault((entry.uri, place), set()).add(ino)
        if entry.damaged:
            self._damaged.setdefault(place, set()).add(ino)

    def _drop(self, volume_id: int, ino: int) -> None:
        entry = self._entries.get(volume_id, {}).pop(ino, None)
        if entry is None:
            return
        place = (volume_id, entry.parent)
        _count_down(self._places, [place])
        if entry.copy:
            _count_down(self._copied, entry.taken)
        else:
            for word in entry.taken:
                _discard(self._owners, word, (volume_id, ino))
        if entry.uri is not None:
            _discard(self._registered, (entry.uri, place), ino)
        if entry.damaged:
            _discard(self._damaged, place, ino)

    # --- questions

    @property
    def macs(self) -> Container[str]:
        """The MACs that VMs have, at any time: each `in` is answered for that instant."""
        return _Taken(self)

    def has(self, word: str) -> bool:
        """Whether some VM has this UUID or MAC, be it a copy of another."""
        self._settle()
        low = word.lower()
        return low in self._owners or low in self._copied

    def clash(self, words: Iterable[str], *, but: Key) -> Key | None:
        """A VM, other than ``but`` and no copy of one, that has one of these UUIDs and MACs."""
        self._settle()
        for word in words:
            for key in self._owners.get(word.lower(), ()):
                if key != but:
                    return key
        return None

    def shows_vms_of(self, uri: str, place: Place, *, but: Collection[str] = ()) -> bool:
        """Whether a directory has VMs that are registered at ``uri``, other than those UUIDs.

        One whose mark is damaged may be.
        """
        self._settle()
        if place in self._damaged:
            return True
        known = self._entries.get(place[0], {})
        found = self._registered.get((uri, place), ())
        return any(known[ino].taken.isdisjoint(but) for ino in found)

    def places(self) -> list[Place]:
        """The directories that hold VMs' directories."""
        self._settle()
        return list(self._places)

    def damaged(self) -> list[Key]:
        """VMs whose mark is damaged."""
        self._settle()
        return [(place[0], ino) for place, found in self._damaged.items() for ino in sorted(found)]


class _Taken(Container[str]):
    def __init__(self, index: MachineIndex) -> None:
        self._index = index

    def __contains__(self, mac: object) -> bool:
        return isinstance(mac, str) and self._index.has(mac)


def _count_down(counts: Counter[K], keys: Iterable[K]) -> None:
    for key in keys:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]


def _discard(sets: dict[K, set[V]], key: K, value: V) -> None:
    found = sets[key]
    found.discard(value)
    if not found:
        del sets[key]


def _entry(volume: Volume, ino: int, payload: bytes) -> Entry | None:
    """What a mark stands for; None when its directory is gone (fsck finds such a mark)."""
    try:
        parent = volume.inode(ino).parent
        machine = machine_in(volume, payload)
    except errors.Stale:
        return None
    except errors.Corrupt:
        return Entry(_parent(volume, ino), _told(volume, ino, payload), None, False, True)
    taken = frozenset(word.lower() for word in (*machine.uuids, *machine.macs))
    return Entry(parent, taken, machine.uri, machine.home not in (0, volume.id), False)


def _parent(volume: Volume, ino: int) -> int:
    try:
        return volume.inode(ino).parent
    except errors.Corrupt:
        return 0


def _told(volume: Volume, ino: int, payload: bytes) -> frozenset[str]:
    """The identities that a damaged mark, and the XML of its VM, tell."""
    found = {*_UUID.findall(payload), *_MAC.findall(payload)}
    words = {word.decode().lower() for word in found}
    try:
        entry = volume.entry(ino, XML.encode())
        text = b"" if entry is None else volume.read(entry.ino, 0, domain.XML_BYTES_MAX + 1)
    except errors.RametError:
        return frozenset(words)
    try:
        root = domain.parse(text)
        read = {domain.text_of(root, "uuid"), *domain.macs(root)} - {""}
    except errors.RametError:
        read = {word.decode() for word in (*_XML_UUID.findall(text), *_MAC.findall(text))}
    return frozenset(words | {word.lower() for word in read})
