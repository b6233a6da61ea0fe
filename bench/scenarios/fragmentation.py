"""Does a clone cost more when the image has been written all over?"""

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.scenarios.cloning import REASONS, clone_charts, one_clone
from bench.scenarios.images import GIB, scattered


class Fragmentation(Scenario):
    """One sparse image for each number of extents: so many blocks at random places."""

    name = "fragmentation"
    title = "Clone against fragmentation"
    question = "Does a clone take longer when the image is fragmented? (16 GiB, blocks of 4 KiB)"
    reasons = REASONS

    def charts(self) -> list[Chart]:
        return clone_charts("extents", "extents", log_x=True)

    def run(self, lab: Lab) -> None:
        counts = lab.pick(
            tiny=(1, 100), quick=(1, 1000, 5000), full=(1, 1000, 10_000, 50_000, 200_000)
        )
        for count in lab.parts(counts):
            name = f"golden-{count}"

            def put(peer: Peer, name: str = name, count: int = count) -> None:
                peer.make(name, 16 * GIB)
                peer.write(name, lab.limited(scattered(16 * GIB, count, seed=count)))

            lab.prepare(f"{count:,} extents", put)
            lab.turns(
                count, lab.pick(tiny=2, quick=3, full=9),
                lambda peer, n, name=name: one_clone(peer, name, f"{name}-{n}"),  # type: ignore[misc]
                f"{count:,} extents",
            )  # fmt: skip
