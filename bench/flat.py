"""What a request costs against what the file is: size, extents, generation, number of clones.

Reads and overwrites of 4 KiB at random places, by the engine, in CPU time of the thread; each
figure is the median of BATCHES batches, taken in turns with those of its row.  Every read is of
blocks that are mapped and in the host's page cache.  Then a file of ``--gib`` mapped GiB is walked
from end to end and read at random, in a process that has not made it: its anonymous memory is
printed beside the configured cache.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.clones import aged_file
from bench.scenarios.mapped import mapped_file, solid_file
from bench.scenarios.memory import PROGRAM
from engine import ROOT_INO, Store, Volume
from engine.store import CACHE_BYTES

BLOCK = 4096
GIB = 1 << 30
BATCHES = 15
BATCH = 400
AGED_BLOCKS = 20_000
GENERATION_WRITES = 20
RANDOM_READS = 200_000

Place = Callable[[random.Random], int]  # of a block that is mapped


class Row:
    """Files that should cost the same, named after what differs."""

    def __init__(self, store: Store, volume: Volume, name: str) -> None:
        self.store, self.volume, self.name = store, volume, name
        self.files: dict[str, tuple[int, Place]] = {}

    def add(self, name: str, ino: int, place: Place) -> None:
        self.files[name] = ino, place

    def print(self) -> None:
        self.store.commit()
        for what, request in (("read", self._read), ("overwrite", self._write)):
            found: dict[str, list[float]] = {name: [] for name in self.files}
            for n in range(BATCHES):
                for name, (ino, place) in self.files.items():
                    rng = random.Random(n)
                    places = [place(rng) * BLOCK for _ in range(BATCH)]
                    data = [rng.randbytes(BLOCK) for _ in range(BATCH if what != "read" else 0)]
                    start = time.thread_time_ns()
                    request(ino, places, data)
                    found[name].append((time.thread_time_ns() - start) / BATCH / 1e3)
                    self.store.commit()
            medians = {name: statistics.median(each) for name, each in found.items()}
            first = next(iter(medians.values()))
            cells = "".join(
                f"{name:>14} {us:6.2f} us ({us / first:4.2f})" for name, us in medians.items()
            )
            print(f"4 KiB {what:<10}{self.name:<14}{cells}", flush=True)

    def _read(self, ino: int, places: list[int], data: list[bytes]) -> None:
        buffer = memoryview(bytearray(BLOCK))
        for offset in places:
            self.volume.read_into(ino, offset, buffer)

    def _write(self, ino: int, places: list[int], data: list[bytes]) -> None:
        for offset, block in zip(places, data, strict=True):
            self.volume.write(ino, offset, block)


def written(seed: int, blocks: int) -> Place:
    """Among the blocks that ``aged_file`` has written."""
    rng = random.Random(seed)
    places = []
    for _ in range(AGED_BLOCKS):
        places.append(rng.randrange(blocks))
        rng.randbytes(BLOCK)
    return lambda rng: rng.choice(places)


def sizes(store: Store, volume: Volume) -> None:
    row = Row(store, volume, "size")
    for gib in (1, 64, 1024):
        ino = aged_file(volume, b"size-%d" % gib, gib * GIB, AGED_BLOCKS)
        row.add(f"{gib} GiB", ino, written(gib * GIB, gib * GIB // BLOCK))
    row.print()


def fragments(store: Store, volume: Volume) -> None:
    """One file whole, one of as many extents as it has blocks, nearly."""
    row, blocks = Row(store, volume, "extents"), GIB // 2 // BLOCK
    for name, overwrites in (("1", 0), ("10,000", 5_000), ("100,000", 100_000)):
        ino = solid_file(volume, b"extents-" + name.encode(), blocks)
        rng = random.Random(1)
        for n in range(overwrites):
            volume.write(ino, rng.randrange(blocks) * BLOCK, rng.randbytes(BLOCK))
            if n % 20_000 == 0:
                store.commit()
        row.add(name, ino, lambda rng: rng.randrange(blocks))
    row.print()


def generations(store: Store, volume: Volume) -> None:
    """A clone of a clone of a clone, each with a few blocks of its own."""
    row, blocks = Row(store, volume, "generation"), 1 << 14
    ino, rng = solid_file(volume, b"generation-0", blocks), random.Random(3)
    for n in range(1, 1001):
        ino = store.clone_file(volume, ino, volume, ROOT_INO, b"generation-%d" % n).ino
        for _ in range(GENERATION_WRITES):
            volume.write(ino, rng.randrange(blocks) * BLOCK, rng.randbytes(BLOCK))
        if n in (1, 100, 1000):
            kept = store.clone_file(volume, ino, volume, ROOT_INO, b"kept-%d" % n).ino
            row.add(f"{n}", kept, lambda rng: rng.randrange(blocks))
    row.print()


def siblings(store: Store, volume: Volume) -> None:
    """The last clone of a file that has 1, 100, 1,000 of them."""
    row, blocks = Row(store, volume, "clones"), 1 << 14
    for count in (1, 100, 1000):
        ino = solid_file(volume, b"sibling-%d" % count, blocks)
        for n in range(count):
            clone = store.clone_file(volume, ino, volume, ROOT_INO, b"sibling-%d-%d" % (count, n))
        row.add(f"{count}", clone.ino, lambda rng: rng.randrange(blocks))
    row.print()


def build(path: Path, blocks: int) -> None:
    with Store.open(path) as store:
        mapped_file(store, store.create_volume("lab"), b"walked", blocks)


def walk(path: Path, gib: int) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", PROGRAM, str(path), str(CACHE_BYTES), str(RANDOM_READS)],
        check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    told = json.loads(done.stdout)
    print(
        f"walked {gib:,} mapped GiB in {told['walk_s']:.1f} s and read {RANDOM_READS:,} blocks of "
        f"it: anonymous memory {told['opened_bytes'] >> 20} -> {told['most_bytes'] >> 20} MiB; "
        f"configured cache {CACHE_BYTES >> 20} MiB"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.flat", description=__doc__)
    parser.add_argument("--gib", type=int, default=64, help="to walk; each takes 4 MiB of metadata")
    chosen = parser.parse_args(argv or [])
    with tempfile.TemporaryDirectory(prefix="ramet-bench-") as scratch:
        path = Path(scratch) / "store"
        Store.create(path)
        with Store.open(path) as store:
            for part in (sizes, fragments, generations, siblings):
                part(store, store.create_volume(part.__name__))
        build(path, chosen.gib * GIB // BLOCK)
        walk(path, chosen.gib)


if __name__ == "__main__":
    main(sys.argv[1:])
