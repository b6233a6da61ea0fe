"""What it costs to be rid of clones, and how long until their space is back."""

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario, timed_ms
from bench.scenarios.images import MIB, scattered, sequential


class Deleting(Scenario):
    """Clones that were written to, deleted in one go; what is timed is told apart."""

    name = "deleting"
    title = "Delete clones"
    question = "How long does it take to delete used clones, and until their space is back?"
    reasons = {  # noqa: RUF012
        "xfs": "It counts references as it unlinks, so there is nothing to look for afterwards; "
        "Ramet traces what is left.",
        "btrfs": "It counts references as it unlinks, and a sync has written that.",
        "btrfs-snapshot": "It frees in the background, for which nothing here waits.",
        "qcow2": "A clone is one file of the host's.",
        "copy": "A clone is one file of the host's.",
        "juicefs": "It deletes rows of its database; objects go later, for which nothing waits.",
        "lvm-thin": "A chunk has a count of who uses it, so nothing is looked for afterwards.",
        "zfs": "It frees in the background, for which nothing here waits.",
    }

    def charts(self) -> list[Chart]:
        return [Chart("time", "N clones deleted", "ms", "lower", "until",
                      x_names=["deleted", "space is back"])]  # fmt: skip

    def run(self, lab: Lab) -> None:
        size = lab.pick(tiny=2, quick=32, full=128) * MIB
        count = lab.pick(tiny=2, quick=10, full=100)
        blocks = lab.pick(tiny=8, quick=100, full=2000)

        def put(peer: Peer) -> None:
            peer.make("golden", size)
            peer.write("golden", lab.limited(sequential(size, seed=1)))

        def delete(peer: Peer, n: int) -> dict[str, float]:
            names = peer.clone_many("golden", f"clone-{n}-", count)
            for number, name in enumerate(names):
                peer.write(name, lab.limited(scattered(size, blocks, seed=number)))
            peer.sync(names)
            deleted = timed_ms(lambda: peer.delete(names))
            lab.record("time", peer, 1, deleted + timed_ms(peer.reclaim))
            return {"time": deleted}

        lab.patience_s *= 5
        lab.prepare(f"image of {size // MIB} MiB", put)
        lab.turns(0, lab.pick(tiny=1, quick=2, full=3), delete, f"{count} clones")
        lab.notes.append(f"{count} clones of {size // MIB} MiB, {blocks} blocks written to each")
