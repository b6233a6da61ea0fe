"""The typed door to the fingerprint index's runs: ``runs.c``, ``merge.c`` and ``front.c``.

A ``Job`` makes one run, a ``FrontJob`` a partition's front: ``begin`` and ``install`` belong to the
engine thread, ``step`` may run on any one thread, without the GIL.  ``close`` it in any case,
before its core.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from native import Core
from native._core import ffi, lib

PARTS = 16


class RunSpan(NamedTuple):
    """A run: the tables it is made of, by number, and how many entries it has."""

    low: int
    high: int
    entries: int


@dataclass(frozen=True)
class IndexFigures:
    """``misled``: a page was read, and had no such key; ``forgotten``: found no room."""

    entries: int
    run_entries: int
    runs: int
    frozen: int
    memory_bytes: int
    disk_bytes: int
    lookups: int
    page_reads: int
    misled: int
    damaged: int
    forgotten: int
    front_bytes: int  # of memory_bytes


class Front(NamedTuple):
    """How many keys it was made for, and has."""

    room: int
    held: int


class Job:
    """A run in the making."""

    def __init__(self, core: Core, pointer: Any) -> None:
        self._core = core
        self._job = pointer
        self._figures = ffi.new("uint64_t[]", 5)

    def step(self, entries: int) -> bool:
        """So many entries more; True at the end.  OSError, MemoryError: give it up."""
        status = lib.rmt_index_job_step(self._job, entries)
        if status == lib.RMT_IO:
            raise OSError(self._look()[4], "writing a run of the index failed")
        if status == lib.RMT_NOMEM:
            raise MemoryError("no memory to sort the index")
        return bool(status == lib.RMT_DONE)

    def _look(self) -> list[int]:
        lib.rmt_index_job_figures(self._job, self._figures)
        return list(self._figures)

    @property
    def span(self) -> RunSpan:
        return RunSpan(*self._look()[:3])

    @property
    def written_bytes(self) -> int:
        return self._look()[3]

    def install(self) -> bool:
        """Put the run in the place of what it was made of; False: the index was cleared."""
        return bool(lib.rmt_index_install(self._core.pointer, self._job) == lib.RMT_OK)

    def close(self) -> None:
        if self._job is not None:
            lib.rmt_index_job_free(self._job)
            self._job = None


class FrontJob:
    """A front in the making."""

    def __init__(self, core: Core, pointer: Any) -> None:
        self._core = core
        self._job = pointer

    def step(self, entries: int) -> bool:
        """So many entries more, or some more than that; True at the end."""
        return bool(lib.rmt_index_front_step(self._job, entries) == lib.RMT_DONE)

    def install(self) -> bool:
        """Have it asked from now on.  False: things are as they were; a run cannot be read (which
        keeps ``begin_front`` from it), or the runs are others by now."""
        return bool(lib.rmt_index_front_install(self._core.pointer, self._job) == lib.RMT_OK)

    def close(self) -> None:
        if self._job is not None:
            lib.rmt_index_front_free(self._job)
            self._job = None


def begin_front(core: Core, part: int, room: int) -> FrontJob | None:
    """A job that makes a partition's front anew, for so many keys.  A run that is installed
    meanwhile makes it useless.  None: a run has no keys' ends, or no memory."""
    job = lib.rmt_index_front_begin(core.pointer, part, room)
    return None if job == ffi.NULL else FrontJob(core, job)


def front(core: Core, part: int) -> Front | None:
    """A partition's front, if there is one."""
    figures = ffi.new("uint64_t[2]")
    found = lib.rmt_index_front_at(core.pointer, part, figures) == lib.RMT_OK
    return Front(*figures) if found else None


def begin(core: Core, part: int, fd: int, *, first: int = 0, count: int = 0) -> Job | None:
    """A job that writes a partition's oldest frozen table (no ``count``), or so many of its runs,
    to an empty file; it takes the descriptor.  None: nothing to do, or no memory."""
    job = lib.rmt_index_begin(core.pointer, part, first, count, fd)
    return None if job == ffi.NULL else Job(core, job)


def freeze(core: Core, part: int, entries_min: int = 1) -> bool:
    """Freeze a partition's table if it has so many entries, and there is room."""
    return bool(lib.rmt_index_freeze(core.pointer, part, entries_min) == lib.RMT_OK)


def open_run(core: Core, part: int, fd: int, low: int, high: int) -> bool:
    """Take a file as a partition's newest run, and its descriptor; False: it is not whole."""
    return bool(lib.rmt_index_open_run(core.pointer, fd, part, low, high) == lib.RMT_OK)


def _runs(core: Core, part: int) -> Iterator[list[int]]:
    figures = ffi.new("uint64_t[4]")
    for i in itertools.count():
        if lib.rmt_index_run_at(core.pointer, part, i, figures) != lib.RMT_OK:
            return
        yield list(figures)


def runs(core: Core, part: int) -> list[RunSpan]:
    """A partition's runs, oldest first."""
    return [RunSpan(*figures[:3]) for figures in _runs(core, part)]


def bars_front(core: Core, part: int) -> bool:
    """Whether a run has no keys' ends; until it is merged ``begin_front`` gives nothing."""
    return not all(figures[3] for figures in _runs(core, part))


def clear(core: Core) -> None:
    """Forget everything; files are the caller's to remove."""
    lib.rmt_index_clear(core.pointer)


def figures(core: Core) -> IndexFigures:
    out = ffi.new("rmt_index_stats *")
    lib.rmt_index_figures(core.pointer, out)
    return IndexFigures(*(getattr(out, name) for name in IndexFigures.__dataclass_fields__))


def cold_page(core: Core, key: int) -> tuple[int, int] | None:
    """(descriptor, offset) of the page that a lookup of this key would wait for, if any."""
    answer = ffi.new("rmt_index_answer *")
    if lib.rmt_index_find(core.pointer, key, 0, answer) != lib.RMT_INDEX_COLD:
        return None
    return answer.fd, answer.offset


def synthetic_inserts(core: Core, first: int, count: int) -> None:
    """For measurements: made-up keys of the slots from ``first`` on."""
    lib.rmt_index_synthetic_inserts(core.pointer, first, count)


def synthetic_lookups(core: Core, first: int, count: int, *, stride: int = 1) -> int:
    """How many of those of every so many-th slot are found."""
    return lib.rmt_index_synthetic_lookups(core.pointer, first, count, stride)  # type: ignore[no-any-return]


def check_run(hash_seed: int, file: "str | os.PathLike[str]", slots: int) -> tuple[int, int] | None:
    """(entries of no slot, damaged pages) of a run's file; None: it is not whole.  Any thread."""
    past, damaged = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        whole = lib.rmt_index_check(hash_seed, fd, slots, past, damaged) == lib.RMT_OK
    finally:
        os.close(fd)
    return (past[0], damaged[0]) if whole else None
