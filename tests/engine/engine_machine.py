"""The engine against a dict of bytes: every operation, in any order, with crashes in between.

Trees have a fan-out of four and slabs 64 slots, so a few dozen blocks make deep trees, many slabs
and much reuse.  A crash reopens the store from its last durable commit; the model goes back to the
copy it made at that capture.
"""

import copy
import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine import ROOT_INO, Store, Volume, errors, fsck
from engine.block_range import BlockRange
from engine.cold import Reading
from engine.commit import Commit
from engine.gc import Gc
from engine.trim import Run, Trim

BLOCK = 4096
FILE_BLOCKS = 80
LOG_BYTES = 4 << 20
NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"])
VOLUMES = st.sampled_from(["v1", "v2", "v3"])
SNAPSHOTS = st.sampled_from(["s1", "s2"])
OFFSETS = st.one_of(
    st.integers(0, FILE_BLOCKS).map(lambda b: b * BLOCK),
    st.integers(0, FILE_BLOCKS * BLOCK),
)
LENGTHS = st.one_of(
    st.integers(1, 24).map(lambda b: b * BLOCK),
    st.integers(1, 6 * BLOCK),
)
RANGES = st.lists(
    st.builds(
        BlockRange, st.integers(0, FILE_BLOCKS), st.integers(0, FILE_BLOCKS), st.integers(1, 24)
    ),
    min_size=1, max_size=5,
)  # fmt: skip
FILLS = st.integers(0, 5)  # few different blocks: much dedup; 0 is the zero block

Files = dict[bytes, bytearray]


class Model:
    """What the store should hold."""

    def __init__(self) -> None:
        self.volumes: dict[str, Files] = {"v1": {}}
        self.snapshots: dict[tuple[str, str], Files] = {}
        self.open: dict[int, tuple[str, int, bytearray]] = {}  # handle -> volume, ino, content


def fill(kind: int, length: int, offset: int) -> bytes:
    """Bytes that depend on the offset in a block only, so equal blocks come up often."""
    if kind == 0:
        return bytes(length)
    block = bytes((kind * 31 + i // 97) & 0xFF for i in range(BLOCK))
    start = offset % BLOCK
    return (block * (length // BLOCK + 2))[start : start + length]


def clone_blocks(
    content: bytearray, source: bytes, ranges: list[BlockRange], *, extend: bool
) -> bytearray | None:
    """What clone_ranges makes of a file; None: it has to refuse."""
    past, made = bytes(source), bytearray(content)
    room = -(-len(content) // BLOCK) * BLOCK
    end = len(content)
    for first, at, count in ranges:
        if (first + count) * BLOCK > len(past) + -len(past) % BLOCK:
            return None
        if (at + count) * BLOCK > room and not extend:
            return None
        if extend:
            end = max(end, at * BLOCK + min(count * BLOCK, len(past) - first * BLOCK))
        data = past[first * BLOCK : (first + count) * BLOCK].ljust(count * BLOCK, b"\0")
        made.extend(bytes(max(at * BLOCK + len(data) - len(made), 0)))
        made[at * BLOCK : at * BLOCK + len(data)] = data
    return made[:end]


class EngineMachine(RuleBasedStateMachine):
    base: Path | None = None  # where its store is made

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="ramet-model-", dir=self.base))
        shutil.rmtree(self.path)
        Store.create(self.path, fanout=4, records_max=4, slab_slots=64)
        self.store = self.reopened()
        self.store.create_volume("v1")
        self.model = Model()
        self.commit: Commit | None = None
        self.captured: Model | None = None
        self.gc: Gc | None = None
        self.gc_commit: Commit | None = None
        self.gc_stage = ""
        self.trimming: list[Run] = []
        self.reading: list[tuple[Reading, bytes]] = []  # begun, and what it has to find
        self.handles = 0
        self.store.commit()
        self.durable = copy.deepcopy(self.model)

    # --- helpers

    def reopened(self) -> Store:
        return Store.open(self.path, log_bytes=LOG_BYTES)

    def volume(self, name: str) -> Volume:
        return self.store.volume(name)

    def ino(self, volume: str, name: bytes) -> int:
        return self.volume(volume).lookup(ROOT_INO, name).ino

    def put(self, content: bytearray, offset: int, data: bytes) -> None:
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    # --- files

    @rule(volume=VOLUMES, name=NAMES, offset=OFFSETS, length=LENGTHS, kind=FILLS)
    def write(self, volume: str, name: bytes, offset: int, length: int, kind: int) -> None:
        if volume not in self.model.volumes:
            return
        files = self.model.volumes[volume]
        target = self.volume(volume)
        if name not in files:
            target.create(ROOT_INO, name, 0o644, 0, 0)
            files[name] = bytearray()
        data = fill(kind, length, offset)
        target.write(self.ino(volume, name), offset, data)
        self.put(files[name], offset, data)

    @rule(volume=VOLUMES, name=NAMES, size=OFFSETS)
    def truncate(self, volume: str, name: bytes, size: int) -> None:
        content = self.model.volumes.get(volume, {}).get(name)
        if content is None:
            return
        self.volume(volume).setattr(self.ino(volume, name), size=size)
        if size < len(content):
            del content[size:]
        else:
            content.extend(bytes(size - len(content)))

    @rule(volume=VOLUMES, name=NAMES, offset=OFFSETS, length=LENGTHS)
    def punch(self, volume: str, name: bytes, offset: int, length: int) -> None:
        content = self.model.volumes.get(volume, {}).get(name)
        if content is None:
            return
        self.volume(volume).punch(self.ino(volume, name), offset, length)
        end = min(offset + length, len(content))
        if offset < end:
            content[offset:end] = bytes(end - offset)

    @rule(volume=VOLUMES, name=NAMES)
    def unlink(self, volume: str, name: bytes) -> None:
        if self.model.volumes.get(volume, {}).pop(name, None) is not None:
            self.volume(volume).unlink(ROOT_INO, name)

    @rule(volume=VOLUMES, old=NAMES, new=NAMES)
    def rename(self, volume: str, old: bytes, new: bytes) -> None:
        files = self.model.volumes.get(volume, {})
        if old not in files:
            return
        self.volume(volume).rename(ROOT_INO, old, ROOT_INO, new)
        files[new] = files.pop(old)

    @rule(volume=VOLUMES, name=NAMES)
    def open_file(self, volume: str, name: bytes) -> None:
        content = self.model.volumes.get(volume, {}).get(name)
        if content is None or len(self.model.open) > 3:
            return
        ino = self.ino(volume, name)
        self.volume(volume).hold(ino)
        self.handles += 1
        self.model.open[self.handles] = (volume, ino, content)

    @precondition(lambda self: self.model.open)
    @rule(offset=OFFSETS, length=LENGTHS, kind=FILLS, pick=st.integers(0, 9))
    def write_open(self, offset: int, length: int, kind: int, pick: int) -> None:
        handle = sorted(self.model.open)[pick % len(self.model.open)]
        volume, ino, content = self.model.open[handle]
        payload = fill(kind, length, offset)
        self.volume(volume).write(ino, offset, payload)
        self.put(content, offset, payload)

    @precondition(lambda self: self.model.open)
    @rule(pick=st.integers(0, 9))
    def close_file(self, pick: int) -> None:
        handle = sorted(self.model.open)[pick % len(self.model.open)]
        volume, ino, content = self.model.open.pop(handle)
        target = self.volume(volume)
        assert target.read(ino, 0, 1 << 30) == content
        target.release(ino)

    # --- reads that a thread finishes, with anything else in between

    @precondition(lambda self: len(self.reading) < 3)
    @rule(volume=VOLUMES, name=NAMES, offset=OFFSETS, length=LENGTHS)
    def begin_read(self, volume: str, name: bytes, offset: int, length: int) -> None:
        content = self.model.volumes.get(volume, {}).get(name)
        if content is None:
            return
        buffer = memoryview(bytearray(length))
        reading = Reading(
            self.store, self.volume(volume), self.ino(volume, name), offset, buffer, wait=True
        )
        self.reading.append((reading, bytes(content[offset : offset + length])))

    @precondition(lambda self: self.reading)
    @rule(pick=st.integers(0, 9))
    def finish_read(self, pick: int) -> None:
        reading, expected = self.reading.pop(pick % len(self.reading))
        reading.fetch()
        reading.end()
        assert reading.result() == expected

    # --- clones

    @rule(source=VOLUMES, name=NAMES, into=VOLUMES, new=NAMES)
    def clone_file(self, source: str, name: bytes, into: str, new: bytes) -> None:
        files = self.model.volumes
        if name not in files.get(source, {}) or into not in files or (source, name) == (
            into, new,
        ):  # fmt: skip
            return
        self.store.clone_file(
            self.volume(source), self.ino(source, name), self.volume(into), ROOT_INO, new,
            replace=True,
        )  # fmt: skip
        files[into][new] = bytearray(files[source][name])

    @rule(volume=VOLUMES, snap=SNAPSHOTS, name=NAMES, new=NAMES)
    def clone_from_snapshot(self, volume: str, snap: str, name: bytes, new: bytes) -> None:
        past = self.model.snapshots.get((volume, snap), {})
        if name not in past:
            return
        live = self.volume(volume)
        snapshot = self.store.snapshot(live, snap)
        ino = snapshot.lookup(ROOT_INO, name).ino
        self.store.clone_file(snapshot, ino, live, ROOT_INO, new, replace=True)
        self.model.volumes[volume][new] = bytearray(past[name])

    @rule(source=VOLUMES, name=NAMES, into=VOLUMES, new=NAMES, start=OFFSETS, length=LENGTHS,
          to=OFFSETS)  # fmt: skip
    def clone_range(
        self, source: str, name: bytes, into: str, new: bytes, start: int, length: int, to: int
    ) -> None:
        files = self.model.volumes
        if name not in files.get(source, {}) or new not in files.get(into, {}):
            return
        content = files[source][name]
        length = max(min(length, len(content) - start), 0)
        one_file = (source, name) == (into, new)
        if one_file and abs(start - to) < length:
            return
        done = self.store.clone_range(
            self.volume(source), self.ino(source, name), start,
            self.volume(into), self.ino(into, new), to, length,
        )  # fmt: skip
        assert done == length
        if length:
            self.put(files[into][new], to, bytes(content[start : start + length]))

    @rule(source=VOLUMES, name=NAMES, into=VOLUMES, new=NAMES, ranges=RANGES, extend=st.booleans())
    def clone_ranges(
        self, source: str, name: bytes, into: str, new: bytes, ranges: list[BlockRange],
        extend: bool,
    ) -> None:  # fmt: skip
        files = self.model.volumes
        if name not in files.get(source, {}) or new not in files.get(into, {}):
            return
        expected = clone_blocks(files[into][new], files[source][name], ranges, extend=extend)
        try:
            done = self.store.clone_ranges(
                self.volume(source), self.ino(source, name), self.volume(into),
                self.ino(into, new), ranges, extend=extend,
            )  # fmt: skip
        except errors.InvalidArgument:
            assert expected is None
            return
        assert expected is not None
        assert done == sum(each.count for each in ranges)
        files[into][new][:] = expected

    @rule(source=VOLUMES, into=VOLUMES)
    def clone_volume(self, source: str, into: str) -> None:
        files = self.model.volumes
        if source in files and into not in files:
            self.store.clone_volume(self.volume(source), into)
            files[into] = copy.deepcopy(files[source])

    @rule(volume=VOLUMES)
    def remove_volume(self, volume: str) -> None:
        if len(self.model.volumes) < 2 or volume not in self.model.volumes:
            return
        if any(v == volume for v, _, _ in self.model.open.values()):
            return
        self.store.remove_volume(volume)
        del self.model.volumes[volume]
        for key in [k for k in self.model.snapshots if k[0] == volume]:
            del self.model.snapshots[key]

    @rule(volume=VOLUMES, snap=SNAPSHOTS)
    def snapshot(self, volume: str, snap: str) -> None:
        if volume in self.model.volumes and (volume, snap) not in self.model.snapshots:
            self.store.create_snapshot(self.volume(volume), snap)
            self.model.snapshots[volume, snap] = copy.deepcopy(self.model.volumes[volume])

    @rule(volume=VOLUMES, snap=SNAPSHOTS)
    def remove_snapshot(self, volume: str, snap: str) -> None:
        if self.model.snapshots.pop((volume, snap), None) is not None:
            self.store.remove_snapshot(self.volume(volume), snap)

    @rule(volume=VOLUMES, snap=SNAPSHOTS, force=st.booleans())
    def restore(self, volume: str, snap: str, force: bool) -> None:
        past = self.model.snapshots.get((volume, snap))
        if past is None:
            return
        held = [h for h, (v, _, _) in self.model.open.items() if v == volume]
        if held and not force:
            try:
                self.store.restore(self.volume(volume), snap)
            except errors.Busy:
                return
            raise AssertionError("restore with open files was not refused")
        self.store.restore(self.volume(volume), snap, force=force)
        for handle in held:
            del self.model.open[handle]
        self.model.volumes[volume] = copy.deepcopy(past)

    # --- commit, gc, crash

    @precondition(lambda self: self.commit is None)
    @rule()
    def capture(self) -> None:
        self.commit = self.store.capture()
        self.captured = copy.deepcopy(self.model)

    @precondition(lambda self: self.commit is not None and not self.commit.durable)
    @rule()
    def write_commit(self) -> None:
        assert self.commit is not None and self.captured is not None
        self.commit.write()
        self.durable = self.captured

    @precondition(lambda self: self.commit is not None and self.commit.durable)
    @rule()
    def finish_commit(self) -> None:
        assert self.commit is not None
        self.store.finish(self.commit)
        if self.commit is self.gc_commit:
            assert self.gc is not None
            self.gc.open()
            self.gc_stage = "mark"
        self.commit = None

    @precondition(lambda self: self.commit is None or self.store.loggable)
    @rule()
    def sync(self) -> None:
        """By the log or by a commit; beside a commit that is under way, by the log only."""
        if self.commit is None:
            self.store.sync()
        elif not self.store.sync_by_log():
            return
        self.durable = copy.deepcopy(self.model)
        if self.commit is not None:
            self.captured = self.durable

    @precondition(lambda self: self.commit is None and self.gc is None)
    @rule()
    def gc_start(self) -> None:
        self.gc, self.commit = self.store.start_gc()
        self.gc_commit, self.gc_stage = self.commit, "wait"
        self.captured = copy.deepcopy(self.model)

    @precondition(lambda self: self.gc_stage == "mark")
    @rule(nodes=st.integers(1, 30))
    def gc_mark(self, nodes: int) -> None:
        assert self.gc is not None
        if self.gc.mark(nodes):
            self.gc_stage = "sweep"

    @precondition(lambda self: self.gc_stage == "sweep")
    @rule()
    def gc_sweep(self) -> None:
        assert self.gc is not None
        if self.gc.sweep():
            self.gc, self.gc_commit, self.gc_stage = None, None, ""

    @rule(steps=st.integers(1, 9))
    def reclaim(self, steps: int) -> None:
        for _ in range(steps):
            self.store.pool.reclaim.step(0)

    @precondition(lambda self: not self.trimming)
    @rule()
    def trim_take(self) -> None:
        self.trim = Trim(self.store.pool, run_min=2)
        self.trimming = self.trim.take()

    @precondition(lambda self: self.trimming)
    @rule()
    def trim_punch(self) -> None:
        self.trim.punch(self.trimming)
        self.trim.give(self.trimming, punched=True)
        self.trimming = []

    @precondition(lambda self: self.commit is None and self.gc is None)
    @rule()
    def gc_whole(self) -> None:
        self.store.gc()
        self.durable = copy.deepcopy(self.model)

    @rule(clean=st.booleans())
    def crash(self, clean: bool) -> None:
        if clean:
            while self.reading:
                self.finish_read(0)
        self.reading.clear()
        if clean and self.commit is None:
            if self.gc is not None:
                self.gc.close()
            self.store.close()
            self.durable = copy.deepcopy(self.model)
        else:
            if self.gc is not None:
                self.gc.close()
            self.store.abandon()
        self.commit = self.gc = self.gc_commit = self.captured = None
        self.gc_stage, self.trimming = "", []
        self.store = self.reopened()
        self.model = copy.deepcopy(self.durable)
        self.model.open.clear()
        self.durable.open.clear()
        self.check_contents()

    @rule()
    def forget_caches(self) -> None:
        self.store.pool.core.forget()
        nodes = self.store.pool.nodes
        nodes._limit, limit = 0, nodes._limit
        while nodes.crowded:
            nodes.evict(8)
        nodes._limit = limit
        for volume in self.store.volumes():
            volume.drop_caches()

    @rule()
    def check_contents(self) -> None:
        assert [v.name for v in self.store.volumes()] == sorted(self.model.volumes)
        for name, files in self.model.volumes.items():
            self.check_volume(self.volume(name), files)
        for (name, snap), files in self.model.snapshots.items():
            self.check_volume(self.store.snapshot(self.volume(name), snap), files)
        for volume, ino, content in self.model.open.values():
            assert self.volume(volume).read(ino, 0, 1 << 30) == content

    def check_volume(self, volume: Volume, files: Files) -> None:
        found = {e.name: e.ino for e in volume.readdir(ROOT_INO)}
        assert found.keys() == files.keys()
        for name, content in files.items():
            inode = volume.inode(found[name])
            assert inode.size == len(content)
            assert volume.read(inode.ino, 0, 1 << 30) == content, (str(volume), name)
        assert volume.logical_bytes == sum(map(len, files.values()))

    @invariant()
    def slots_are_accounted_for(self) -> None:
        core = self.store.pool.core
        total = self.store.pool.state.slabs * 64
        assert core.allocated_slots + core.pending_slots + core.free_slots == total

    def teardown(self) -> None:
        try:
            self.check_contents()
            if self.gc is not None:
                self.gc.close()
            self.store.abandon()
            with Store.open(self.path) as store:
                self.store = store
                self.model = self.durable
                self.model.open.clear()
                self.check_contents()
                assert fsck.check(store, data=True).findings == []
                store.gc()
                report = fsck.check(store, data=True)
                assert report.findings == []
                assert report.garbage_slots == 0
        finally:
            shutil.rmtree(self.path)
