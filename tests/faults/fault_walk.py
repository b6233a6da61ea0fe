"""Every write, sync and allocation of a long day fails once; run under the interposer.

A day is a list of steps on a small store with deep trees: writes of all kinds, clones, snapshots,
a restore, deletes, punches, gc, commits, close.  It is played once for each N, kind and error,
with the N-th such call failing, until N is past the last call.  After each fault:

- the caller got the right error, or the fault was tolerated and nothing was lost;
- a step that failed changed nothing, and its repetition does what it should have done;
- after a failed commit the store takes no writes, says why, syncs nothing again, and still reads;
- reopened, it holds what was acknowledged, or the commit that failed, whole; fsck with all data
  finds nothing, before and after a gc.
"""

import argparse
import copy
import errno
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from injection import ALLOCATE, KINDS, SHORT, SYNC, WRITE, Faults

from engine import ROOT_INO, Store, Volume, errors, fsck
from engine.block_range import BlockRange

BLOCK = 4096
PLANS = [
    (kind, error)
    for kind in ("write", "sync", "allocate")
    for error in (
        (errno.EIO, errno.ENOSPC, SHORT) if kind == "write" else (errno.EIO, errno.ENOSPC)
    )
]
Files = dict[str, bytes]


@dataclass
class State:
    """What a store holds: files by volume, or by ``volume@snapshot``."""

    volumes: dict[str, Files] = field(default_factory=dict)


def block(letter: int, count: int = 1) -> bytes:
    return b"".join(bytes([letter & 255, n & 255, n >> 8]) * 1365 + b"!" for n in range(count))


class World:
    """A store, what it should hold, and what of that is acknowledged."""

    def __init__(self, store: Store, state: State) -> None:
        self.store = store
        self.state = copy.deepcopy(state)
        self.acknowledged = copy.deepcopy(state)

    def volume(self, name: str) -> Volume:
        volume, _, snapshot = name.partition("@")
        found = self.store.volume(volume)
        return self.store.snapshot(found, snapshot) if snapshot else found

    def ino(self, volume: str, name: str) -> int:
        return self.volume(volume).lookup(ROOT_INO, name.encode()).ino

    def check(self, expected: State) -> None:
        found = [str(v) for v in self.store.volumes()]
        found += [str(s) for v in self.store.volumes() for s in self.store.snapshots(v)]
        assert sorted(found) == sorted(expected.volumes), (found, list(expected.volumes))
        for name, files in expected.volumes.items():
            volume = self.volume(name)
            assert sorted(e.name.decode() for e in volume.readdir(ROOT_INO)) == sorted(files)
            for file, content in files.items():
                inode = volume.lookup(ROOT_INO, file.encode())
                assert volume.read(inode.ino, 0, inode.size) == content, (name, file)

    def nothing_lies_past_an_end(self) -> None:
        for volume in self.store.volumes():
            for entry in volume.readdir(ROOT_INO):
                inode = volume.inode(entry.ino)
                end = -(-inode.size // BLOCK)
                found = self.store.pool.core.next_data(volume.data_tree(inode), end)
                assert found is None, (str(volume), entry.name, end, found)

    # --- what can be done; the state changes when the store has

    def write(self, volume: str, name: str, offset: int, data: bytes) -> None:
        files = self.state.volumes[volume]
        if name not in files:
            self.volume(volume).create(ROOT_INO, name.encode(), 0o644, 0, 0)
            files[name] = b""
        self.volume(volume).write(self.ino(volume, name), offset, data)
        old = files[name].ljust(offset, b"\0")
        files[name] = old[:offset] + data + old[offset + len(data) :]

    def truncate(self, volume: str, name: str, size: int) -> None:
        self.volume(volume).setattr(self.ino(volume, name), size=size)
        self.state.volumes[volume][name] = self.state.volumes[volume][name][:size].ljust(
            size, b"\0"
        )

    def punch(self, volume: str, name: str, offset: int, length: int) -> None:
        self.volume(volume).punch(self.ino(volume, name), offset, length)
        old = self.state.volumes[volume][name]
        self.state.volumes[volume][name] = old[:offset] + bytes(length) + old[offset + length :]

    def unlink(self, volume: str, name: str) -> None:
        self.volume(volume).unlink(ROOT_INO, name.encode())
        del self.state.volumes[volume][name]

    def clone(self, volume: str, name: str, into: str, new: str) -> None:
        self.store.clone_file(
            self.volume(volume), self.ino(volume, name), self.volume(into), ROOT_INO, new.encode()
        )
        self.state.volumes[into][new] = self.state.volumes[volume][name]

    def clone_range(self, name: str, start: int, into: str, to: int, length: int) -> None:
        lab, files = self.volume("lab"), self.state.volumes["lab"]
        self.store.clone_range(
            lab, self.ino("lab", name), start, lab, self.ino("lab", into), to, length
        )
        old, new = files[into].ljust(to, b"\0"), files[name][start : start + length]
        files[into] = old[:to] + new + old[to + length :]

    def clone_ranges(self, name: str, into: str, *ranges: BlockRange) -> None:
        """None of the ranges overlaps another, so plain slices are a model of it."""
        lab, files = self.volume("lab"), self.state.volumes["lab"]
        self.store.clone_ranges(lab, self.ino("lab", name), lab, self.ino("lab", into), ranges)
        made = bytearray(files[into])
        for first, at, count in ranges:
            data = files[name][first * BLOCK : (first + count) * BLOCK]
            made[at * BLOCK : (at + count) * BLOCK] = data.ljust(count * BLOCK, b"\0")
        files[into] = bytes(made[: len(files[into])])

    def clone_volume(self, source: str, name: str) -> None:
        self.store.clone_volume(self.volume(source), name)
        self.state.volumes[name] = dict(self.state.volumes[source])

    def snapshot(self, name: str) -> None:
        self.store.create_snapshot(self.volume("lab"), name)
        self.state.volumes[f"lab@{name}"] = dict(self.state.volumes["lab"])

    def restore(self, name: str) -> None:
        self.store.restore(self.volume("lab"), name)
        self.state.volumes["lab"] = dict(self.state.volumes[f"lab@{name}"])

    def remove_snapshot(self, name: str) -> None:
        self.store.remove_snapshot(self.volume("lab"), name)
        del self.state.volumes[f"lab@{name}"]

    def remove_volume(self, name: str) -> None:
        self.store.remove_volume(name)
        del self.state.volumes[name]

    def commit(self) -> None:
        self.store.commit()
        self.acknowledged = copy.deepcopy(self.state)

    def sync(self) -> None:
        self.store.sync()
        self.acknowledged = copy.deepcopy(self.state)

    def gc(self) -> None:
        self.store.gc()
        self.acknowledged = copy.deepcopy(self.state)

    def close(self) -> None:
        self.store.close()
        self.acknowledged = copy.deepcopy(self.state)


Step = Callable[[World], None]


@dataclass
class Day:
    """Steps, and which of them a fault may leave half done (until they are repeated)."""

    steps: list[Step] = field(default_factory=list)
    in_parts: set[int] = field(default_factory=set)

    def add(self, method: str, *arguments: object, parts: bool = False) -> None:
        if parts:
            self.in_parts.add(len(self.steps))
        self.steps.append(lambda world: getattr(world, method)(*arguments))


def the_day() -> Day:
    day = Day()
    add = day.add
    add("write", "lab", "fresh", 0, block(1, 20))
    add("write", "lab", "dup", 0, block(1, 20))
    add("commit")
    add("write", "lab", "fresh", 8 * BLOCK, block(2, 4))  # overwrites owned blocks
    add("write", "lab", "fresh", 100, b"patched" * 300)
    add("sync")
    add("write", "lab", "long", 5, block(3, 90), parts=True)
    add("write", "lab", "long", 9, block(3, 2), parts=True)
    add("sync")
    add("commit")
    add("write", "lab", "long", 5, block(3, 90), parts=True)
    add("sync")
    add("clone", "lab", "long", "lab", "twin")
    add("write", "lab", "twin", 40 * BLOCK, block(4, 3))
    add("snapshot", "s1")
    add("write", "lab", "long", 10 * BLOCK, block(5, 6))
    add("clone_range", "long", 0, "fresh", 64 * BLOCK, 16 * BLOCK)
    add("clone_range", "long", 100, "fresh", 7 * BLOCK, 900, parts=True)
    add("commit")
    last = len(block(3, 90)) // BLOCK  # where "long" ends inside a block
    add("clone_ranges", "long", "long", BlockRange(4, 30, 9), BlockRange(60, last, 1))
    add("clone_ranges", "long", "fresh", BlockRange(16, 0, 16), BlockRange(41, 18, 5))
    add("commit")
    add("truncate", "lab", "long", 70 * BLOCK + 9, parts=True)
    add("punch", "lab", "twin", 3 * BLOCK + 1, 5 * BLOCK, parts=True)
    add("unlink", "lab", "dup")
    add("commit")
    add("clone_volume", "lab@s1", "second")
    add("write", "second", "twin", 0, block(6, 8))
    add("restore", "s1")
    add("commit")
    add("remove_snapshot", "s1")
    add("remove_volume", "second")
    add("gc", parts=True)
    add("write", "lab", "again", 0, block(7, 30))
    add("commit")
    add("write", "lab", "last", 0, block(8, 5))
    add("close")
    return day


def random_day(rng: random.Random) -> Day:
    """Steps of the same kinds in any order that makes sense."""
    day = Day()
    files = {"base", "golden"}
    snapshots: set[str] = set()
    for n in range(rng.randrange(6, 30)):
        name, at = rng.choice(sorted(files)), rng.randrange(60 * BLOCK)
        pick = rng.randrange(10)
        if pick < 4:
            data = block(rng.randrange(12), rng.randrange(1, 50))[rng.randrange(BLOCK) :]
            day.add("write", "lab", rng.choice([name, f"f{n}"]), at, data, parts=True)
        elif pick == 4:
            day.add("clone", "lab", name, "lab", f"c{n}")
            files.add(f"c{n}")
        elif pick == 5:
            day.add("truncate", "lab", name, at, parts=True)
        elif pick == 6 and not snapshots:
            day.add("snapshot", f"s{n}")
            snapshots.add(f"s{n}")
        elif pick == 6:
            day.add("remove_snapshot", snapshots.pop())
        elif pick == 7 and len(files) > 1:
            day.add("unlink", "lab", name)
            files.discard(name)
        elif pick == 8:
            day.add("gc", parts=True)
        else:
            day.add(rng.choice(["commit", "sync"]))
    day.add("close")
    return day


def make_template(path: Path) -> State:
    """A store as a crash leaves it: an orphan to empty, a reclaim queue to work off."""
    Store.create(path, fanout=4, records_max=4, slab_slots=64)
    with Store.open(path) as store:
        store.create_volume("lab")
    store = Store.open(path)
    world = World(store, State({"lab": {}}))
    for name in ("base", "golden", "gone"):
        world.write("lab", name, 0, block(len(name), 24))
    world.clone("lab", "base", "lab", "base-clone")
    world.volume("lab").hold(world.ino("lab", "gone"))
    world.unlink("lab", "gone")
    world.commit()
    store.abandon()
    return world.state


def fresh_copy(template: Path, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(template, path)


def reopen(path: Path, candidates: list[State]) -> None:
    """The store holds one of these, whole, and fsck finds nothing before and after a gc."""
    world = World(Store.open(path), candidates[0])
    try:
        world.check(candidates[0])
    except AssertionError:
        world.check(candidates[1])
    for _ in range(2):
        report = fsck.check(world.store, data=True)
        assert report.findings == [], report.findings
        world.store.gc()
    assert report.garbage_slots == 0 or fsck.check(world.store).garbage_slots == 0
    world.store.close()


class Walk:
    """Plays days with faults in them."""

    def __init__(self, root: Path) -> None:
        self.faults = Faults()
        self.root = root
        self.points = self.failures = self.tolerated = self.stores_failed = 0
        self.template = root / "template"
        self.start = make_template(self.template)

    # --- one point

    def play(self, day: Day, kind: int, nth: int, error: int) -> bool:
        """Play a day with one fault; False when the day has no such call."""
        path = self.root / "store"
        fresh_copy(self.template, path)
        self.faults.arm(kind, path, nth, error)
        world = self.open(path)
        fired = False
        for number, step in enumerate(day.steps):
            failed = self.attempt(world, step, kind, error)
            fired = self.faults.fired
            if world.store.failed is not None:
                if number < len(day.steps) - 1:  # the last is close
                    self.after_a_failed_commit(world)
                break
            if failed:
                self.faults.disarm()
                world.nothing_lies_past_an_end()
                if number not in day.in_parts:
                    world.check(world.state)
                step(world)
        self.faults.disarm()
        candidates = [world.acknowledged, world.state]
        world.store.abandon()
        reopen(path, candidates)
        self.points += fired
        return fired

    def open(self, path: Path) -> World:
        try:
            return World(Store.open(path), self.start)
        except (OSError, errors.NoSpace, errors.StoreFailed):
            self.failures += 1
            return World(Store.open(path), self.start)  # the fault was a single one

    def attempt(self, world: World, step: Step, kind: int, error: int) -> bool:
        """Whether the step failed; then with an error of the right kind."""
        had_fired = self.faults.fired
        try:
            step(world)
        except (errors.RametError, OSError) as raised:
            assert self.faults.fired, repr(raised)
            assert not had_fired, repr(raised)
            self.failures += 1
            self.check_error(raised, world.store, kind, error)
            return True
        if self.faults.fired and not had_fired:
            log = world.store.log  # what fails while it is made is what nobody relies on
            assert kind != SYNC or (log.wanted and not log.ready), "a failed sync went unnoticed"
            self.tolerated += 1
        return False

    @staticmethod
    def check_error(raised: Exception, store: Store, kind: int, error: int) -> None:
        if error == errno.ENOSPC:
            assert isinstance(raised, errors.NoSpace), repr(raised)
        elif store.failed is not None:  # a short write of LMDB is an EIO
            assert isinstance(raised, errors.StoreFailed), repr(raised)
        else:
            assert isinstance(raised, OSError), repr(raised)
            assert raised.errno == errno.EIO, repr(raised)
        if kind == SYNC:
            assert store.failed is not None, "a failed sync must stop the store"

    def after_a_failed_commit(self, world: World) -> None:
        """No writes, no second sync, and all that was there can be read."""
        self.stores_failed += 1
        store = world.store
        self.faults.count(SYNC | WRITE | ALLOCATE, store.path)
        assert "failed" in (store.failed or "")
        for attempt in (
            lambda: world.write("lab", "base", 0, b"x"), lambda: world.unlink("lab", "base"),
            store.commit, store.gc, lambda: store.create_volume("new"),
        ):  # fmt: skip
            try:
                attempt()
            except errors.StoreFailed:
                continue
            raise AssertionError("a failed store took a change")
        store.pool.core.forget()
        world.check(world.state)
        store.close()
        assert self.faults.calls == 0, "a failed store wrote or synced"

    # --- all points

    def every_nth(self, day: Day, stride: int, offset: int) -> dict[str, int]:
        """All N (of each ``stride``) for all kinds; returns how many calls there are of each."""
        calls = {}
        for kind, error in PLANS:
            nth = 1 + offset % stride
            try:
                while self.play(day, KINDS[kind], nth, error):
                    nth += stride
            except BaseException:
                print(f"kind={kind} error={error} nth={nth}", file=sys.stderr)
                raise
            calls[kind] = nth - 1
        return calls

    def at_random(self, seed: int, days: int) -> None:
        for number in range(days):
            rng = random.Random(f"{seed}-{number}")
            day = random_day(rng)
            kind, error = rng.choice(PLANS)
            nth = rng.randrange(1, 60)
            try:
                self.play(day, KINDS[kind], nth, error)
            except BaseException:
                print(f"day={seed}-{number} {kind} {error} {nth}", file=sys.stderr)
                raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=0)
    told = parser.parse_args()
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=base, prefix="ramet-faults-") as root:
        walk = Walk(Path(root))
        calls = walk.every_nth(the_day(), told.stride, told.seed)
        walk.at_random(told.seed, told.days)
    print(json.dumps({
        "points": walk.points, "calls": calls, "errors": walk.failures,
        "tolerated": walk.tolerated, "stores_failed": walk.stores_failed, "days": told.days,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
