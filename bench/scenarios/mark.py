"""How fast gc's mark goes through the map of an aged file, and what clones of it add."""

import os
import time

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.scenarios.images import BLOCK
from bench.scenarios.mapped import GIB_BLOCKS, age, mapped_file
from engine import ROOT_INO, Store

ALONE, CLONED = range(2)
RATE, CPU = "rate", "cpu"


class Mark(Scenario):
    """By the processor's time of the one thread that marks; the engine's API drives it."""

    name = "mark"
    title = "Mark of a gc"
    question = "How fast does gc trace an aged tree, alone and with clones of it? (Ramet alone)"
    cache = "warm: the metadata was written just before"
    only = ("ramet-engine",)

    def charts(self) -> list[Chart]:
        names = ["aged file", "and its clones"]
        return [
            Chart(RATE, "map entries a second of a core", "M entries/s", "higher", "what",
                  x_names=names),
            Chart(CPU, "CPU time of a mark", "ms", "lower", "what", x_names=names),
        ]  # fmt: skip

    def run(self, lab: Lab) -> None:
        gib = lab.pick(tiny=1, quick=8, full=64)
        overwrites = lab.pick(tiny=500, quick=20_000, full=200_000)
        clones = lab.pick(tiny=10, quick=1000, full=1000)

        for peer in lab.peers:
            path = peer.folder / "marked"
            Store.create(path)
            with Store.open(path) as store:
                volume, blocks = store.create_volume("lab"), gib * GIB_BLOCKS
                ino = mapped_file(store, volume, b"aged", blocks)
                age(volume, ino, blocks, overwrites, seed=1)
                store.commit()

                def measure(_: Peer, __: int, store: Store = store) -> dict[str, float]:
                    seconds, entries = mark(store)
                    return {RATE: entries / seconds / 1e6, CPU: seconds * 1e3}

                rounds = lab.pick(tiny=2, quick=5, full=9)
                lab.turns(ALONE, rounds, measure, "mark")
                for number in range(clones):
                    clone = store.clone_file(volume, ino, volume, ROOT_INO, b"clone-%d" % number)
                    volume.write(clone.ino, number * BLOCK, os.urandom(BLOCK))
                store.commit()
                lab.turns(CLONED, rounds, measure, "mark with clones")
        lab.notes.append(
            f"{gib} GiB mapped, {overwrites:,} blocks overwritten at random, then {clones:,} "
            "clones with a block of its own in each"
        )


def mark(store: Store) -> tuple[float, int]:
    """Seconds of CPU, and entries of the map that were visited."""
    gc, commit = store.start_gc()
    try:
        commit.write()
        store.finish(commit)
        gc.open()
        start = time.thread_time()
        gc.mark()
        return time.thread_time() - start, gc.result.entries_visited
    finally:
        gc.close()
