"""Jobs against a model: several at once, step by step, with commits and crashes at any point.

The command is the real ``clone``, handing back control after each item and in the middle of a
directory.  The model is a dict from
names to owners, a job or the user; a commit copies it, a crash goes back to the copy.  Whatever a
job's fate, it takes back what it has made, wherever that was moved, and nothing else.
"""

import copy
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine import ROOT_INO, Store, errors, fsck, removal, tree_clones
from service import clones, jobs
from service.addresses import Context
from service.clones import clone
from service.job_states import COMPLETED, QUEUED, RUNNING
from service.steps import Steps
from service.work import Result, Work, queue, recover, run

USER = 0
ENDED_MAX = 6
TREE_FILES = 7
SHORT_STEPS = {
    tree_clones: ("WHOLE_ENTRIES", "STEP_ENTRIES", "COUNTED_ENTRIES"),
    removal: ("WHOLE_NAMES", "STEP_NAMES"),
}
PICK = st.integers(0, 1 << 16)


@dataclass
class Model:
    """What the store should hold: who owns each name, and each job's state and size."""

    owners: dict[str, int] = field(default_factory=lambda: {"golden": USER, "tree": USER})
    jobs: dict[int, str] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    next: int = 1


class Live:
    """A job of the process that runs now."""

    def __init__(self, work: Work, steps: Steps[Result]) -> None:
        self.work = work
        self.steps = steps


class JobMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._before = clones.CLONES_STEP, jobs.ENDED_MAX
        clones.CLONES_STEP, jobs.ENDED_MAX = 1, ENDED_MAX
        self._short = pytest.MonkeyPatch()
        for module, names in SHORT_STEPS.items():
            for name in names:
                self._short.setattr(module, name, 2)
        self.path = Path(tempfile.mkdtemp(prefix="ramet-jobs-"))
        Store.create(self.path / "s", fanout=4, records_max=8, slab_slots=64)
        self.serial = 0
        self._open()
        lab = self.store.create_volume("lab")
        ino = lab.create(ROOT_INO, b"golden", 0o644, 0, 0).ino
        lab.write(ino, 0, b"g" * 9000)
        tree = lab.mkdir(ROOT_INO, b"tree", 0o755, 0, 0).ino
        for n in range(TREE_FILES):
            ino = lab.create(tree, b"%d" % n, 0o644, 0, 0).ino
            lab.write(ino, 0, b"%d" % n * 5000)
        self.model = Model()
        self.commit()

    def _open(self) -> None:
        self.store = Store.open(self.path / "s")
        self.context = Context(self.store)
        self.live: dict[int, Live] = {}

    def names(self) -> set[str]:
        entries = self.store.volume("lab").readdir(ROOT_INO, 0, 1 << 20)
        return {entry.name.decode() for entry in entries}

    def mine(self, owner: int) -> list[str]:
        return sorted(name for name, at in self.model.owners.items() if at == owner)

    # --- jobs

    @rule(
        source=st.sampled_from(["golden", "tree"]), count=st.integers(1, 5),
        fails_at=st.integers(0, 8),
    )  # fmt: skip
    def start(self, source: str, count: int, fails_at: int) -> None:
        """``fails_at``: a name that is taken already, if it is one of them."""
        self.serial += 1
        lab = self.store.volume("lab")
        if 0 < fails_at <= count:
            taken = f"j{self.serial}-{fails_at}"
            lab.create(ROOT_INO, taken.encode(), 0o644, 0, 0)
            self.model.owners[taken] = USER
        arguments = (f"lab:/{source}", f"lab:/j{self.serial}-{{n}}", count, 1, False)
        job = queue(self.context, clone, arguments, ())
        assert job.id == self.model.next
        self.model.next += 1
        self.model.jobs[job.id], self.model.counts[job.id] = QUEUED, count
        ended = [n for n, state in self.model.jobs.items() if state not in (QUEUED, RUNNING)]
        for number in ended[: max(0, len(self.model.jobs) - ENDED_MAX)]:
            del self.model.jobs[number]
        work = Work(job)
        self.live[job.id] = Live(
            work, run(self.context, work, clone(self.context, work, *arguments))
        )

    @precondition(lambda self: self.live)
    @rule(pick=PICK, times=st.integers(1, 4))
    def go_on(self, pick: int, times: int) -> None:
        number = sorted(self.live)[pick % len(self.live)]
        for _ in range(times):
            if number in self.live:
                self._step(number)

    def _step(self, number: int) -> None:
        live, error = self.live[number], None
        before = set(self.model.owners)
        try:
            assert next(live.steps) is None
        except StopIteration as end:
            assert end.value["job"] == number
            self._ended(number, COMPLETED)
        except errors.Cancelled:
            self._ended(number, "cancelled")
        except errors.AlreadyExists as raised:
            error = raised
            self._ended(number, "failed")
        else:
            self.model.jobs[number] = RUNNING
        now = self.names()
        self.model.owners |= dict.fromkeys(now - before, number)
        for name in before - now:
            assert self.model.owners.pop(name) == number, f"{name} was not its own"
        job = self.context.jobs.get(number)
        assert job.state == self.model.jobs[number]
        if job.state == COMPLETED:
            assert (job.items_done, job.percent, job.error) == (self.model.counts[number], 100, "")
        elif job.ended:
            assert not self.mine(number)
            assert (job.items_done, bool(job.error), job.left) == (0, True, "")
            assert (error is None) == (not job.failures)

    def _ended(self, number: int, state: str) -> None:
        self.model.jobs[number] = state
        self.context.jobs.unsettled.discard(number)
        del self.live[number]

    @precondition(lambda self: self.live)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        self.live[sorted(self.live)[pick % len(self.live)]].work.cancelled = True

    @rule(number=st.integers(1, 30))
    def clear(self, number: int) -> None:
        table = self.context.jobs
        state = self.model.jobs.get(number)
        try:
            table.clear(table.get(number))
        except errors.NotFound:
            assert state is None
        except errors.Busy:
            assert state in (QUEUED, RUNNING)
        else:
            assert self.model.jobs.pop(number) not in (QUEUED, RUNNING)

    def _undoes(self, number: int) -> bool:
        live = self.live.get(number)
        return live is not None and (live.work.cancelled or live.work.job.items_failed > 0)

    # --- others, meanwhile

    def _clones(self) -> list[str]:
        """Those of jobs that run come first: they may have to be found again."""
        running = [number for number, state in self.model.jobs.items() if state == RUNNING]
        names = sorted(name for name, at in self.model.owners.items() if at in running)
        return names or sorted(name for name, at in self.model.owners.items() if at != USER)

    @precondition(lambda self: self._clones())
    @rule(pick=PICK, instead=st.booleans())
    def somebody_moves_a_clone(self, pick: int, instead: bool) -> None:
        """``instead``: and puts a file of its own where it was."""
        name = self._clones()[pick % len(self._clones())]
        self.serial += 1
        moved = f"moved-{self.serial}"
        self.store.volume("lab").rename(ROOT_INO, name.encode(), ROOT_INO, moved.encode())
        self.model.owners[moved] = self.model.owners.pop(name)
        if instead:
            self.store.volume("lab").create(ROOT_INO, name.encode(), 0o644, 0, 0)
            self.model.owners[name] = USER

    @precondition(lambda self: self._clones())
    @rule(pick=PICK)
    def somebody_puts_a_file_in_its_place(self, pick: int) -> None:
        name = self._clones()[pick % len(self._clones())]
        lab = self.store.volume("lab")
        self.store.remove_tree(lab, ROOT_INO, name.encode())
        lab.create(ROOT_INO, name.encode(), 0o644, 0, 0)
        self.model.owners[name] = USER

    # --- the store

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.durable = copy.deepcopy(self.model)

    @rule(interrupted_after=st.none() | st.integers(0, 6), commits=st.booleans())
    def crash(self, interrupted_after: int | None, commits: bool) -> None:
        """Also once more in the middle of the recovery, with or without a commit on the way."""
        self._crash()
        if interrupted_after is not None:
            steps = recover(self.context, self.context.jobs.interrupted())
            for _ in range(interrupted_after):
                if next(steps, steps) is steps:
                    break
            if commits:
                self.store.commit()
            self.store.abandon()
            self._open()
        for _ in recover(self.context, self.context.jobs.interrupted()):
            pass
        self.context.jobs.unsettled.clear()
        for number, state in self.model.jobs.items():
            if state in (QUEUED, RUNNING):
                self.model.jobs[number] = "failed"
                for name in self.mine(number):
                    del self.model.owners[name]
                job = self.context.jobs.get(number)
                assert ("ended" in job.error, job.items_done, job.left) == (True, 0, "")
        if commits:
            self.commit()

    def _crash(self) -> None:
        self.store.abandon()
        self.model = copy.deepcopy(self.durable)
        self._open()
        assert self.names() == set(self.model.owners)

    @invariant()
    def the_store_is_as_it_should_be(self) -> None:
        assert self.names() == set(self.model.owners)
        for name, owner in self.model.owners.items():
            inode = self.store.volume("lab").lookup(ROOT_INO, name.encode())
            assert not inode.is_dir or inode.entries == TREE_FILES or self._undoes(owner)
        found = {job.id: job.state for job in self.context.jobs.all()}
        assert found == self.model.jobs

    def teardown(self) -> None:
        clones.CLONES_STEP, jobs.ENDED_MAX = self._before
        self._short.undo()
        try:
            self.crash(None, False)
            assert not self.store.records.items("job/") or all(
                len(key) == len("job/") + jobs.ID_DIGITS or key == jobs.NEXT
                for key, _ in self.store.records.items("job/")
            ), "a piece is left"
            self.store.commit()
            report = fsck.check(self.store, data=True)
            assert report.clean, report.findings
            self.store.close()
        finally:
            self.store.abandon()
            shutil.rmtree(self.path)
