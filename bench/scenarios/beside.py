"""What a database in a guest meets while somebody imports an image into the same store."""

import contextlib
import statistics
import subprocess
from collections.abc import Iterator
from functools import partial

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.peers.commands import missing
from bench.scenarios.data_path import synced_times_ms, told_by
from bench.scenarios.images import MIB, sequential

TYPICAL, WORST = "median", "p99"
ALONE, BESIDE = range(2)
END_S = 60


class Beside(Scenario):
    """The import is fio: new data, 1 MiB a write through the page cache, into another image."""

    name = "beside"
    title = "Durable writes beside an import"
    question = "What does a 4 KiB write and fdatasync cost while an image is written beside it?"
    reasons = {  # noqa: RUF012
        "xfs": "fdatasync of a block that is there writes that block and no metadata.",
        "btrfs": "It logs what changed of that one file; Ramet commits all that the store has.",
        "lvm-thin": "A chunk that is allocated is written in its place, no metadata.",
        "zfs": "It logs the write by itself; Ramet commits all that the store has.",
        "copy": "fdatasync of a block that is there writes that block and no metadata.",
        "qcow2": "Raw or allocated already: the block is written in its place, no metadata.",
        "juicefs": "What is imported beside it goes to objects, after its own schedule.",
    }

    def detect(self) -> str | None:
        return missing("fio", package="fio")

    def accepts(self, peer: Peer) -> str | None:
        return told_by(peer) or (None if peer.mounted else "its images have no path")

    def charts(self) -> list[Chart]:
        what = "4 KiB write and fdatasync"
        titles = {TYPICAL: f"{what}, median", WORST: f"{what}, 99th percentile"}
        return [
            Chart(name, title, "ms", "lower", "where", x_names=["alone", "beside an import"])
            for name, title in titles.items()
        ]

    def run(self, lab: Lab) -> None:
        mib = lab.pick(tiny=8, quick=64, full=512)
        count = lab.pick(tiny=20, quick=100, full=1000)
        lab.patience_s *= 3

        def put(peer: Peer) -> None:
            for name in ("golden", "import"):
                peer.make(name, mib * MIB)
            peer.write("golden", lab.limited(sequential(mib * MIB, seed=1)))

        def write(peer: Peer, n: int, where: int) -> dict[str, float]:
            with contextlib.ExitStack() as beside:
                if where == BESIDE:
                    beside.enter_context(importing(peer, mib))
                with peer.opened("golden") as path:
                    times = sorted(synced_times_ms(path, mib, n, count))
            return {TYPICAL: statistics.median(times), WORST: times[len(times) * 99 // 100]}

        lab.prepare(f"image of {mib} MiB", put)
        for where in (ALONE, BESIDE):
            rounds = lab.pick(tiny=1, quick=2, full=5)
            place = self.charts()[0].x_names[where]
            lab.turns(where, rounds, partial(write, where=where), place)


@contextlib.contextmanager
def importing(peer: Peer, mib: int) -> Iterator[None]:
    """An image written over and over meanwhile."""
    with peer.opened("import") as path:
        process = subprocess.Popen(
            ["fio", "--name=x", f"--filename={path}", "--rw=write", "--bs=1m", "--ioengine=psync",
             "--refill_buffers", "--fallocate=none", "--thread", f"--size={mib}m", "--time_based",
             f"--runtime={END_S}", "--end_fsync=0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            process.wait(END_S)
