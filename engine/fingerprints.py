"""The fingerprint index's files: which runs there are, and when which new ones are made.

What is in memory and what a run is, is C's (native/index.h); here are names, order and policy.
docs/FORMAT.md tells why the index is made so.  Everything in it is derived and may be lost:

- a run is written as ``.new`` and gets its name when it is whole; its name says which tables are in
  it, so that one made of others is known, and those others are removed, also after a crash;
- a write that fails ends the job and pauses the index: it keeps what it has, and forgets;
- nothing here is part of a commit, and nothing is synced.

Who drives: beside a daemon a task (service/indexer.py), whose thread does the steps; else each
write does a part of the work itself (``turn``), as much as it has made.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import native
from native import fingerprints
from native.fingerprints import PARTS, IndexFigures, Job, RunSpan

RECENT_FILE = "fingerprints"
RECENT_BYTES_MAX = 1 << 30
IMPORT_BYTES = 1 << 16
RUN_NAME = re.compile(r"([0-9a-f])-([0-9a-f]{16})-([0-9a-f]{16})\.run")
RUNS_KEPT = 20  # of a partition; more are merged. Each is an open file
MERGED_MIN = 8
STALE_SHARE = 1.5  # entries for each one that was of use at the last look: then look again
STALE_MIN = 64
TURN_ENTRIES = 64  # a turn's least work
TURN_SHARE = 8  # entries of work for each new block


def run_name(part: int, span: RunSpan) -> str:
    return f"{part:x}-{span.low:016x}-{span.high:016x}.run"


def run_files(directory: Path) -> Iterator[tuple[int, RunSpan, Path]]:
    """(partition, span, file) of each run: oldest first, and before the runs made into it."""
    found = []
    for file in directory.glob("*.run"):
        match = RUN_NAME.fullmatch(file.name)
        if match:
            part, low, high = (int(digits, 16) for digits in match.groups())
            found.append((part, low, -high, file))
    for part, low, high, file in sorted(found):
        yield part, RunSpan(low, -high, 0), file


def _remove(file: Path) -> None:
    """A file of no use.  One that stays is known as such when the store is opened."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


class Making:
    """A run in the making, and what it replaces."""

    def __init__(self, part: int, job: Job, file: Path, sources: list[RunSpan]) -> None:
        self.part = part
        self.job = job
        self.file = file
        self.sources = sources

    def step(self, entries: int) -> bool:
        return self.job.step(entries)


class Fingerprints:
    """The index of one open store."""

    def __init__(self, directory: Path, core: native.Core) -> None:
        self.directory = directory
        self._core = core
        self._making: list[Making] = []
        self._settled = [0] * PARTS  # entries that were of use at the last whole merge
        self._turning: Making | None = None
        self._wanted = False  # a merge may be due
        self.paused: str | None = None  # why no more runs are made
        self.beside = False  # somebody else drives; turns do nothing
        self.written_bytes = 0

    # --- life

    def load(self, *, read_only: bool) -> None:
        """What files say; damaged ones, and those that were made into others, are removed."""
        ends = [0] * PARTS
        for part, span, file in run_files(self.directory):
            try:
                taken = span.low > ends[part] and self._open(part, span, file)
            except OSError:
                continue  # no descriptors, or nobody's to read: another time, perhaps
            if taken:
                ends[part] = span.high
            elif not read_only:
                _remove(file)
        if not read_only:
            for file in self.directory.glob("*.new"):
                _remove(file)
        self._settled = [sum(r.entries for r in self.runs(part)) for part in range(PARTS)]
        self._wanted = True
        with contextlib.suppress(OSError):
            self._load_recent(read_only=read_only)

    def _open(self, part: int, span: RunSpan, file: Path) -> bool:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        return fingerprints.open_run(self._core, part, fd, span.low, span.high)

    def _load_recent(self, *, read_only: bool) -> None:
        """Tables as they were at the last close.  Once that was the whole index: it is taken in."""
        with (self.directory / RECENT_FILE).open("rb") as entries:
            for _ in range(0, RECENT_BYTES_MAX, IMPORT_BYTES):
                raw = entries.read(IMPORT_BYTES)
                if not raw:
                    break
                self._core.index_import(raw)
                if not read_only:
                    self.turn(len(raw) // 16)

    def save(self) -> None:
        """At a clean close: the tables.  Whole or not at all; a full disk goes first."""
        self.drop_jobs()
        target = self.directory / RECENT_FILE
        scratch = target.with_suffix(".new")
        try:
            scratch.write_bytes(self._core.index_export())
            scratch.chmod(0o600)
            os.replace(scratch, target)
        except OSError:
            _remove(scratch)

    def drop_jobs(self) -> None:
        """Before the core is closed; no step may be running."""
        for making in list(self._making):
            self.give_up(making)

    def clear(self) -> None:
        """Forget everything; what is being made comes to nothing."""
        fingerprints.clear(self._core)
        self._settled = [0] * PARTS
        self.paused = None
        for _, _, file in run_files(self.directory):
            file.unlink(missing_ok=True)
        (self.directory / RECENT_FILE).unlink(missing_ok=True)

    # --- figures

    def figures(self) -> IndexFigures:
        return fingerprints.figures(self._core)

    def runs(self, part: int) -> list[RunSpan]:
        return fingerprints.runs(self._core, part)

    # --- work

    @property
    def due(self) -> bool:
        """Whether there may be something to make."""
        return self.paused is None and bool(self._core.index_frozen or self._wanted)

    @property
    def crowded(self) -> bool:
        """Whether who adds much should wait, or entries would find no room."""
        return self.beside and self.paused is None and self._core.index_frozen > PARTS // 2

    def freeze(self, entries_min: int) -> None:
        """What is in memory becomes due, where it is so much; at most so much a crash forgets."""
        for part in range(PARTS):
            fingerprints.freeze(self._core, part, entries_min)

    def begin(self, *, merge: bool = False) -> Making | None:
        """Engine thread: the next run to make, a table's or (``merge``) of others."""
        if self.paused is not None:
            return None
        busy = {making.part for making in self._making if bool(making.sources) == merge}
        if merge:
            for part in range(PARTS):
                window = None if part in busy else self._window(part)
                if window is not None:
                    return self._make(part, *window)
            self._wanted = bool(busy)
        elif self._core.index_frozen:
            for part in range(PARTS):
                if part not in busy and (making := self._make(part, 0, 0)):
                    return making
        return None

    def _window(self, part: int) -> tuple[int, int] | None:
        """Which runs of a partition to merge: neighbours, cheapest for each run that goes."""
        sizes = [run.entries for run in self.runs(part)]
        live = max(self._core.allocated_slots // PARTS, self._settled[part])
        if len(sizes) > 1 and sum(sizes) > STALE_SHARE * live + STALE_MIN:
            return 0, len(sizes)
        if len(sizes) <= RUNS_KEPT:
            return None
        windows = [
            (sum(sizes[at : at + count]) / (count - 1), at, count)
            for count in range(MERGED_MIN, len(sizes) + 1)
            for at in range(len(sizes) - count + 1)
        ]
        _, at, count = min(windows)
        return at, count

    def _make(self, part: int, first: int, count: int) -> Making | None:
        file = self.directory / f"{part:x}-{'merge' if count else 'table'}.new"
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self.paused = str(error)
            return None
        job = fingerprints.begin(self._core, part, fd, first=first, count=count)
        if job is None:
            os.close(fd)
            _remove(file)
            return None
        making = Making(part, job, file, self.runs(part)[first : first + count])
        self._making.append(making)
        return making

    def finish(self, making: Making) -> None:
        """Engine thread, at its end: the run answers from now on; those it replaces are gone."""
        span = making.job.span
        try:
            if span.entries:
                os.replace(making.file, self.directory / run_name(making.part, span))
        except OSError as error:
            self.fail(making, error)
            return
        installed = making.job.install()
        if not installed:
            _remove(self.directory / run_name(making.part, span))
        self.written_bytes += making.job.written_bytes
        self._end(making)
        if not installed:
            return
        for source in making.sources:
            if source[:2] != span[:2] or not span.entries:
                _remove(self.directory / run_name(making.part, source))
        left = self.runs(making.part)
        if making.sources and len(left) <= 1:
            self._settled[making.part] = sum(run.entries for run in left)
        self._wanted = True

    def give_up(self, making: Making) -> None:
        self._end(making)

    def fail(self, making: Making | None, error: Exception) -> None:
        """It cannot be written: the index goes on with what it has, until the store is reopened."""
        self.paused = str(error) or type(error).__name__
        if making is not None:
            self._end(making)

    def _end(self, making: Making) -> None:
        """A second time does nothing: the file of that name may be another's by then."""
        if making not in self._making:
            return
        self._making.remove(making)
        if self._turning is making:
            self._turning = None
        making.job.close()
        _remove(making.file)

    def drive(self) -> None:
        """The caller does the work from now on; what a turn has begun, it begins anew."""
        self.beside = True
        if self._turning is not None:
            self.give_up(self._turning)

    def turn(self, blocks: int) -> None:
        """Engine thread, after a write of so many new blocks: the work that they have made.

        Whatever fails here is no failure of the write.
        """
        if self.beside or not (self._turning or self.due):
            return
        work = TURN_ENTRIES + TURN_SHARE * blocks
        while work > 0:
            making = self._turning
            try:
                if making is None:
                    making = self._turning = self.begin() or self.begin(merge=True)
                if making is None or not making.step(work):
                    return
                work -= max(making.job.span.entries, TURN_ENTRIES)
                self.finish(making)
            except (OSError, MemoryError) as error:
                self.fail(making, error)

    def settle(self) -> None:
        """All that is due, here and now."""
        while self._turning is not None or self.due:
            self.turn(1 << 16)
