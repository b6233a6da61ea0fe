"""Unique bytes are what deleting frees: predicted, deleted, collected, counted."""

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, Volume

BLOCK = 4096
NAMES = [b"a", b"b", b"c", b"d"]


class World:
    """A small store in which random clones, snapshots, dedup and overwrites share blocks."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.path = Path(tempfile.mkdtemp(prefix="ramet-accounting-"))
        shutil.rmtree(self.path)
        Store.create(self.path, fanout=4, records_max=4, slab_slots=256)
        self.store = Store.open(self.path)
        self.store.create_volume("v1")

    def close(self) -> None:
        self.store.abandon()
        shutil.rmtree(self.path)

    def volume(self) -> Volume:
        return self.rng.choice(self.store.volumes())

    def directories(self, volume: Volume) -> list[int]:
        found, pending = [], [ROOT_INO]
        while pending:
            ino = pending.pop()
            found.append(ino)
            pending += [e.ino for e in volume.readdir(ino) if e.kind == 0o040000]
        return found

    def files(self, volume: Volume) -> list[tuple[int, bytes, int]]:
        return [
            (directory, e.name, e.ino)
            for directory in self.directories(volume)
            for e in volume.readdir(directory)
            if e.kind == 0o100000
        ]

    def place(self) -> tuple[Volume, int, bytes]:
        volume = self.volume()
        return volume, self.rng.choice(self.directories(volume)), self.rng.choice(NAMES)

    def write(self) -> None:
        volume, directory, name = self.place()
        entry = volume.entry(directory, name)
        if entry is None:
            ino = volume.create(directory, name, 0o644, 0, 0).ino
        elif entry.kind == 0o100000:
            ino = entry.ino
        else:
            return
        rng = self.rng
        for _ in range(rng.randrange(1, 8)):
            block = (
                bytes([rng.randrange(1, 9)]) * BLOCK if rng.random() < 0.3 else os.urandom(BLOCK)
            )
            volume.write(ino, rng.randrange(60) * BLOCK, block * rng.randrange(1, 4))

    def clone(self) -> None:
        source = self.volume()
        found = self.files(source)
        target, directory, name = self.place()
        entry = target.entry(directory, name)
        if found and (entry is None or entry.kind == 0o100000):
            ino = self.rng.choice(found)[2]
            self.store.clone_file(source, ino, target, directory, name, replace=True)

    def clone_range(self) -> None:
        source, target = self.volume(), self.volume()
        ours, theirs = self.files(source), self.files(target)
        if ours and theirs:
            a, b = self.rng.choice(ours)[2], self.rng.choice(theirs)[2]
            if (source, a) != (target, b):
                start = self.rng.choice([0, 16, 4, 5]) * BLOCK
                length = self.rng.randrange(1, 20) * BLOCK
                self.store.clone_range(source, a, start, target, b, start, length)

    def make_directory(self) -> None:
        volume, directory, name = self.place()
        if volume.entry(directory, name) is None:
            volume.mkdir(directory, name, 0o755, 0, 0)

    def link(self) -> None:
        volume, directory, name = self.place()
        found = self.files(volume)
        if found and volume.entry(directory, name) is None:
            volume.link(self.rng.choice(found)[2], directory, name)

    def snapshot(self) -> None:
        volume = self.volume()
        name = self.rng.choice(["s1", "s2"])
        if name not in [s.name for s in self.store.snapshots(volume)]:
            self.store.create_snapshot(volume, name)

    def clone_volume(self) -> None:
        names = {v.name for v in self.store.volumes()}
        free = [name for name in ("v1", "v2", "v3") if name not in names]
        if free:
            self.store.clone_volume(self.volume(), free[0])

    def grow(self) -> None:
        steps = [self.write, self.clone, self.clone_range, self.make_directory, self.link,
                 self.snapshot, self.clone_volume]  # fmt: skip
        for step in self.rng.choices(steps, [10, 6, 4, 3, 2, 2, 1], k=25):
            step()

    def doomed(self) -> tuple[int | None, Callable[[], object]]:
        """Something to delete: what the pass says of it, and how."""
        store, volume = self.store, self.volume()
        unique = store.account()
        kind = self.rng.choice(["file", "file", "directory", "volume", "snapshot"])
        snapshots = store.snapshots(volume)
        if kind == "snapshot" and snapshots:
            each = self.rng.choice(snapshots)
            return unique.of_volume(each.id), lambda: store.remove_snapshot(volume, each.name)
        if kind == "volume":
            return unique.of_volume(volume.id), lambda: store.remove_volume(volume.name)
        entries = [
            (directory, e)
            for directory in self.directories(volume)
            for e in volume.readdir(directory)
            if (e.kind == 0o040000) == (kind == "directory")
        ]
        if not entries:
            return 0, lambda: None
        directory, entry = self.rng.choice(entries)
        inode = volume.inode(entry.ino)
        if inode.is_file and inode.nlink > 1:
            return 0, lambda: store.remove_tree(volume, directory, entry.name)
        found = unique.of_inode(volume.id, entry.ino)
        return found or 0, lambda: store.remove_tree(volume, directory, entry.name)


@pytest.mark.parametrize("seed", range(40))
def test_unique_bytes_are_what_deleting_frees(seed: int) -> None:
    world = World(seed)
    try:
        for _ in range(6):
            world.grow()
            world.store.gc()
            before = world.store.pool.core.allocated_slots
            predicted, delete = world.doomed()
            assert world.store.unique is not None
            assert world.store.unique.reached_bytes == before * BLOCK
            delete()
            world.store.gc()
            freed = before - world.store.pool.core.allocated_slots
            assert predicted == freed * BLOCK
            if not world.store.volumes():
                world.store.create_volume("v1")
    finally:
        world.close()


def test_what_an_open_file_without_a_name_holds_is_nobodys(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        ino = lab.create(ROOT_INO, b"a", 0o644, 0, 0).ino
        lab.write(ino, 0, os.urandom(10 * BLOCK))
        clone = store.clone_file(lab, ino, lab, ROOT_INO, b"b").ino
        lab.hold(ino)
        lab.unlink(ROOT_INO, b"a")
        unique = store.account()
        assert unique.of_inode(lab.id, clone) == 0
        assert (unique.reached_bytes, unique.shared_bytes) == (10 * BLOCK, 10 * BLOCK)
        lab.release(ino)
        assert store.account().of_inode(lab.id, clone) == 10 * BLOCK


def test_what_dedup_and_what_clones_save_are_told_apart(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        data = os.urandom(10 * BLOCK)

        def saved() -> tuple[int, int]:
            unique = store.account()
            return unique.dedup_saved_bytes // BLOCK, unique.clone_saved_bytes // BLOCK

        first = lab.create(ROOT_INO, b"first", 0o644, 0, 0).ino
        lab.write(first, 0, data + bytes(5 * BLOCK))
        assert saved() == (0, 0)
        second = lab.create(ROOT_INO, b"second", 0o644, 0, 0).ino
        lab.write(second, 3 * BLOCK, data)
        assert saved() == (10, 0)
        for n in range(3):
            store.clone_file(lab, second, lab, ROOT_INO, b"clone-%d" % n)
        assert saved() == (10, 30)
        lab.write(second, 3 * BLOCK, os.urandom(BLOCK))  # its leaf is copied: still three clones
        assert saved() == (10, 29)
        lab.write(second, 3 * BLOCK, data[:BLOCK])
        assert saved() == (11, 29)
        lab.unlink(ROOT_INO, b"first")
        assert saved() == (1, 29)  # of ten blocks, one was written by two that are there
