"""How many clones a second: of one image, in one go, and by several at once."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Event

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.scenarios.images import GIB, scattered

BLOCKS = 1000
REASONS = {
    "ramet-engine": "It is Ramet, without a daemon and a job's record of each clone.",
    "ramet-cp": "It is Ramet by its mount, without a job's record of each clone.",
    "xfs": "A clone is a system call that changes memory; one sync makes all durable.",
    "btrfs": "A clone is a system call that changes memory; one sync makes all durable.",
    "btrfs-snapshot": "A snapshot copies one root in the kernel.",
    "qcow2": "Only an empty file that names its base is made; each read pays for it later.",
    "copy": "There is little in this sparse image to copy.",
    "juicefs": "A clone copies rows of its database, few for an image of few pieces.",
    "lvm-thin": "One root of the pool's map is copied in the kernel.",
    "zfs": "A snapshot and a clone are two roots, in the kernel.",
}


class Batch(Scenario):
    """The best way that a peer has to make N of them, until all are durable."""

    name = "batch"
    title = "Clones a second against N"
    question = "How many durable clones a second, when N are made in one go?"
    reasons = REASONS

    def charts(self) -> list[Chart]:
        return [Chart("rate", "durable clones a second", "clones/s", "higher", "N", "clones")]

    def run(self, lab: Lab) -> None:
        put_golden(lab)
        patience_s = lab.patience_s
        counts = lab.pick(
            tiny=(1, 10), quick=(1, 10, 100, 1000), full=(1, 10, 100, 1000, 10_000)
        )  # fmt: skip
        for count, more in lab.parts(tuple(pairwise((*counts, counts[-1])))):
            lab.patience_s = 2 * patience_s * count / more  # who would be too slow at the next

            def many(peer: Peer, n: int, count: int = count) -> dict[str, float]:
                start = time.perf_counter()
                names = peer.clone_many("golden", f"c{count}-{n}-", count)
                peer.sync(names)
                took = time.perf_counter() - start
                peer.delete(names)
                return {"rate": count / took}

            lab.turns(count, lab.pick(tiny=2, quick=3, full=3), many, f"{count:,} clones")


class Concurrency(Scenario):
    """Clones one by one, each durable before the next, by several clients at once."""

    name = "concurrency"
    title = "Clones a second against clients"
    question = "What do several clients at once get, when each of their clones is made durable?"
    reasons = REASONS

    def accepts(self, peer: Peer) -> str | None:
        return None if peer.threads else "it has one caller at a time"

    def charts(self) -> list[Chart]:
        return [Chart("rate", "durable clones a second, all clients", "clones/s", "higher",
                      "clients", "clients")]  # fmt: skip

    def run(self, lab: Lab) -> None:
        put_golden(lab)
        each = lab.pick(tiny=2, quick=3, full=50)
        for clients in lab.parts(lab.pick(tiny=(1, 2), quick=(1, 4, 8), full=(1, 2, 4, 8, 16, 32))):

            def side_by_side(peer: Peer, n: int, clients: int = clients) -> dict[str, float]:
                made: list[str] = []
                ended = Event()  # early: by an error of one, or Ctrl-C
                start = time.perf_counter()

                def client(number: int) -> None:
                    for clone in range(each):
                        if ended.is_set() or time.perf_counter() - start > lab.patience_s:
                            return
                        name = f"s{clients}-{n}-{number}-{clone}"
                        peer.clone("golden", name)
                        peer.sync([name])
                        made.append(name)

                with ThreadPoolExecutor(clients) as pool:
                    try:
                        list(pool.map(client, range(clients)))
                    finally:
                        ended.set()
                took = time.perf_counter() - start
                peer.delete(made)
                return {"rate": len(made) / took}

            lab.turns(
                clients, lab.pick(tiny=2, quick=3, full=5), side_by_side, f"{clients} clients"
            )


def put_golden(lab: Lab) -> None:
    blocks = lab.pick(tiny=16, quick=BLOCKS, full=BLOCKS)

    def put(peer: Peer) -> None:
        peer.make("golden", 4 * GIB)
        peer.write("golden", lab.limited(scattered(4 * GIB, blocks, seed=1)))

    lab.prepare("image of 4 GiB", put)
