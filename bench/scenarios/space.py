"""What clones take on disk: fresh ones, used ones, and images that are merely alike."""

import random
from collections.abc import Iterator

from bench.harness.peer import Block, Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.scenarios.images import BLOCK, MIB, sequential

FRESH, UPDATED = range(2)
FILE_BLOCKS = 16


def update(size_bytes: int, clone: int, common: int, own: int) -> Iterator[Block]:
    """What a guest's update writes: files that all guests get alike, in runs at the same places,
    and blocks of its own (logs, keys) anywhere.  The same for every peer and run."""
    shared, mine = random.Random(1), random.Random(clone + 1000)
    blocks = size_bytes // BLOCK
    for _ in range(common // FILE_BLOCKS):
        at = shared.randrange(blocks - FILE_BLOCKS) * BLOCK
        yield at, shared.randbytes(FILE_BLOCKS * BLOCK)
    for _ in range(own):
        yield mine.randrange(blocks) * BLOCK, mine.randbytes(BLOCK)


class Space(Scenario):
    name = "space"
    title = "Space after clones and updates"
    question = "What do N clones add on disk, new, and after each was updated like all others?"
    reasons = {  # noqa: RUF012
        "xfs": "A reflink of few extents takes little metadata, and the store keeps a journal.",
        "btrfs": "A reflink of few extents takes little metadata.",
        "btrfs-snapshot": "A snapshot is one root.",
        "qcow2": "An empty qcow2 file takes 200 KiB whatever the image.",
        "copy": "It has no map of blocks and no index; data that nobody shares needs neither.",
        "juicefs": "A clone is rows of its database; what is written is kept without an index.",
        "lvm-thin": "A snapshot is one root, and a chunk of 64 KiB one entry of the pool's map.",
        "zfs": "A clone is one root; blocks are larger than Ramet's, with less of a map.",
    }

    def charts(self) -> list[Chart]:
        return [Chart("added", "bytes added by the clones", "bytes", "lower", "when",
                      x_names=["new", "updated"])]  # fmt: skip

    def run(self, lab: Lab) -> None:
        size = lab.pick(tiny=2, quick=32, full=512) * MIB
        count = lab.pick(tiny=2, quick=10, full=30)
        common, own = lab.pick(tiny=(32, 8), quick=(1024, 128), full=(16384, 2048))
        before: dict[str, int] = {}

        def put(peer: Peer) -> None:
            peer.make("golden", size)
            peer.write("golden", lab.limited(sequential(size, seed=1)))
            peer.sync(["golden"])
            before[peer.name] = peer.used_bytes()

        names: dict[str, list[str]] = {}

        def clones(peer: Peer, _: int) -> dict[str, float]:
            names[peer.name] = peer.clone_many("golden", "clone-", count)
            peer.sync(names[peer.name])
            return {"added": peer.used_bytes() - before[peer.name]}

        def updates(peer: Peer, _: int) -> dict[str, float]:
            for number, name in enumerate(names[peer.name]):
                peer.write(name, update(size, number, common, own))
            return {"added": peer.used_bytes() - before[peer.name]}

        lab.patience_s *= 10
        lab.prepare(f"image of {size // MIB} MiB", put)
        lab.turns(FRESH, 1, clones, f"{count} clones")
        lab.turns(UPDATED, 1, updates, f"{count} updates")
        lab.notes.append(
            f"{count} clones of {size // MIB} MiB; an update writes {common * BLOCK // MIB} MiB "
            f"alike in all and {own * BLOCK // 1024} KiB of its own"
        )


class Dedup(Scenario):
    """Each image is nine tenths files that others have too, but in an order of its own."""

    name = "dedup"
    title = "Similar images"
    question = "What do images take that were put in one by one and are nine tenths alike?"
    reasons = dict.fromkeys(
        ("xfs", "btrfs", "btrfs-snapshot", "qcow2", "copy", "juicefs", "lvm-thin", "zfs"),
        "Ramet has a checksum of each block and an index of their fingerprints; the first image, "
        "which has no twin, pays for both.",
    )

    def charts(self) -> list[Chart]:
        return [Chart("used", "bytes on disk", "bytes", "lower", "images", "images", log_x=False,
                      log_y=False)]  # fmt: skip

    def run(self, lab: Lab) -> None:
        files = lab.pick(tiny=8, quick=256, full=4096)  # of 64 KiB
        before: dict[str, int] = {}
        lab.prepare("empty", lambda peer: before.update({peer.name: peer.used_bytes()}))
        lab.patience_s *= 10
        for number in range(1, lab.pick(tiny=2, quick=4, full=10) + 1):

            def put(peer: Peer, _: int, number: int = number) -> dict[str, float]:
                name = f"image-{number}"
                peer.make(name, files * FILE_BLOCKS * BLOCK)
                peer.write(name, similar(files, number))
                return {"used": peer.used_bytes() - before[peer.name]}

            lab.turns(number, 1, put, f"image {number}")


def similar(files: int, number: int) -> Iterator[Block]:
    """Files in the order this image has them; the last tenth are its own."""
    rng, size = random.Random(number), FILE_BLOCKS * BLOCK
    order = list(range(files))
    rng.shuffle(order)
    for place, file in enumerate(order):
        own = file >= files - files // 10
        seed = file + number * files if own else file
        yield place * size, random.Random(seed).randbytes(size)
