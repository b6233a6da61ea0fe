"""Directories cloned in steps: what is seen between two of them, and what is left when they end."""

import random
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import ROOT_INO, Store, Volume, errors, fsck
from engine.pool import Pool
from engine.reserve import CALL_PAGES
from engine.staging import PUBLISH_PAGES
from engine.tree_clones import STEP_ENTRIES, WHOLE_ENTRIES, TreeClone

BLOCK = 4096
Steps = Generator[None, None, TreeClone]
Content = dict[str, bytes | str | None]  # of a file, of a symlink; None: a directory


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store", fanout=4, records_max=8, slab_slots=64)
    with Store.open(tmp_path / "store") as made:
        made.create_volume("v")
        yield made
        check(made)


def check(store: Store) -> None:
    store.commit()
    assert fsck.check(store, data=True).findings == []


def make(volume: Volume, name: bytes = b"t", files: int = 100) -> int:
    """A directory with files in it and below it, links, symlinks, attributes."""
    top = volume.mkdir(ROOT_INO, name, 0o750, 7, 8).ino
    for n in range(3):
        below = volume.mkdir(top, b"d%d" % n, 0o700, 0, 0).ino
        for m in range(files // 3):
            ino = volume.create(below, b"f%d" % m, 0o640, m, n).ino
            volume.write(ino, 0, b"%d %d " % (n, m) * (m * 40))
            if m % 10 == 0:
                volume.link(ino, top, b"link %d %d" % (n, m))
                volume.set_xattr(ino, b"user.x", b"attribute %d" % m)
        volume.symlink(below, b"symlink", b"../d%d" % n, 0, 0)
    return top


def content(volume: Volume, top: int, path: str = "") -> Content:
    found: Content = {path: None}
    for entry in volume.readdir(top, limit=10_000):
        inode, name = volume.inode(entry.ino), f"{path}/{entry.name.decode()}"
        if inode.is_dir:
            found |= content(volume, inode.ino, name)
        elif inode.is_symlink:
            found[name] = volume.readlink(inode.ino).decode()
        else:
            found[name] = volume.read(inode.ino, 0, inode.size)
    return found


def result(steps: Steps) -> TreeClone:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            made: TreeClone = end.value
            return made


def trace(store: Store) -> tuple[int, int, int]:
    """What an unfinished clone would show in: volumes, inodes, mapped blocks."""
    reader = store.pool.reader()
    try:
        volumes = len(list(reader.items("volumes")))
    finally:
        reader.close()
    space = store.space()
    return volumes, space.files, space.referenced_bytes


def no_garbage(store: Store) -> bool:
    store.reclaim()
    store.commit()
    store.gc()
    store.commit()
    report = fsck.check(store, data=True)
    assert report.findings == []
    return report.garbage_slots == 0


def test_a_small_directory_is_cloned_in_one_step(store: Store) -> None:
    volume = store.volume("v")
    top = volume.mkdir(ROOT_INO, b"t", 0o755, 0, 0).ino
    for n in range(WHOLE_ENTRIES):
        volume.create(top, b"%d" % n, 0o644, 0, 0)
    epoch = volume.tree.shared_epoch
    steps = store.tree_clone(volume, top, volume, ROOT_INO, b"c")
    with pytest.raises(StopIteration):
        next(steps)
    assert len(volume.readdir(volume.lookup(ROOT_INO, b"c").ino)) == WHOLE_ENTRIES
    assert volume.tree.shared_epoch == epoch, "the volume's other files lost their blocks by it"


def test_a_clone_is_what_the_source_was_when_it_began(store: Store) -> None:
    volume, other = store.volume("v"), store.create_volume("w")
    top = make(volume)
    before = content(volume, top)
    steps = store.tree_clone(volume, top, other, ROOT_INO, b"c")
    for n, _ in enumerate(steps, 1):
        assert other.readdir(ROOT_INO) == [], "it is seen before it is whole"
        assert other.files == 1
        volume.create(top, b"new %d" % n, 0o644, 0, 0)
        victim = volume.readdir(volume.lookup(top, b"d1").ino)[0]
        if victim.kind == 0o100000:
            volume.write(victim.ino, 0, b"changed" * 1000)
            volume.unlink(volume.lookup(top, b"d1").ino, victim.name)
        if n % 3 == 0:
            check(store)
    assert n > 100 // STEP_ENTRIES
    made = other.lookup(ROOT_INO, b"c")
    assert content(other, made.ino) == before
    assert (made.mode, made.uid, made.gid) == (0o040750, 7, 8)
    assert (made.origin_volume, made.origin_ino) == (volume.id, top)
    one = other.lookup(other.lookup(made.ino, b"d2").ino, b"f10")
    assert (one.nlink, one.mode & 0o777, one.uid, one.gid) == (2, 0o640, 10, 2)
    assert other.get_xattr(one.ino, b"user.x") == b"attribute 10"
    check(store)


def test_it_says_how_many_blocks_its_files_map(store: Store) -> None:
    volume = store.volume("v")
    top = make(volume)
    before = volume.record.blocks
    made = result(store.tree_clone(volume, top, volume, ROOT_INO, b"c"))
    assert made.blocks == before == volume.record.blocks - before
    assert made.inode.ino == volume.lookup(ROOT_INO, b"c").ino


@pytest.mark.parametrize("end", [0, 1, 3, 7, 100])
def test_a_clone_that_is_given_up_was_never_there(store: Store, end: int) -> None:
    volume = store.volume("v")
    top = make(volume)
    store.commit()
    before = trace(store)
    steps = store.tree_clone(volume, top, volume, ROOT_INO, b"c")
    for _ in range(end):
        next(steps, None)
        store.commit()
    if end == 100:  # it had come to its end
        assert volume.lookup(ROOT_INO, b"c")
        store.remove_tree(volume, ROOT_INO, b"c")
    steps.close()
    store.commit()
    assert trace(store) == before
    assert volume.entry(ROOT_INO, b"c") is None
    assert no_garbage(store)


def test_a_crash_at_any_step_leaves_nothing_or_all(tmp_path: Path) -> None:
    path = tmp_path / "store"
    Store.create(path, fanout=4, records_max=8, slab_slots=64)
    with Store.open(path) as store:
        top = make(store.create_volume("v"))
        before = content(store.volume("v"), top)
        store.commit()
        shown = trace(store)
    for end in range(40):
        store = Store.open(path)
        volume = store.volume("v")
        steps = store.tree_clone(volume, top, volume, ROOT_INO, b"c")
        done = 0
        for _ in range(end):
            done += 1 if next(steps, steps) is None else 0
        store.commit()
        whole = done < end
        store.abandon()
        with Store.open(path) as store:
            volume = store.volume("v")
            assert (volume.entry(ROOT_INO, b"c") is not None) == whole
            if whole:
                assert content(volume, volume.lookup(ROOT_INO, b"c").ino) == before
                assert end > 3
                return
            store.commit()
            assert trace(store) == shown
            assert no_garbage(store)
    pytest.fail("it never came to its end")


def test_a_store_that_is_opened_read_only_does_not_show_what_a_crash_left(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    volume = store.create_volume("v")
    steps = store.tree_clone(volume, make(volume), volume, ROOT_INO, b"c")
    next(steps)
    next(steps)
    store.commit()
    store.abandon()
    with Store.open(tmp_path / "store", read_only=True) as store:
        assert [each.name for each in store.volumes()] == ["v"]
        assert [entry.name for entry in store.volume("v").readdir(ROOT_INO)] == [b"t"]
        assert fsck.check(store).findings == []
    assert fsck.check_path(tmp_path / "store", data=True).findings == []


def test_a_volume_with_one_damaged_flag_is_not_taken_for_hidden(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        volume = store.create_volume("v")
        volume.record.flags = 2
        volume.store_record()
    with pytest.raises(errors.Corrupt, match="damaged flags"):
        Store.open(tmp_path / "store")
    assert [f.check for f in fsck.check_path(tmp_path / "store").findings] == ["F13"]


def test_the_place_is_looked_at_again_at_the_end(store: Store) -> None:
    volume = store.volume("v")
    top = make(volume)
    for name, error in ((b"taken", errors.AlreadyExists), (b"gone", errors.RametError)):
        parent = volume.mkdir(ROOT_INO, name, 0o755, 0, 0).ino
        before = trace(store)[1:]
        steps = store.tree_clone(volume, top, volume, parent, b"c")
        next(steps)
        if name == b"taken":
            volume.create(parent, b"c", 0o644, 0, 0)
        else:
            volume.rmdir(ROOT_INO, name)
        with pytest.raises(error):
            result(steps)
        assert trace(store)[1] == before[0] + (1 if name == b"taken" else -1)


def test_a_quota_is_kept_and_what_it_stops_is_undone(store: Store) -> None:
    volume, other = store.volume("v"), store.create_volume("w", quota_bytes=20 * BLOCK)
    top = make(volume)
    with pytest.raises(errors.QuotaExceeded):
        result(store.tree_clone(volume, top, other, ROOT_INO, b"c"))
    assert (other.files, other.record.blocks) == (1, 0)


@pytest.mark.parametrize("calls", [0, 1, 2, 5, 9, 12, -1])
def test_a_full_disk_stops_it_and_nothing_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """At so many looks for room; -1: at the last, when all is made and shall appear."""
    volume = store.volume("v")
    top = make(volume)
    store.commit()
    before, check_room = trace(store), Pool.check_room
    left = [calls]

    def full(pool: Pool, pages: int = CALL_PAGES) -> None:
        left[0] -= 1
        if left[0] < 0 and (calls >= 0 or pages == PUBLISH_PAGES):
            raise errors.NoSpace("the disk is full")
        check_room(pool, pages)

    with monkeypatch.context() as patch, pytest.raises(errors.NoSpace):
        patch.setattr(Pool, "check_room", full)
        result(store.tree_clone(volume, top, volume, ROOT_INO, b"c"))
    store.commit()
    assert trace(store) == before
    assert no_garbage(store)


def test_it_goes_on_when_its_source_is_removed(store: Store) -> None:
    volume, other = store.volume("v"), store.create_volume("w")
    top = make(volume)
    snapshot = store.create_snapshot(volume, "s")
    before = content(volume, top)
    steps = store.tree_clone(snapshot, top, other, ROOT_INO, b"c")
    next(steps)
    store.remove_volume("v")
    store.reclaim()
    made = result(steps)
    store.commit()
    store.gc()
    assert content(other, made.inode.ino) == before


def test_it_ends_when_its_target_is_removed(store: Store) -> None:
    volume, other = store.volume("v"), store.create_volume("w")
    steps = store.tree_clone(volume, make(volume), other, ROOT_INO, b"c")
    next(steps)
    store.remove_volume("w")
    with pytest.raises(errors.Stale):
        result(steps)
    store.commit()
    assert no_garbage(store)


def test_no_directory_is_cloned_into_itself(store: Store) -> None:
    volume = store.volume("v")
    top = make(volume)
    with pytest.raises(errors.InvalidArgument):
        result(store.tree_clone(volume, top, volume, volume.lookup(top, b"d0").ino, b"c"))


def test_a_directory_that_is_below_itself_is_corrupt(store: Store) -> None:
    volume = store.volume("v")
    top = make(volume)
    below = volume.lookup(top, b"d0")
    volume._add_entry(below, b"up", volume.directory(top))
    with pytest.raises(errors.Corrupt):
        result(store.tree_clone(volume, top, volume, ROOT_INO, b"c"))
    assert volume.entry(ROOT_INO, b"c") is None
    entry = volume.entry(below.ino, b"up")
    assert entry is not None
    volume._remove_entry(below, entry)  # the store is sound again, as every test has to leave it
    there = volume.inode(top)
    found = volume.entry(ROOT_INO, b"t")
    assert found is not None
    there.parent, there.parent_cookie = ROOT_INO, found.cookie
    volume.touch(there)


class Walk:
    """Clones of directories beside everything else, against plain dicts."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path, self.rng = path, rng
        Store.create(path, fanout=4, records_max=5, slab_slots=64)
        self.store = Store.open(path)
        top = make(self.store.create_volume("v"), files=90)
        self.model = {b"t": content(self.store.volume("v"), top)}
        self.running: dict[bytes, tuple[Steps, Content]] = {}
        self.snapshots: dict[str, dict[bytes, Content]] = {}
        self.store.commit()
        self.durable = (dict(self.model), dict(self.snapshots))
        self.made = self.finished = 0
        self.lost: list[Steps] = []  # of a process that is no more: nothing of them runs

    @property
    def volume(self) -> Volume:
        return self.store.volume("v")

    def step(self) -> None:
        acts = (
            self.begin, *[self.go_on] * 8, self.change, self.remove, self.snapshot,
            self.restore, self.give_up, self.commit, self.crash, self.gc,
        )  # fmt: skip
        self.rng.choice(acts)()

    def begin(self) -> None:
        if len(self.running) < 3:
            self.made += 1
            source, name = self.rng.choice(sorted(self.model)), b"c%d" % self.made
            top = self.volume.lookup(ROOT_INO, source).ino
            steps = self.store.tree_clone(self.volume, top, self.volume, ROOT_INO, name)
            next(steps)
            self.running[name] = (steps, dict(self.model[source]))

    def go_on(self) -> None:
        for name in list(self.running)[:1]:
            steps, wanted = self.running[name]
            for _ in range(self.rng.randrange(4)):
                if next(steps, steps) is steps:
                    del self.running[name]
                    self.model[name] = wanted
                    self.finished += 1
                    return

    def change(self) -> None:
        name = self.rng.choice(sorted(self.model))
        tree = self.model[name] = dict(self.model[name])
        path = self.rng.choice([p for p, data in tree.items() if isinstance(data, bytes)])
        ino = self.volume.resolve(f"/{name.decode()}{path}").ino
        data = self.rng.randbytes(self.rng.randrange(1, 3 * BLOCK))
        kept = tree[path]
        assert isinstance(kept, bytes)
        for each, old in list(tree.items()):  # it may have several names
            if isinstance(old, bytes) and self.volume.resolve(f"/{name.decode()}{each}").ino == ino:
                tree[each] = data + kept[len(data) :]
        self.volume.write(ino, 0, data)

    def remove(self) -> None:
        if len(self.model) > 1:
            name = self.rng.choice(sorted(self.model))
            self.store.remove_tree(self.volume, ROOT_INO, name)
            del self.model[name]

    def snapshot(self) -> None:
        if len(self.snapshots) < 3:
            name = f"s{self.made}-{self.rng.randrange(1 << 30)}"
            self.store.create_snapshot(self.volume, name)
            self.snapshots[name] = dict(self.model)

    def restore(self) -> None:
        if self.snapshots and self.rng.random() < 0.3:
            name = self.rng.choice(sorted(self.snapshots))
            self.store.restore(self.volume, name)
            self.model = dict(self.snapshots[name])
            if self.rng.random() < 0.5:
                self.store.remove_snapshot(self.volume, name)
                del self.snapshots[name]

    def give_up(self) -> None:
        if self.running and self.rng.random() < 0.3:
            name = self.rng.choice(sorted(self.running))
            self.running.pop(name)[0].close()

    def commit(self) -> None:
        self.store.commit()
        self.durable = (dict(self.model), dict(self.snapshots))

    def crash(self) -> None:
        if self.rng.random() < 0.3:
            self.store.abandon()
            self.store = Store.open(self.path)
            self.lost += [steps for steps, _ in self.running.values()]
            self.running = {}
            self.model, self.snapshots = map(dict, self.durable)

    def gc(self) -> None:
        self.store.reclaim()
        self.store.gc()
        self.durable = (dict(self.model), dict(self.snapshots))

    def compare(self) -> None:
        views = [(self.volume, self.model)]
        views += [(self.store.snapshot(self.volume, n), m) for n, m in self.snapshots.items()]
        for view, model in views:
            assert {entry.name for entry in view.readdir(ROOT_INO)} == model.keys()
            for name, wanted in model.items():
                assert content(view, view.lookup(ROOT_INO, name).ino) == wanted
        check(self.store)
        self.durable = (dict(self.model), dict(self.snapshots))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1 << 32))
def test_clones_beside_changes_snapshots_restores_gc_and_crashes(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    walk = Walk(tmp_path_factory.mktemp("walk") / "store", random.Random(seed))
    for n in range(120):
        walk.step()
        if n % 40 == 39:
            walk.compare()
    for steps, _ in walk.running.values():
        steps.close()
    assert no_garbage(walk.store)
    walk.store.close()
