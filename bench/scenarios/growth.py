"""Does a clone cost more when there are many images already?"""

import time

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.scenarios.cloning import REASONS, clone_charts, one_clone
from bench.scenarios.images import GIB, scattered

PIECE = 50


class Growth(Scenario):
    name = "growth"
    title = "Clone against what is stored"
    question = "Does a clone take longer when the store is full of clones?"
    reasons = REASONS

    def charts(self) -> list[Chart]:
        return clone_charts("clones there are", "clones")

    def run(self, lab: Lab) -> None:
        patience_s = lab.patience_s
        blocks = lab.pick(tiny=8, quick=1000, full=1000)

        def put(peer: Peer) -> None:
            peer.make("golden", 4 * GIB)
            peer.write("golden", lab.limited(scattered(4 * GIB, blocks, seed=1)))

        def grow(peer: Peer, there: int, count: int) -> None:
            deadline = time.monotonic() + patience_s
            while there < count:
                piece = min(PIECE, count - there)
                peer.sync(peer.clone_many("golden", f"there-{there}-", piece))
                there += piece
                if time.monotonic() > deadline and there < count:
                    raise TimeoutError(f"made {there} of {count} clones in {patience_s:.0f} s")

        lab.prepare("image", put)
        there = 0
        counts = lab.pick(tiny=(1, 5), quick=(1, 100, 300), full=(1, 100, 1000, 10_000))
        for count in lab.parts(counts):
            lab.prepare(f"{count:,} clones", lambda peer, a=there, b=count: grow(peer, a, b))  # type: ignore[misc]
            there = count
            lab.turns(
                count, lab.pick(tiny=2, quick=3, full=9),
                lambda peer, n, count=count: one_clone(peer, "golden", f"one-{count}-{n}"),  # type: ignore[misc]
                f"{count:,} clones",
            )  # fmt: skip
