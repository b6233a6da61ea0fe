"""Writing what is there already, as when a similar image is put beside the first."""

import mmap
import os
import time
from functools import partial
from pathlib import Path

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.scenarios.data_path import told_by
from bench.scenarios.images import MIB, sequential

DUPLICATE, NEW = range(2)
RATE, DURABLE = "rate", "durable"


class Duplicate(Scenario):
    """1 MiB a write, direct, into a new file; a pass-through writes over the one it has."""

    name = "duplicate"
    title = "Write data that is there already"
    question = "What do writes of 1 MiB cost when another image has the same, and when none has?"
    roles = ("images", "data path")
    cache = "direct I/O to the image; the host's cache below a mount is warm"
    reasons = {  # noqa: RUF012
        "passthrough": "It only passes on: Ramet hashes each block, finds and compares its twin.",
        "passthrough-c": "It only passes on, in C: no hash, no comparison, no Python.",
        "xfs": "It writes the data again, by the kernel, and takes the space again.",
        "btrfs": "It writes the data again, by the kernel, and takes the space again.",
        "lvm-thin": "It writes the data again, by the kernel, and takes the space again.",
        "zfs": "It writes the data again, by the kernel, and takes the space again.",
        "copy": "The host's file system writes the data again, and takes the space again.",
        "qcow2": "A raw file of the host's: it writes the data again, and takes the space again.",
        "juicefs": "It writes the data again, and acknowledges it from memory.",
    }

    def accepts(self, peer: Peer) -> str | None:
        return told_by(peer) or (None if peer.mounted else "its images have no path")

    def charts(self) -> list[Chart]:
        titles = {RATE: "1 MiB sequential writes", DURABLE: "1 MiB sequential writes and fsync"}
        return [
            Chart(name, title, "MiB/s", "higher", "data", x_names=["there already", "new"])
            for name, title in titles.items()
        ]

    def run(self, lab: Lab) -> None:
        mib = lab.pick(tiny=8, quick=64, full=512)
        golden = [data for _, data in sequential(mib * MIB, seed=1)]

        def put(peer: Peer) -> None:
            peer.make("golden", mib * MIB)
            peer.write("golden", lab.limited(sequential(mib * MIB, seed=1)))
            peer.sync(["golden"])

        def write(peer: Peer, n: int, what: int) -> dict[str, float]:
            content = golden
            if what == NEW:
                content = [data for _, data in sequential(mib * MIB, seed=2 + n)]
            name = f"again-{what}-{n}"
            peer.make(name, mib * MIB)
            with peer.opened(name) as path:
                written, synced = seconds_of(path, content)
            if peer.role == "images":
                peer.delete([name])
            return {RATE: mib / written, DURABLE: mib / synced}

        lab.patience_s *= 3  # a busy host takes its time to sync
        lab.prepare(f"image of {mib} MiB", put)
        for what in (DUPLICATE, NEW):  # a pass-through has then still what it is to have
            rounds = lab.pick(tiny=1, quick=3, full=7)
            lab.turns(what, rounds, partial(write, what=what), self.charts()[0].x_names[what])


def seconds_of(path: Path, content: list[bytes]) -> tuple[float, float]:
    """Until all is written, and until it is durable."""
    os.sync()  # what was written before must not be written back meanwhile
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    with mmap.mmap(-1, MIB) as aligned:
        try:
            written = 0.0
            for number, data in enumerate(content):
                aligned[:] = data
                start = time.perf_counter()
                os.pwrite(fd, aligned, number * MIB)
                written += time.perf_counter() - start
            start = time.perf_counter()
            os.fsync(fd)
            return written, written + time.perf_counter() - start
        finally:
            os.close(fd)
