"""A front never hides a key: any order of jobs, with runs that are old, damaged or left by a crash.

The model is a dict of what the runs' files and the tables have; whatever job begins, steps and ends
when, every key of it is found.  The engine keeps some of these orders from happening; C does not
count on that.
"""

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from run_files import aged, ends_at, entries_of, entry_of

import native
from native import fingerprints
from native.fingerprints import FrontJob, Job, RunSpan

SEED = 5
SLOTS = 8192
PART = 3
BITS = 60  # of a key, behind its partition


def new_core(table: int = 256) -> native.Core:
    core = native.Core(
        hash_seed=SEED, load_node={}.__getitem__, slab_slots=SLOTS, index_entries=16 * table
    )
    core.add_slab(0, -1)
    core.load_chunk(0, 0, b"\xff" * 1024 + bytes(1024))
    return core


class Runs(RuleBasedStateMachine):
    """One partition, its files in the order of what they have."""

    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.scratch = tempfile.TemporaryDirectory()
        self.core = new_core()
        self.model: dict[int, int] = {}
        self.files: dict[RunSpan, Path] = {}
        self.jobs: dict[str, tuple[Job | FrontJob, Path | None, list[RunSpan]]] = {}
        self.made = 0

    def teardown(self) -> None:
        if hasattr(self, "core"):
            self.drop_jobs()
            self.core.close()
            self.scratch.cleanup()

    def drop_jobs(self) -> None:
        for job, _, _ in self.jobs.values():
            job.close()
        self.jobs.clear()

    @rule(count=st.integers(1, 150), near=st.booleans())
    def insert(self, count: int, near: bool) -> None:
        """Near each other: of one bucket or two, and perhaps more than a group has room for."""
        base = self.random.getrandbits(BITS)
        for _ in range(count):
            low = base + self.random.getrandbits(16) if near else self.random.getrandbits(BITS)
            key, address = PART << BITS | low % (1 << BITS), self.random.randrange(SLOTS)
            forgotten = fingerprints.figures(self.core).forgotten
            self.core.index_insert(key, address)
            if fingerprints.figures(self.core).forgotten == forgotten:
                self.model[key] = address

    @rule(kind=st.sampled_from(("table", "merge", "front")), data=st.data())
    def begin_job(self, kind: str, data: st.DataObject) -> None:
        if kind in self.jobs:
            return
        if kind == "front":
            room = data.draw(st.sampled_from((0, 1, 100, 1000, 100_000)))
            front = fingerprints.begin_front(self.core, PART, room)
            if front is not None:
                self.jobs[kind] = front, None, []
            return
        first, count = 0, 0
        if kind == "table":
            fingerprints.freeze(self.core, PART)
        else:
            first, count = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 4))
        file = Path(self.scratch.name) / f"run{self.made}"
        self.made += 1
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        job = fingerprints.begin(self.core, PART, fd, first=first, count=count)
        if job is None:
            os.close(fd)
        else:
            spans = fingerprints.runs(self.core, PART)[first : first + count]
            self.jobs[kind] = job, file, spans

    @precondition(lambda self: self.jobs)
    @rule(entries=st.sampled_from((1, 60, 1000)), data=st.data())
    def step(self, entries: int, data: st.DataObject) -> None:
        job, _, _ = self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))]
        job.step(entries)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def end_job(self, data: st.DataObject) -> None:
        job, file, spans = self.jobs.pop(data.draw(st.sampled_from(sorted(self.jobs))))
        while not job.step(1000):
            pass
        made = job.span if isinstance(job, Job) else None
        if job.install() and made and file is not None:
            for span in spans:
                del self.files[span]
            self.files[made] = file
        job.close()

    @rule(what=st.sampled_from(("clear", "give up", "damage", "reopen", "old", "ends")))
    def calamity(self, what: str) -> None:
        if what == "clear":
            fingerprints.clear(self.core)
            self.files.clear()
            self.model.clear()
        elif what == "give up":
            self.drop_jobs()
        elif what == "damage" and self.files:
            file = self.random.choice(list(self.files.values()))
            if b"RMTRUN02" in (raw := file.read_bytes()):
                self.damage(file, raw)
        else:
            self.crash(what)

    def crash(self, change: str) -> None:
        """Opened anew: what was in tables is gone, and one file may be another."""
        self.drop_jobs()
        self.core.close()
        self.core = new_core()
        self.model.clear()
        changed = self.random.choice([*self.files, None])
        for span, file in sorted(self.files.items()):
            raw = file.read_bytes()
            if span == changed and b"RMTRUN02" in raw:
                if change == "old":
                    file.write_bytes(aged(raw, SEED))
                elif change == "ends":
                    self.damage(file, raw)
            fd = os.open(file, os.O_RDONLY)
            assert fingerprints.open_run(self.core, PART, fd, span.low, span.high)
            self.model |= dict(entry_of(raw, i) for i in range(entries_of(raw)))

    def damage(self, file: Path, raw: bytes) -> None:
        bad = bytearray(raw)
        bad[ends_at(raw) + self.random.randrange(entries_of(raw))] ^= 1 << self.random.randrange(8)
        file.write_bytes(bad)

    @invariant()
    def every_key_is_found(self) -> None:
        for key, address in getattr(self, "model", {}).items():
            assert self.core.index_lookup(key) == address, hex(key)


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def begin_table(core: native.Core, directory: Path) -> Job:
    fingerprints.freeze(core, PART)
    file = directory / f"run{len(list(directory.iterdir()))}"
    job = fingerprints.begin(core, PART, os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    assert job is not None
    return job


def end(job: Job | FrontJob) -> bool:
    while not job.step(1000):
        pass
    installed = job.install()
    job.close()
    return installed


def make_runs(core: native.Core, directory: Path) -> None:
    """All that is in tables, into files."""
    while fingerprints.freeze(core, PART) or core.index_frozen:
        assert end(begin_table(core, directory))


def make_front(core: native.Core, room: int) -> bool:
    job = fingerprints.begin_front(core, PART, room)
    return job is not None and end(job)


@pytest.fixture
def core(tmp_path: Path) -> Iterator[native.Core]:
    """With 150 entries in runs."""
    made = new_core()
    for n in range(150):
        made.index_insert(PART << BITS | n * 0x9E3779B97F4A7C1 % (1 << BITS), n)
    make_runs(made, tmp_path)
    yield made
    made.close()


def new_keys(count: int) -> list[int]:
    rng = random.Random(2)
    return [PART << BITS | rng.getrandbits(BITS) for _ in range(count)]


def test_it_refuses_most_keys_that_are_in_no_run(core: native.Core) -> None:
    """About a quarter passes; so a page is read for a quarter of those that filters let pass."""
    before = fingerprints.figures(core).page_reads
    assert all(core.index_lookup(key) is None for key in new_keys(20_000))
    without = fingerprints.figures(core).page_reads - before
    assert make_front(core, 150)
    assert fingerprints.figures(core).front_bytes > 0
    before += without
    assert all(core.index_lookup(key) is None for key in new_keys(20_000))
    assert 0 < fingerprints.figures(core).page_reads - before < without * 0.4


def test_ends_that_fail_their_checksum_make_no_front(core: native.Core, tmp_path: Path) -> None:
    """The one that there was stays; it is not tried again."""
    assert make_front(core, 1000)
    raw = bytearray((tmp_path / "run0").read_bytes())
    raw[ends_at(raw)] ^= 1
    (tmp_path / "run0").write_bytes(raw)
    assert not make_front(core, 2000)
    assert fingerprints.begin_front(core, PART, 2000) is None
    assert fingerprints.front(core, PART) == (1000, 150)


def test_ends_that_cannot_be_read_make_no_front(core: native.Core, tmp_path: Path) -> None:
    os.truncate(tmp_path / "run0", 4096)
    assert not make_front(core, 2000)
    assert fingerprints.front(core, PART) is None
    assert core.index_lookup(PART << BITS) == 0


def test_a_run_that_joins_is_in_the_front(core: native.Core, tmp_path: Path) -> None:
    assert make_front(core, 1000)
    core.index_insert(PART << BITS | 77, 5)
    make_runs(core, tmp_path)
    assert fingerprints.front(core, PART) == (1000, 151)
    assert core.index_lookup(PART << BITS | 77) == 5


def test_a_run_of_many_portions_is_in_it_whole(tmp_path: Path) -> None:
    """Its groups do not end where what is read at once does."""
    core, keys = new_core(1 << 19), [*dict.fromkeys(new_keys(150_000))]
    for n, key in enumerate(keys):
        core.index_insert(key, n % SLOTS)
    make_runs(core, tmp_path)
    assert max(run.entries for run in fingerprints.runs(core, PART)) > 70_000
    assert make_front(core, len(keys))
    assert fingerprints.front(core, PART) == (len(keys), len(keys))
    assert all(core.index_lookup(key) == n % SLOTS for n, key in enumerate(keys))
    core.close()


def test_a_run_of_the_time_of_another_front_ends_the_front(
    core: native.Core, tmp_path: Path
) -> None:
    """Its keys are in the old one, or in none."""
    for n in range(2):
        core.index_insert(PART << BITS | 77 + n, 5)
        job = begin_table(core, tmp_path)
        assert make_front(core, 1000)
        assert end(job)
        assert fingerprints.front(core, PART) is None
        assert core.index_lookup(PART << BITS | 77 + n) == 5
        assert make_front(core, 1000)


def test_a_front_without_a_run_of_its_time_is_not_taken(core: native.Core, tmp_path: Path) -> None:
    job = fingerprints.begin_front(core, PART, 1000)
    assert job is not None
    core.index_insert(PART << BITS | 77, 5)
    make_runs(core, tmp_path)
    assert not end(job)
    assert fingerprints.front(core, PART) is None


def test_as_many_runs_are_not_the_same_runs(core: native.Core, tmp_path: Path) -> None:
    front = fingerprints.begin_front(core, PART, 1000)
    assert front is not None
    count = len(fingerprints.runs(core, PART))
    core.index_insert(PART << BITS | 77, 5)
    make_runs(core, tmp_path)
    fd = os.open(tmp_path / "merged", os.O_RDWR | os.O_CREAT)
    merge = fingerprints.begin(core, PART, fd, first=0, count=2)
    assert merge is not None
    assert end(merge)
    assert len(fingerprints.runs(core, PART)) == count
    assert not end(front)
    assert core.index_lookup(PART << BITS | 77) == 5


def test_a_run_that_is_opened_ends_the_front(core: native.Core, tmp_path: Path) -> None:
    core.index_insert(PART << BITS | 77, 5)
    make_runs(core, tmp_path)
    newest = fingerprints.runs(core, PART)[-1]
    file = tmp_path / f"run{len(fingerprints.runs(core, PART)) - 1}"
    fingerprints.clear(core)
    assert make_front(core, 1000)
    fd = os.open(file, os.O_RDONLY)
    assert fingerprints.open_run(core, PART, fd, newest.low, newest.high)
    assert fingerprints.front(core, PART) is None
    assert core.index_lookup(PART << BITS | 77) == 5


def test_keys_of_a_group_that_is_too_full_pass(tmp_path: Path) -> None:
    """Their buckets are not in its bits."""
    core = new_core(1 << 12)
    keys = [PART << BITS | 0x123456789 << 24 | n << 8 for n in range(150)]
    keys += [PART << BITS | n << 50 for n in range(1000)]
    for key in keys:
        core.index_insert(key, key % SLOTS)
    make_runs(core, tmp_path)
    assert make_front(core, 10_000)
    assert all(core.index_lookup(key) == key % SLOTS for key in keys)
    core.close()
