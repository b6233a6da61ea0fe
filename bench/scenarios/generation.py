"""Is a clone of a clone of a clone as good as the first?"""

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario, timed_ms
from bench.scenarios.cloning import REASONS, clone_charts, one_clone
from bench.scenarios.images import GIB, MIB, scattered

READ = "read"
READS = dict.fromkeys(
    ("xfs", "btrfs", "btrfs-snapshot", "copy", "lvm-thin", "zfs"),
    "A read is the kernel's, without FUSE.",
)
WRITES = 4  # to each generation, so that each differs from the one before


class Generation(Scenario):
    """Each generation is cloned from the one before and gets some blocks of its own.

    The first one is read too: with backing files that is what a chain costs.
    """

    name = "generation"
    title = "Clone against generation"
    question = "Is the thousandth clone of a clone as quick to make, and to read, as the first?"
    reasons = {peer: f"{why} {READS.get(peer, '')}".strip() for peer, why in REASONS.items()}  # noqa: RUF012

    def charts(self) -> list[Chart]:
        return [
            *clone_charts("generation", "", log_x=True),
            Chart(READ, "open it and read its first MiB", "ms", "lower", "generation", ""),
        ]

    def run(self, lab: Lab) -> None:
        marks = lab.pick(tiny=(1, 3), quick=(1, 5, 20), full=(1, 10, 100, 300, 1000))
        rounds = lab.pick(tiny=2, quick=3, full=9)

        def put(peer: Peer) -> None:
            peer.make("gen-0", GIB)
            peer.write("gen-0", [(0, bytes(range(256)) * 4096)])

        lab.prepare("generation 0", put)
        made = 0
        for mark in lab.parts(marks):
            for generation in range(made, mark - 1):
                lab.prepare("generations before", lambda peer, g=generation: next_one(peer, g))  # type: ignore[misc]
            lab.turns(
                mark, rounds,
                lambda peer, n, mark=mark: clone_and_read(peer, mark, n),  # type: ignore[misc]
                f"generation {mark}",
            )  # fmt: skip
            lab.prepare("next generation", lambda peer, g=mark - 1: next_one(peer, g))  # type: ignore[misc]
            made = mark


def next_one(peer: Peer, generation: int) -> None:
    """Clone a generation, and make the clone differ from it."""
    made = f"gen-{generation + 1}"
    peer.clone(f"gen-{generation}", made)
    peer.write(made, scattered(GIB, WRITES, seed=generation))


def clone_and_read(peer: Peer, mark: int, number: int) -> dict[str, float]:
    name = f"gen-{mark}-{number}"
    found = one_clone(peer, f"gen-{mark - 1}", name, keep=True)
    if peer.mounted:
        found[READ] = timed_ms(lambda: first_mib(peer, name))
    peer.delete([name])
    return found


def first_mib(peer: Peer, name: str) -> None:
    with peer.opened(name) as path, path.open("rb", buffering=0) as file:
        file.read(MIB)
