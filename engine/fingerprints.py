"""The fingerprint index's files: which runs there are, and when which new ones are made; and when
the front of a partition's runs is, which is in memory only.

What is in memory and what a run is, is C's (native/index.h); here are names, order and policy.
docs/FORMAT.md tells why the index is made so.  Everything in it is derived and may be lost:

- a run is written as ``.new`` and gets its name when it is whole; its name says which tables are in
  it, so that one made of others is known, and those others are removed, also after a crash;
- a write that fails ends the job and pauses the index: it keeps what it has, and forgets;
- a front is made beside no other job of its partition, which would make it useless; one that
  cannot be made leaves the old one, or none, and lookups ask all runs;
- nothing here is part of a commit, and nothing is synced.

Who drives: beside a daemon a task (service/indexer.py), whose thread does the steps; else each
write does a part of the work itself (``turn``), as much as it has made.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import native
from native import fingerprints
from native.fingerprints import PARTS, FrontJob, IndexFigures, Job, RunSpan

RECENT_FILE = "fingerprints"
RECENT_BYTES_MAX = 1 << 30
IMPORT_BYTES = 1 << 16
Kind = Literal["table", "merge", "front"]
RUN_NAME = re.compile(r"([0-9a-f])-([0-9a-f]{16})-([0-9a-f]{16})\.run")
RUNS_KEPT = 20  # of a partition; more are merged. Each is an open file
MERGED_MIN = 8
STALE_SHARE = 1.5  # entries for each one that was of use at the last look: then look again
STALE_MIN = 64
FRONT_ENTRIES_MIN = 1 << 15  # of a partition; fewer are in two or three runs, as soon asked
FRONT_GROWTH = 1.125, 1.25  # its entries that it has room for: of the first partition's, the last's
FRONT_STALE_SHARE = 1.25  # keys in it for each entry: then forget some
FRONT_SPEED = 16  # its entries in the time of one of a run
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
    """A run in the making, and what it replaces; or a front, which is no file."""

    def __init__(
        self, kind: Kind, part: int, job: Job | FrontJob, sources: list[RunSpan],
        file: Path | None = None,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.part = part
        self.job = job
        self.sources = sources
        self.file = file
        self.optional = False  # the index is as good without it, where there is no room for it

    def step(self, entries: int) -> bool:
        return self.job.step(entries * FRONT_SPEED if self.kind == "front" else entries)

    @property
    def work(self) -> int:
        """How many entries' work it was; at its end."""
        if isinstance(self.job, FrontJob):
            return sum(run.entries for run in self.sources) // FRONT_SPEED
        return self.job.span.entries


class Fingerprints:
    """The index of one open store."""

    def __init__(self, directory: Path, core: native.Core) -> None:
        self.directory = directory
        self._core = core
        self._making: list[Making] = []
        self._settled = [0] * PARTS  # entries that were of use at the last whole merge
        self._old: set[int] = set()  # partitions to write anew: of their runs no front can be made
        self._barred: set[int] = set()  # those for ends that could not be had
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
        self._old = {part for part in range(PARTS) if fingerprints.bars_front(self._core, part)}
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
                    self.turn(len(raw) // 16, tables_only=True)

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
        """Engine thread: the next run to make of a table; or (``merge``) the next front to make, or
        run to make of others.  OSError: its file cannot be made; tell ``fail``."""
        if self.paused is not None:
            return None
        if not merge:
            if self._core.index_frozen:
                for part in self._parts_without("table", "front"):
                    if making := self._make(part, 0, 0):
                        return making
            return None
        for part in self._parts_without("table", "merge", "front"):
            if making := self._make_front(part):
                return making
        for part in self._parts_without("merge", "front"):
            window = self._window(part)
            if window is not None and (making := self._make(part, *window)):
                return making
        for part in self._parts_without("merge", "front"):
            if part in self._old and (making := self._make_anew(part)):
                return making
        self._wanted = any(making.kind != "table" for making in self._making)
        return None

    def _parts_without(self, *kinds: str) -> list[int]:
        """Partitions of which none of these is in the making."""
        busy = {making.part for making in self._making if making.kind in kinds}
        return [part for part in range(PARTS) if part not in busy]

    def _make_front(self, part: int) -> Making | None:
        """If there is none and should be, or it has too many keys: for its room, or stale ones."""
        sources = self.runs(part)
        entries = sum(run.entries for run in sources)
        front, floor = fingerprints.front(self._core, part), max(entries, FRONT_ENTRIES_MIN)
        if front is None and entries < FRONT_ENTRIES_MIN:
            return None
        if front is not None and front.held <= min(front.room, FRONT_STALE_SHARE * floor):
            return None
        # Not all alike, or all would be due at one moment.
        least, most = FRONT_GROWTH
        growth = least + (most - least) * part / (PARTS - 1)
        job = fingerprints.begin_front(self._core, part, int(floor * growth) + 1)
        if job is None:
            return None
        making = Making("front", part, job, sources)
        self._making.append(making)
        return making

    def _window(self, part: int) -> tuple[int, int] | None:
        """Which runs of a partition to merge: all, for stale entries; else of too many neighbours,
        cheapest for each run that goes."""
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

    def _make_anew(self, part: int) -> Making | None:
        """All runs of a partition that bar a front, as one that does not."""
        sizes = [run.entries for run in self.runs(part)]
        if sum(sizes) < FRONT_ENTRIES_MIN:
            return None
        making = None
        with contextlib.suppress(OSError):
            making = self._make(part, 0, len(sizes))
        if making is None:  # no memory, or no room: it has to be without
            self._old.discard(part)
        else:
            making.optional = True
        return making

    def _make(self, part: int, first: int, count: int) -> Making | None:
        kind: Kind = "merge" if count else "table"
        file = self.directory / f"{part:x}-{kind}.new"
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        job = fingerprints.begin(self._core, part, fd, first=first, count=count)
        if job is None:
            os.close(fd)
            _remove(file)
            return None
        making = Making(kind, part, job, self.runs(part)[first : first + count], file)
        self._making.append(making)
        return making

    def finish(self, making: Making) -> None:
        """Engine thread, at its end: the run answers from now on; those it replaces are gone."""
        if isinstance(making.job, FrontJob) or making.file is None:
            if not making.job.install() and fingerprints.bars_front(self._core, making.part):
                self._bar(making.part)
            self._end(making)
            self._wanted = True
            return
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
        if not fingerprints.bars_front(self._core, making.part):
            self._old.discard(making.part)
        left = self.runs(making.part)
        if making.sources and len(left) <= 1:
            self._settled[making.part] = sum(run.entries for run in left)
        self._wanted = True

    def _bar(self, part: int) -> None:
        """Ends of a run cannot be had: it is written anew, once, or a bad disk would have it so for
        ever."""
        if part not in self._barred:
            self._barred.add(part)
            self._old.add(part)

    def give_up(self, making: Making) -> None:
        self._end(making)

    def fail(self, making: Making | None, error: Exception) -> None:
        """A run cannot be written: the index keeps what it has, until the store is reopened."""
        if making is not None and making.optional:
            self._old.discard(making.part)
        else:
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
        if making.file is not None:
            _remove(making.file)

    def drive(self) -> None:
        """The caller does the work from now on; what a turn has begun, it begins anew."""
        self.beside = True
        if self._turning is not None:
            self.give_up(self._turning)

    def turn(self, blocks: int, *, tables_only: bool = False) -> None:
        """Engine thread, after a write of so many new blocks: the work that they have made.

        Whatever fails here is no failure of the write.  ``tables_only``: all else can wait.
        """
        if self.beside or not (self._turning or self.due):
            return
        work = TURN_ENTRIES + TURN_SHARE * blocks
        while work > 0:
            making = self._turning
            try:
                if making is None:
                    making = self._turning = self.begin() or (
                        None if tables_only else self.begin(merge=True)
                    )
                if making is None or not making.step(work):
                    return
                work -= max(making.work, TURN_ENTRIES)
                self.finish(making)
            except (OSError, MemoryError) as error:
                self.fail(making, error)

    def settle(self) -> None:
        """All that is due, here and now."""
        while self._turning is not None or self.due:
            self.turn(1 << 16)
