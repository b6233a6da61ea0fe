"""Does a clone cost more when the image is larger?"""

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.scenarios.cloning import REASONS, clone_charts, one_clone
from bench.scenarios.images import GIB, scattered


class CloneSize(Scenario):
    """Sparse images with the same number of blocks written, so that only the size differs."""

    name = "clone-size"
    title = "Clone against image size"
    question = "Does a clone take longer when the image is larger? (sparse, the same data in each)"
    reasons = REASONS

    def charts(self) -> list[Chart]:
        return clone_charts("image size", "GiB")

    def run(self, lab: Lab) -> None:
        sizes = lab.pick(tiny=(1, 4), quick=(1, 32, 1024), full=(1, 4, 16, 64, 256, 1024))
        blocks = lab.pick(tiny=16, quick=1000, full=5000)
        for gib in lab.parts(sizes):
            name = f"golden-{gib}"

            def put(peer: Peer, name: str = name, gib: int = gib) -> None:
                peer.make(name, gib * GIB)
                peer.write(name, lab.limited(scattered(gib * GIB, blocks, seed=gib)))

            lab.prepare(f"{gib} GiB image", put)
            lab.turns(
                gib, lab.pick(tiny=2, quick=5, full=15),
                lambda peer, n, name=name: one_clone(peer, name, f"{name}-{n}"),  # type: ignore[misc]
                f"{gib} GiB",
            )  # fmt: skip
