"""What Ramet's map and fingerprint index take beside the data they are of."""

from pathlib import Path

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.peers.ramet import index_bytes
from bench.scenarios.mapped import age, solid_file
from engine import ROOT_INO, Store

NEW, AGED = range(2)
SHARE = "share"
COMMITS = 16


class Metadata(Scenario):
    """Read from a store that was closed, so that all of the index is in its files.

    Pages of the metadata file that are free for later commits count too: they are on the disk.
    """

    name = "metadata"
    title = "Metadata beside the data"
    question = "How large are the map and the index of data that is nowhere twice? (Ramet alone)"
    only = ("ramet-engine",)

    def charts(self) -> list[Chart]:
        names = ["written in order", "a quarter overwritten at random"]
        return [Chart(SHARE, "metadata and index, of unique data", "%", "lower", "when",
                      x_names=names, log_y=False)]  # fmt: skip

    def run(self, lab: Lab) -> None:
        mib = lab.pick(tiny=16, quick=256, full=4096)
        blocks = mib << 8
        lab.patience_s *= 10

        def new(peer: Peer, _: int) -> dict[str, float]:
            Store.create(store_of(peer))
            with Store.open(store_of(peer)) as store:
                solid_file(store.create_volume("lab"), b"image", blocks)
            return {SHARE: share(store_of(peer))}

        def aged(peer: Peer, _: int) -> dict[str, float]:
            with Store.open(store_of(peer)) as store:
                volume = store.volume("lab")
                ino = volume.lookup(ROOT_INO, b"image").ino
                for seed in range(COMMITS):
                    age(volume, ino, blocks, blocks // 4 // COMMITS, seed)
                    store.commit()
            return {SHARE: share(store_of(peer))}

        lab.turns(NEW, 1, new, f"{mib} MiB")
        lab.turns(AGED, 1, aged, "overwrites")
        lab.notes.append(
            f"{mib} MiB of random data; {blocks // 4:,} blocks overwritten in {COMMITS} commits. "
            "Not counted: the reserve, space that a store keeps for its metadata on a full disk"
        )


def store_of(peer: Peer) -> Path:
    return peer.folder / "measured"


def share(path: Path) -> float:
    """Percent; of a closed store."""
    with Store.open(path) as store:
        told = store.space()
    return (told.metadata_bytes + index_bytes(path)) / told.physical_bytes * 100
