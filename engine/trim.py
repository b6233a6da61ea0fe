"""Trim: give the space of free slots back to the host's file system, by punching their slabs.

A run of free slots is taken out of use on the engine thread, punched on any thread, and given back:
so no write can go to a slot while its punch is under way.  Free means that the commit that freed
the slot is durable and its readers have gone, so a crash at any point finds nothing missing.
Punched slots are remembered (in memory only) and not punched again before they were used.
"""

from typing import NamedTuple

from engine.pool import Pool

RUN_SLOTS_MIN = 16  # 64 KiB: shorter holes cost the host's file system more than they give
PORTION_RUNS = 64
PORTION_SLOTS = 65_536


class Run(NamedTuple):
    address: int
    slots: int


class Trim:
    """One pass over all slabs: ``take``, ``punch``, ``give`` until ``take`` finds nothing."""

    def __init__(self, pool: Pool, run_min: int = RUN_SLOTS_MIN) -> None:
        self._pool = pool
        self._run_min = run_min
        self._slab = self._slot = 0
        self.slots = 0

    def take(self) -> list[Run]:
        """The next runs, now in use (engine thread)."""
        core, runs, slots = self._pool.core, list[Run](), 0
        while self._slab < self._pool.state.slabs:
            address, count, self._slot = core.trim_take(self._slab, self._slot, self._run_min)
            if not count:
                self._slab, self._slot = self._slab + 1, 0
                continue
            runs.append(Run(address, count))
            slots += count
            if len(runs) >= PORTION_RUNS or slots >= PORTION_SLOTS:
                break
        return runs

    def punch(self, runs: list[Run]) -> None:
        """Any thread.  OSError when the host's file system cannot."""
        for run in runs:
            self._pool.core.trim_punch(run.address, run.slots)

    def give(self, runs: list[Run], *, punched: bool) -> None:
        """The runs may be written again (engine thread)."""
        for run in runs:
            self._pool.core.trim_give(run.address, run.slots, punched=punched)
            self.slots += run.slots if punched else 0
