"""Every allocation of the C core fails once, under ASan and UBSan; run by test_allocations.py.

A workload that calls every function of the core is played once for each N with the N-th malloc,
calloc or realloc failing.  The call that met it says MemoryError and has changed nothing that can
be read; repeated, it does what it should have done.  `--engine` plays the day of fault_walk.py,
on a whole store, in the same way.
"""

import argparse
import contextlib
import json
import os
import random
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sanitized import ALLOCATIONS, RECORDER

import native  # isort: skip - after sanitized, which says which core it is
from native import audit, fingerprints  # isort: skip
from fault_walk import State, World, fresh_copy, make_template, reopen, the_day

from engine import Store

T = TypeVar("T")


BLOCK = 4096
SLOTS = 128
SPAN = 220
ZERO = bytes(BLOCK)
BASE = "/dev/shm" if Path("/dev/shm").is_dir() else None


def opened(file: Path) -> int:
    return os.open(file, os.O_RDONLY)


def content(letter: int) -> bytes:
    return letter.to_bytes(2, "little") * (BLOCK // 2)


class CoreDay:
    """One core, its nodes in a dict, its files as lists of blocks."""

    def __init__(self, files: list[int]) -> None:
        self.files = files
        self.nodes: dict[int, bytes] = {}
        self.chunks: dict[tuple[int, int], bytes] = {}
        self.models: dict[str, dict[int, bytes]] = {"a": {}, "b": {}, "c": {}}
        self.trees = {name: native.Tree() for name in self.models}
        self.cuts: list[native.Cut] = []
        self.slabs = 0
        self.core = self.whole(
            lambda: native.Core(
                hash_seed=9, load_node=self.nodes.__getitem__, fanout=4, slab_slots=SLOTS,
                cache_nodes=64, index_entries=1 << 10,
            ), check=False,
        )  # fmt: skip
        self.epoch = self.core.epoch = 1

    def whole(self, call: Callable[[], T], *, check: bool = True) -> T:
        """Do it; if memory fails, see that nothing has changed and do it again."""
        try:
            return call()
        except MemoryError:
            assert ALLOCATIONS.failed
            if check:
                self.check()
            return call()

    def check(self) -> None:
        for name, model in self.models.items():
            found = bytearray(SPAN * BLOCK)
            tree = self.trees[name]
            self.whole(lambda: self.core.read_into(tree, 0, found), check=False)  # noqa: B023
            for n in range(SPAN):
                assert found[n * BLOCK : (n + 1) * BLOCK] == model.get(n, ZERO), (name, n)

    def write(self, name: str, first: int, letters: list[int]) -> None:
        data = b"".join(content(letter) for letter in letters)
        while True:
            try:
                self.whole(lambda: self.core.write(self.trees[name], first, data))
            except native.NeedSlab:
                fd = self.files[self.slabs]
                self.whole(lambda: self.core.add_slab(self.slabs, fd))  # noqa: B023
                self.slabs += 1
                continue
            break
        for n, letter in enumerate(letters):
            self.models[name][first + n] = content(letter)

    def punch(self, name: str, first: int, count: int) -> None:
        """In steps: after a failure a part is done, so only the end is checked."""
        self.whole(lambda: self.core.punch(self.trees[name], first, count), check=False)
        for n in range(first, first + count):
            self.models[name].pop(n, None)
        self.cuts += self.core.take_cuts()
        self.check()

    def clone(self, name: str, twin: str) -> None:
        tree = self.trees[name]
        tree.shared_epoch = self.epoch
        self.trees[twin] = native.Tree(tree.root, tree.height, tree.blocks, self.epoch)
        self.models[twin] = dict(self.models[name])
        self.epoch += 1
        self.core.epoch = self.epoch

    def share(self, into: str, to: int, name: str, first: int, count: int) -> None:
        for tree in (self.trees[into], self.trees[name]):
            tree.shared_epoch = self.epoch
        self.epoch += 1
        self.core.epoch = self.epoch
        self.whole(
            lambda: self.core.share(self.trees[into], to, self.trees[name], first, count),
            check=False,
        )
        for n in range(count):
            found = self.models[name].get(first + n)
            if found is None:
                self.models[into].pop(to + n, None)
            else:
                self.models[into][to + n] = found
        self.cuts += self.core.take_cuts()
        self.check()

    def commit(self) -> None:
        sealed = self.whole(self.core.seal)
        self.nodes.update((number, bytes(data)) for number, data in sealed.nodes())
        self.chunks |= {(slab, chunk): bits for slab, chunk, bits in sealed.chunks()}
        self.core.release(sealed)
        self.core.release_freed(sealed)
        self.core.forget()

    def reclaim(self) -> None:
        while self.cuts:
            cut = self.cuts.pop()
            dead, children = self.whole(lambda: self.core.reclaim(cut))  # noqa: B023
            self.cuts += children
            if dead:
                self.core.drop_node(cut.node_id)
        self.check()

    def gc(self) -> None:
        self.whole(self.core.gc_arm)
        self.commit()
        marks = self.whole(self.core.gc_marks)
        try:
            ids = sorted(self.nodes)
            packed = b"".join(number.to_bytes(8, sys.byteorder) for number in ids)
            self.whole(lambda: marks.add_ids(packed), check=False)
            assert RECORDER.rmt_gc_ids(marks.c) == len(ids)
            pending = [t.root for t in self.trees.values() if t.root and marks.see(t.root)]
            while pending:
                portion, pending = pending[:8], pending[8:]
                nodes = [(number, memoryview(self.nodes[number])) for number in portion]
                pending += self.whole(lambda: marks.visit(nodes), check=False)  # noqa: B023
            for slab in range(self.slabs):
                word: int | None = 0
                while word is not None:
                    _, word = self.whole(
                        lambda: self.core.gc_sweep(marks, slab, word, 16)  # noqa: B023
                    )
            for found in marks.unseen():
                for number in found:
                    self.core.drop_node(number)
                    del self.nodes[number]
            assert marks.entries > 0
        finally:
            marks.close()
            self.core.gc_disarm()
        self.commit()
        self.check()

    def account(self) -> None:
        """A pass that fails is thrown away, and changes nothing."""
        expected = sum(tree.blocks > 0 for tree in self.trees.values())
        sums, files = self.whole(self.one_pass)
        assert len(files) == expected
        assert sums[1] >= sum(sums[owner] for owner in files) > 0

    def one_pass(self) -> tuple[list[int], list[int]]:
        owners, files = self.core.owners(), []
        try:
            packed = b"".join(n.to_bytes(8, sys.byteorder) for n in sorted(self.nodes))
            owners.add_ids(packed)
            for tree in self.trees.values():
                if tree.blocks:
                    owner = owners.add(1)
                    files.append(owner)
                    assert owners.common(owner, files[0]) in (1, owner)
                    pending = [tree.root] if owners.enter(tree.root, owner) else []
                    while pending:
                        node = pending.pop()
                        pending += owners.visit(owner, [(node, memoryview(self.nodes[node]))])
            assert owners.deduped > 0
            return list(owners.sums()), files
        finally:
            owners.close()

    def trim(self) -> None:
        self.core.trim_take(0, 0, SLOTS + 1)
        address, count, _ = self.core.trim_take(0, 0, 1)
        if count:
            self.core.trim_punch(address, count)
            self.core.trim_give(address, count, punched=True)
        address, count, _ = self.core.hold(0, 0, 3)
        self.core.trim_give(address, count, punched=False)
        self.core.learn_holes()
        self.core.backed_first(on=True)
        self.write("a", 0, [1, 2])
        self.core.backed_first(on=False)

    def look(self) -> None:
        """The calls that change nothing."""
        tree, model = self.trees["a"], self.models["a"]
        extents = self.whole(lambda: self.core.lookup(tree, 0, SPAN))
        assert sum(extent.count for extent in extents) == tree.blocks == len(model)
        assert self.whole(lambda: self.core.mapped(tree, 3, SPAN)) == sum(n >= 3 for n in model)
        address = extents[0].address
        assert self.core.allocated(address)
        self.core.shared(address)
        assert self.whole(lambda: self.core.next_data(tree, 0)) == min(model)
        hole = next(n for n in range(SPAN) if n not in model)
        assert self.whole(lambda: self.core.next_hole(tree, 0)) == hole
        plan = self.whole(lambda: self.core.plan_read(tree, 0, 8))
        buffer = bytearray(8 * BLOCK)
        self.core.run_read(plan, 0, buffer)
        assert buffer[:BLOCK] == model.get(0, ZERO)

    def index(self) -> None:
        raw = self.core.index_export()
        self.core.index_import(raw)
        pieces = struct.pack("=QII", 0, BLOCK - 1, 1)
        assert self.core.hash_pieces(content(1), pieces, 1) == [self.core.hash(content(1)[1:])]
        self.core.index_insert(self.core.hash(content(1)), 0)
        assert self.core.index_lookup(self.core.hash(content(1))) == 0
        extent = self.core.lookup(self.trees["b"], 0, SPAN)[0]
        window = audit.Window(extent.address, 1)
        window.addresses[0], window.checksums[0] = extent.address, 77
        fingerprints.clear(self.core)
        audit.index_window(self.core, 0, window, 0, 1)
        assert self.core.index_lookup(77) == extent.address
        audit.set_shared(self.core, extent.address)
        assert self.core.shared(extent.address)

    def cold(self) -> None:
        """What says which slots are cold, and has them read, takes no memory; here none is."""
        address = self.core.lookup(self.trees["b"], 0, SPAN)[0].address
        self.core.read_into(self.trees["b"], 0, bytearray(BLOCK), wait=False)
        piece = struct.pack("=QII", 0, BLOCK, 0)
        assert self.core.read_pieces(self.trees["b"], piece, 1, bytearray(BLOCK)) == 1
        RECORDER.rmt_cold(self.core._core, self.core._number)
        self.core.warm([address])

    def fetch(self) -> None:
        """Threads that fetch, from the first to the last."""
        tree, wake_fd = self.trees["b"], os.eventfd(0)
        try:
            fetchers = self.whole(lambda: native.Fetchers(threads=2, jobs=2, wake_fd=wake_fd))
            with tempfile.TemporaryFile() as file:
                self.core.read_into(tree, 0, bytearray(SPAN * BLOCK))
                assert fetchers.begin(self.core, tree, 0, SPAN * BLOCK, b"head", file.fileno(), 7)
                fetchers.stop()
                assert fetchers.take()[0] == [7]
                file.seek(0)
                assert file.read(4) == b"head"
                for n in range(SPAN):
                    assert file.read(BLOCK) == self.models["b"].get(n, ZERO)
            fetchers.close()
        finally:
            os.close(wake_fd)

    def runs(self) -> None:
        """Tables become runs and these one; what cannot be had is begun again."""
        key = self.core.hash(content(1))
        address = self.core.lookup(self.trees["b"], 0, SPAN)[0].address
        entries = [(key & ~7) + n for n in range(8)]
        part = key >> 60
        with tempfile.TemporaryDirectory() as scratch:
            for n in range(2):
                for each in entries[4 * n : 4 * n + 4]:
                    self.core.index_insert(each, address)
                while not self.whole(lambda: fingerprints.freeze(self.core, part)):
                    assert ALLOCATIONS.failed
                file = Path(scratch) / str(n)
                self.made(part, file, 0, 0)
            file = Path(scratch) / "both"
            span = self.made(part, file, 0, 2)
            assert fingerprints.runs(self.core, part) == [span]
            self.front(part)
            fingerprints.clear(self.core)
            while not fingerprints.open_run(self.core, part, opened(file), span.low, span.high):
                assert ALLOCATIONS.failed
            if fingerprints.check_run(9, file, SLOTS) is None:
                assert ALLOCATIONS.failed
            self.front(part)
        for each in entries:
            fingerprints.cold_page(self.core, each)
            assert self.core.index_lookup(each) == address
        fingerprints.synthetic_inserts(self.core, address, 1)
        assert fingerprints.synthetic_lookups(self.core, address, 1) == 1
        assert fingerprints.figures(self.core).runs == 1

    def front(self, part: int) -> None:
        while (job := fingerprints.begin_front(self.core, part, 100)) is None:
            assert ALLOCATIONS.failed
        assert job.step(1 << 10)
        assert job.install()
        job.close()
        assert fingerprints.front(self.core, part) == (100, 8)

    def made(self, part: int, file: Path, first: int, count: int) -> fingerprints.RunSpan:
        """A run in a file, installed."""
        while True:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            job = fingerprints.begin(self.core, part, fd, first=first, count=count)
            if job is None:
                assert ALLOCATIONS.failed
                os.close(fd)
                continue
            try:
                assert job.step(1 << 10)
                span = job.span
                assert job.install()
            except MemoryError:
                assert ALLOCATIONS.failed
            else:
                return span
            finally:
                job.close()

    def reload(self) -> None:
        """Another core of the same store, as an open makes it."""
        twin = self.whole(
            lambda: native.Core(
                hash_seed=9, load_node=self.nodes.__getitem__, fanout=4, slab_slots=SLOTS,
                cache_nodes=64, next_node_id=self.core.next_node_id, index_entries=1 << 10,
            )
        )  # fmt: skip
        for number in range(self.slabs):
            self.whole(lambda: twin.add_slab(number, self.files[number]), check=False)  # noqa: B023
        for (number, chunk), bits in self.chunks.items():
            twin.load_chunk(number, chunk, bits)
        assert twin.allocated_slots == self.core.allocated_slots
        self.core.close()
        self.core = twin
        self.core.epoch = self.epoch
        self.check()

    def play(self) -> None:
        rng = random.Random(4)
        self.write("a", 0, [rng.randrange(1, 900) for _ in range(30)])
        self.write("a", 20, [1, 1, 2, 2, 3, 3, 3, 4])
        self.write("b", 5, [rng.randrange(1, 900) for _ in range(30)])
        self.commit()
        self.write("a", 2, [7, 8, 9])
        self.clone("a", "c")
        self.write("c", 1, [10, 11, 12, 13, 14])
        self.write("a", 180, [15, 16])
        self.commit()
        self.look()
        self.account()
        self.share("b", 64, "a", 0, 20)
        self.share("b", 3, "a", 18, 9)
        self.share("c", 2, "c", 100, 40)
        self.commit()
        self.punch("a", 0, 23)
        self.punch("b", 63, 17)
        self.reclaim()
        self.write("b", 90, [rng.randrange(1, 900) for _ in range(25)])
        self.punch("c", 0, SPAN)
        self.reclaim()
        self.gc()
        self.trim()
        self.cold()
        self.fetch()
        self.index()
        self.runs()
        self.write("c", 0, [20, 21, 22])
        self.write("a", 30, list(range(30, 60)))
        self.commit()
        self.look()
        self.reload()
        self.write("c", 40, list(range(700, 720)))
        assert native.overwrites_in_place(self.files[0])
        native.begin_write_back(self.files[0])
        native.poll(self.files[0], -1, 0)
        native.allocate(self.files[0], 0, BLOCK, keep_size=True)
        native.backed_end(self.files[0], 0)
        self.commit()
        self.write("c", 3, [901, 902])  # closed with dirty nodes, as a crash leaves it
        self.punch("c", 1, 12)

    def close(self) -> None:
        self.core.close()


def walk_core(stride: int, offset: int) -> dict[str, int]:
    """All N of the core's day."""
    points = 0
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile(dir=BASE)).fileno() for _ in range(4)]
        ALLOCATIONS.fail(0)
        play_core(files)
        total = ALLOCATIONS.count
        for nth in range(1 + offset % stride, total + 1, stride):
            ALLOCATIONS.fail(nth)
            try:
                play_core(files)
            except BaseException:
                print(f"allocation {nth} of {total}", file=sys.stderr)
                raise
            assert ALLOCATIONS.failed, nth
            points += 1
    return {"core_allocations": total, "core_points": points}


def play_core(files: list[int]) -> None:
    day = CoreDay(files)
    day.play()
    day.close()


def walk_engine(stride: int, offset: int) -> dict[str, int]:
    """All N of a whole store's day; open and all."""
    points, total = 0, 0
    with tempfile.TemporaryDirectory(dir=BASE, prefix="ramet-alloc-") as root:
        start = make_template(Path(root) / "template")
        nth = 1 + offset % stride
        while True:
            try:
                failed = play_engine(Path(root), start, nth)
            except BaseException:
                print(f"allocation {nth} of the engine's day", file=sys.stderr)
                raise
            if not failed:
                break
            points += 1
            total = nth
            nth += stride
    return {"engine_allocations": total, "engine_points": points}


def play_engine(root: Path, start: State, nth: int) -> bool:
    path = root / "store"
    fresh_copy(root / "template", path)
    ALLOCATIONS.fail(nth)
    try:
        world = World(Store.open(path), start)
    except MemoryError:
        world = World(Store.open(path), start)
    day = the_day()
    for number, step in enumerate(day.steps):
        try:
            step(world)
        except MemoryError:
            if number < len(day.steps) - 1:
                if number not in day.in_parts:
                    world.check(world.state)
                step(world)
    failed = ALLOCATIONS.failed
    ALLOCATIONS.fail(0)
    world.store.abandon()
    reopen(path, [world.acknowledged, world.state])
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", type=int, default=0, help="stride of the engine's day; 0: none")
    told = parser.parse_args()
    figures = walk_core(told.stride, told.seed)
    if told.engine:
        figures |= walk_engine(told.engine, told.seed)
        missing = RECORDER.functions - RECORDER.called
        assert not missing, f"the workload never calls {sorted(missing)}"
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
