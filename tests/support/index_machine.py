"""The index of VMs against a scan of all marks, whatever happens to them in between.

Each rule changes volumes, directories or marks as any door of the store may; the index reads on by
itself a step at a time, in the midst of it.  After each rule a question, or none, is asked: so an
answer may have many changes behind it, or one.
"""

import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine import ROOT_INO, Inode, Store, Volume, errors
from hypervisor import machine_index
from hypervisor.machine_index import MachineIndex, index_of
from hypervisor.machines import MARK, Directory, Machine, machine_in

PICK = st.integers(0, 1 << 16)
URIS = ("one:///", "two:///")
WORDS = 6
VOLUMES_MAX = 6


def uuid(n: int) -> str:
    return f"6ba7b810-9dad-11d1-80b4-00c04fd4{n:04d}"


def mac(n: int) -> str:
    return f"52:54:00:00:00:{n:02d}"


class Seen(NamedTuple):
    """A mark, as a scan finds it."""

    volume: Volume
    ino: int
    parent: int
    machine: Machine | None
    own: bool


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._step, machine_index.STEP = machine_index.STEP, 2
        self.path = Path(tempfile.mkdtemp(prefix="ramet-index-"))
        Store.create(self.path / "s", fanout=4, records_max=8, slab_slots=64)
        self.store = Store.open(self.path / "s")
        self.store.create_volume("v0")
        self.serial = 0
        self.index: MachineIndex | None = None
        self.held: list[tuple[Volume, int, int]] = []

    def volume(self, pick: int) -> Volume:
        found = self.store.volumes()
        return found[pick % len(found)]

    def directories(self, volume: Volume) -> list[Inode]:
        found = [volume.inode(ROOT_INO)]
        for each in found:
            for entry in volume.readdir(each.ino):
                inode = volume.inode(entry.ino)
                if inode.is_dir:
                    found.append(inode)
        return found

    def directory(self, volume: Volume, pick: int) -> Inode:
        found = self.directories(volume)
        return found[pick % len(found)]

    def name_of(self, volume: Volume, inode: Inode) -> bytes:
        name = volume.last_name(inode)
        assert name is not None
        return name

    # --- what happens

    @rule(where=PICK, parent=PICK)
    def make_directory(self, where: int, parent: int) -> None:
        self.serial += 1
        volume = self.volume(where)
        volume.mkdir(self.directory(volume, parent).ino, b"d%d" % self.serial, 0o755, 0, 0)

    @rule(where=PICK, pick=PICK, n=st.integers(0, WORDS), uri=st.none() | st.sampled_from(URIS),
          formerly=st.booleans())  # fmt: skip
    def mark(self, where: int, pick: int, n: int, uri: str | None, formerly: bool) -> None:
        volume = self.volume(where)
        inode = self.directory(volume, pick)
        path = volume.path_of(inode.ino)
        if inode.ino != ROOT_INO and path is not None:
            before = uuid(n + 100) if formerly else None
            machine = Machine(f"vm{n}", uuid(n), [mac(n), mac(n + 1)], uri, before)
            Directory(volume, path, None).set_machine(machine)

    @rule(where=PICK, pick=PICK, n=st.integers(0, WORDS), cut=st.booleans())
    def damage(self, where: int, pick: int, n: int, cut: bool) -> None:
        """Of half of them the bytes still tell something."""
        volume = self.volume(where)
        inode = self.directory(volume, pick)
        if inode.ino != ROOT_INO:
            told = msgspec.msgpack.encode(Machine("vm", uuid(n), [mac(n)]))
            volume.set_mark(inode.ino, MARK, told[:-1] if cut else b"\xc1")

    @rule(where=PICK, pick=PICK)
    def clear(self, where: int, pick: int) -> None:
        volume = self.volume(where)
        volume.clear_mark(self.directory(volume, pick).ino, MARK)

    @rule(where=PICK, pick=PICK, to=PICK, instead=st.booleans())
    def move(self, where: int, pick: int, to: int, instead: bool) -> None:
        """``instead``: it changes places with another."""
        volume = self.volume(where)
        inode, target = self.directory(volume, pick), self.directory(volume, to)
        if ROOT_INO in (inode.ino, target.ino):
            return
        self.serial += 1
        name, at = self.name_of(volume, inode), self.name_of(volume, target)
        with suppress(errors.InvalidArgument, errors.NotEmpty):
            if instead:
                volume.rename(inode.parent, name, target.parent, at, 2)
            else:
                volume.rename(inode.parent, name, target.ino, b"m%d" % self.serial)

    @rule(where=PICK, pick=PICK, hold=st.booleans())
    def remove(self, where: int, pick: int, hold: bool) -> None:
        volume = self.volume(where)
        inode = self.directory(volume, pick)
        if inode.ino != ROOT_INO:
            if hold:
                volume.hold(inode.ino)
                self.held.append((volume, volume.era, inode.ino))
            self.store.remove_tree(volume, inode.parent, self.name_of(volume, inode))

    @rule(where=PICK, pick=PICK, replace=st.booleans(), to=PICK)
    def clone_directory(self, where: int, pick: int, replace: bool, to: int) -> None:
        """Or put it in the place of another, as a revert does."""
        volume = self.volume(where)
        source, target = self.directory(volume, pick), self.directory(volume, to)
        self.serial += 1
        with suppress(errors.InvalidArgument, errors.Busy):
            if replace and target.ino != ROOT_INO:
                name = self.name_of(volume, target)
                payload = volume.get_mark(target.ino, MARK)
                self.store.replace_tree(
                    volume, source.ino, volume, target.parent, name,
                    prepare=lambda made: payload and volume.set_mark(made.ino, MARK, payload),
                )  # fmt: skip
            else:
                self.store.clone_tree(volume, source.ino, volume, ROOT_INO, b"c%d" % self.serial)

    @rule(where=PICK, snapshot=st.booleans())
    def clone_volume(self, where: int, snapshot: bool) -> None:
        self.serial += 1
        volume = self.volume(where)
        if snapshot:
            self.store.create_snapshot(volume, f"s{self.serial}")
        elif len(self.store.volumes()) < VOLUMES_MAX:
            self.store.clone_volume(volume, f"v{self.serial}")

    @rule(where=PICK)
    def restore(self, where: int) -> None:
        volume = self.volume(where)
        for snapshot in self.store.snapshots(volume)[:1]:
            self.store.restore(volume, snapshot.name, force=True)

    @rule(where=PICK)
    def remove_volume(self, where: int) -> None:
        if len(self.store.volumes()) > 1:
            self.store.remove_volume(self.volume(where).name, force=True)

    @rule(where=PICK)
    def rename_volume(self, where: int) -> None:
        self.serial += 1
        self.store.rename_volume(self.volume(where).name, f"r{self.serial}")

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.held.clear()
        self.store, self.index = Store.open(self.path / "s"), None

    # --- what is asked

    @rule(steps=st.integers(1, 3))
    def read_on(self, steps: int) -> None:
        self.index = index_of(self.store)
        for _ in zip(range(steps), self.index.ready(), strict=False):
            pass

    @rule()
    def ask(self) -> None:
        self.index = index_of(self.store)
        assert index_of(self.store) is self.index
        seen = list(self._scan())
        self._identities(self.index, seen)
        self._places(self.index, seen)

    def _scan(self) -> list[Seen]:
        found = []
        for volume in self.store.volumes():
            for ino, payload in volume.marks(MARK):
                parent = volume.inode(ino).parent
                try:
                    machine = machine_in(volume, payload)
                except errors.Corrupt:
                    found.append(Seen(volume, ino, parent, None, True))
                else:
                    own = machine.home in (0, volume.id)
                    found.append(Seen(volume, ino, parent, machine, own))
        return found

    def _identities(self, index: MachineIndex, seen: list[Seen]) -> None:
        every = [(each, self._words(each)) for each in seen]
        for n in range(WORDS + 2):
            for word in (uuid(n), uuid(n + 100), mac(n)):
                owners = {(e.volume.id, e.ino) for e, words in every if e.own and word in words}
                assert index.has(word.upper()) == any(word in words for _, words in every)
                assert (word in index.macs) == index.has(word)
                but = min(owners, default=(0, 0))
                other = index.clash([word.upper()], but=but)
                assert (other in owners - {but}) if owners - {but} else other is None
        damaged = {(each.volume.id, each.ino) for each in seen if each.machine is None}
        assert set(index.damaged()) == damaged

    def _words(self, each: Seen) -> set[str]:
        if each.machine is not None:
            return {*each.machine.uuids, *each.machine.macs}
        payload = (each.volume.get_mark(each.ino, MARK) or b"").decode(errors="replace")
        return {word for n in range(WORDS + 2) for word in (uuid(n), mac(n)) if word in payload}

    def _places(self, index: MachineIndex, seen: list[Seen]) -> None:
        places = Counter((each.volume.id, each.parent) for each in seen)
        assert set(index.places()) == set(places)
        for place in [*places, (1, 1)]:
            inside = [each for each in seen if (each.volume.id, each.parent) == place]
            for uri in URIS:
                for but in ((), [uuid(0)], [uuid(n) for n in range(WORDS)]):
                    expected = any(
                        e.machine is None
                        or (e.machine.uri == uri and not set(but) & set(e.machine.uuids))
                        for e in inside
                    )  # fmt: skip
                    assert index.shows_vms_of(uri, place, but=but) == expected

    @invariant()
    def nothing_waits_for_a_volume_that_is_gone(self) -> None:
        if self.index is not None:
            assert len([each for each in self.store.listeners if each is self.index]) == 1

    def teardown(self) -> None:
        machine_index.STEP = self._step
        try:
            self.ask()
            for volume, era, ino in self.held:
                volume.release_of(era, ino)
            self.ask()
            self.store.close()
        finally:
            self.store.abandon()
            shutil.rmtree(self.path)
