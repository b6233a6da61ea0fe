"""Is the memory for maps bounded, however much is mapped?"""

import json
import subprocess
import sys
from pathlib import Path

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.scenarios.images import MIB
from bench.scenarios.mapped import GIB_BLOCKS, mapped_file
from engine import Store

GROWN = "grown"
CACHE_BYTES = 16 * MIB
PROGRAM = "bench.scenarios.walker"


class Memory(Scenario):
    """A process of its own opens the store with a small cache, walks the map of one file from end
    to end and reads blocks at random; its anonymous memory is looked at all along."""

    name = "memory"
    title = "Memory while a large file is walked"
    question = "Does anonymous memory stay within the configured cache? (Ramet alone)"
    cache = "warm: the metadata was written just before"
    only = ("ramet-engine",)

    def charts(self) -> list[Chart]:
        return [Chart(GROWN, "anonymous memory beyond that of an open store", "bytes", "lower",
                      "mapped", "GiB", log_y=False)]  # fmt: skip

    def run(self, lab: Lab) -> None:
        reads = lab.pick(tiny=1000, quick=50_000, full=200_000)
        lab.patience_s *= 10
        for gib in lab.pick(tiny=(1, 2), quick=(1, 4, 16), full=(1, 4, 16, 64)):

            def put(peer: Peer, gib: int = gib) -> None:
                Store.create(store_of(peer, gib))
                with Store.open(store_of(peer, gib)) as store:
                    volume = store.create_volume("lab")
                    mapped_file(store, volume, b"walked", gib * GIB_BLOCKS)

            def walk(peer: Peer, _: int, gib: int = gib) -> dict[str, float]:
                done = subprocess.run(
                    [sys.executable, "-P", "-m", PROGRAM, str(store_of(peer, gib)),
                     str(CACHE_BYTES), str(reads)],
                    check=True, capture_output=True,
                )  # fmt: skip
                told = json.loads(done.stdout)
                return {GROWN: told["most_bytes"] - told["opened_bytes"]}

            lab.prepare(f"{gib} GiB mapped", put)
            lab.turns(gib, lab.pick(tiny=1, quick=2, full=3), walk, f"{gib} GiB")
        lab.notes.append(
            f"configured cache {CACHE_BYTES // MIB} MiB; each mapped GiB has 4 MiB of map; "
            f"{reads:,} blocks read at random after the walk"
        )


def store_of(peer: Peer, gib: int) -> Path:
    return peer.folder / f"walked-{gib}"
