"""The fingerprint index at scale: what a new block, a miss and a hit cost, from 1 GiB to 1 TiB.

Only the index: fingerprints are made up, spread evenly as a hash's are, and their slots are said to
be allocated; files are real.  One thread does everything in turn, tables and merges too, so the
figure for a new block has all of its work in it.  CPU time, because the machine is shared.
"""

import argparse
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import native
from engine.fingerprints import Fingerprints
from native import fingerprints

GIB_BLOCKS = 1 << 18
SIZES_GIB = (1, 16, 128, 1024)
SLAB_SLOTS = 1 << 18
PORTION = 1 << 13
LOOKUPS = 1 << 19
HITS = 1 << 12


@dataclass
class Cost:
    """Of one call, on average: CPU and wall, ns."""

    cpu: float
    wall: float

    def __str__(self) -> str:
        return f"{self.cpu:,.0f} ({self.wall:,.0f})"


class Clock:
    """CPU and wall time since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time_ns(), time.perf_counter_ns()

    def cost(self, calls: int) -> Cost:
        cpu, wall = time.process_time_ns() - self._cpu, time.perf_counter_ns() - self._wall
        return Cost(cpu / calls, wall / calls)


def core_with_slots(gib: int) -> native.Core:
    core = native.Core(hash_seed=1, load_node={}.__getitem__, slab_slots=SLAB_SLOTS)
    for slab in range(gib):
        core.add_slab(slab, -1)
        for chunk in range(SLAB_SLOTS // 8192):
            core.load_chunk(slab, chunk, b"\xff" * 1024 + bytes(1024))
    return core


def line(index: Fingerprints, core: native.Core, gib: int, insert: Cost, blocks: int) -> None:
    before = index.figures()
    clock = Clock()
    fingerprints.synthetic_lookups(core, 1 << 40, LOOKUPS)
    miss = clock.cost(LOOKUPS)
    between = index.figures()
    stride = max(1, blocks // HITS)
    found = fingerprints.synthetic_lookups(core, 0, HITS, stride=stride)
    clock = Clock()
    fingerprints.synthetic_lookups(core, 0, HITS, stride=stride)  # its pages are in memory now
    hit = clock.cost(HITS)
    assert found == HITS, f"{HITS - found} entries were forgotten"
    files = sum(file.stat().st_size for file in index.directory.iterdir())
    print(
        f"{gib:>5} GiB  insert {insert} ns  miss {miss} ns  hit {hit} ns  "
        f"reads/miss {(between.page_reads - before.page_reads) / LOOKUPS:.4f}  "
        f"written {index.written_bytes / blocks:.1f}, on disk {files / blocks:.1f} B/block  "
        f"memory {between.memory_bytes / blocks:.2f} B/block ({between.memory_bytes >> 20} MiB, "
        f"fronts {between.front_bytes >> 20})  "
        f"runs a partition {between.runs / fingerprints.PARTS:.1f}  forgotten {between.forgotten}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tib", type=float, default=1 / 64, help="how far to go")
    told, _ = parser.parse_known_args()
    last = int(told.tib * 1024)
    core = core_with_slots(last)
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as scratch:
        index = Fingerprints(Path(scratch), core)
        blocks, cpu, wall = 0, 0.0, 0.0
        for gib in sorted({*(s for s in SIZES_GIB if s < last), last}):
            clock, first = Clock(), blocks
            while blocks < gib * GIB_BLOCKS:
                fingerprints.synthetic_inserts(core, blocks, PORTION)
                index.turn(PORTION)
                blocks += PORTION
            part = clock.cost(blocks - first)
            cpu += part.cpu * (blocks - first)
            wall += part.wall * (blocks - first)
            line(index, core, gib, Cost(cpu / blocks, wall / blocks), blocks)
        index.drop_jobs()
        core.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"peak of the process {peak} MiB, of which {last * 4 * 32 // 1024} MiB are slots' bits")


if __name__ == "__main__":
    main()
