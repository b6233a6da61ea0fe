"""A whole datastore copied, against how many files it has."""

from collections.abc import Iterator
from typing import cast

from bench.harness.peer import File, Peer, TreePeer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario, timed_ms
from bench.scenarios.cloning import CALL, DURABLE, clone_charts

DIRECTORY = 1000


def files(count: int) -> Iterator[File]:
    """4 KiB each, a thousand a directory, no two alike."""
    for n in range(count):
        yield f"d{n // DIRECTORY:04d}/f{n % DIRECTORY:04d}", n.to_bytes(8, "big") * 512


class Datastore(Scenario):
    name = "datastore"
    title = "A datastore of many files"
    question = "How long does it take to clone a whole datastore, by the number of its files?"
    reasons = {  # noqa: RUF012
        "btrfs-snapshot": "A snapshot copies one root in the kernel; the daemon's clone is a job.",
        "xfs": "A handful of files is quickly reflinked one by one.",
        "btrfs": "A handful of files is quickly reflinked one by one.",
        "copy": "A handful of small files is quickly copied.",
        "juicefs": "A handful of files is a handful of rows of its database.",
    }

    def accepts(self, peer: Peer) -> str | None:
        if not isinstance(peer, TreePeer) or peer.name == "ramet-cp":
            return "it has no operation for a whole datastore"
        return None

    def charts(self) -> list[Chart]:
        return clone_charts("files", "files")

    def run(self, lab: Lab) -> None:
        counts = lab.pick(
            tiny=(2, 20), quick=(10, 300, 2000), full=(10, 1000, 10_000, 100_000)
        )  # fmt: skip
        for count in lab.parts(counts):
            name = f"tree-{count}"

            def put(peer: Peer, name: str = name, count: int = count) -> None:
                cast(TreePeer, peer).make_tree(name, lab.limited(files(count)))

            def clone(peer: Peer, n: int, name: str = name) -> dict[str, float]:
                tree, target = cast(TreePeer, peer), f"{name}-{n}"
                called = timed_ms(lambda: tree.clone_tree(name, target))
                return {CALL: called, DURABLE: called + timed_ms(lambda: tree.sync_tree(target))}

            lab.prepare(f"{count:,} files", put)
            lab.turns(count, lab.pick(tiny=2, quick=3, full=9), clone, f"{count:,} files")
