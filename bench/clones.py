"""What a clone costs against what is cloned: size, fragmentation, number of files.

Every figure is the median of several, durable means one commit at the end, and lines that should be
flat are printed side by side as a ratio.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine import ROOT_INO, Store, Volume
from engine.block_range import BlockRange

GIB = 1 << 30
BLOCK = 4096
ROUNDS = 200
BATCH = 10_000


def median_us(call: Callable[[int], object], rounds: int = ROUNDS) -> float:
    """Median time of one call in microseconds."""
    times = []
    for n in range(rounds):
        start = time.perf_counter_ns()
        call(n)
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1000


def aged_file(volume: Volume, name: bytes, size: int, overwrites: int) -> int:
    """A sparse file with 4 KiB blocks written at random places; returns its inode number."""
    rng = random.Random(size)
    ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
    volume.setattr(ino, size=size)
    for _ in range(overwrites):
        volume.write(ino, rng.randrange(size // BLOCK) * BLOCK, rng.randbytes(BLOCK))
    return ino


def file_clones(store: Store, overwrites: int) -> None:
    volume = store.create_volume("files")
    figures = {}
    for gib in (1, 64, 1024):
        ino = aged_file(volume, b"golden-%d" % gib, gib * GIB, overwrites)
        store.commit()
        figures[gib] = median_us(
            lambda n, ino=ino, gib=gib: store.clone_file(  # type: ignore[misc]
                volume, ino, volume, ROOT_INO, b"clone-%d-%d" % (gib, n)
            )
        )
        store.commit()
        print(
            f"clone of a {gib} GiB file, {overwrites} random blocks: {figures[gib]:.1f} us "
            f"({figures[gib] / figures[1]:.2f} x the 1 GiB one)"
        )


def batch(store: Store) -> None:
    volume = store.create_volume("batch")
    ino = aged_file(volume, b"golden", 4 * GIB, 1000)
    store.commit()
    start = time.perf_counter()
    for n in range(BATCH):
        store.clone_file(volume, ino, volume, ROOT_INO, b"clone-%05d" % n)
    store.commit()
    rate = BATCH / (time.perf_counter() - start)
    print(f"batch of {BATCH} clones, one durable commit: {rate:,.0f} clones/s (budget 25,000)")


def volume_clones(store: Store) -> None:
    first = 0.0
    for files in (10, 10_000, 100_000):
        volume = store.create_volume(f"vol{files}")
        for n in range(files):
            volume.create(ROOT_INO, b"%06d" % n, 0o644, 0, 0)
        store.commit()
        took = median_us(
            lambda n, volume=volume: store.clone_volume(  # type: ignore[misc]
                volume, f"{volume.name}-{n}"
            )
        )
        first = first or took
        print(f"volume clone, {files} files: {took:.1f} us ({took / first:.2f} x 10 files)")


def block_ranges(store: Store) -> None:
    """Ranges into a LUN of 4 GiB: at the same place, one block further, and many small ones."""
    volume = store.create_volume("ranges")
    blocks = 4 * GIB // BLOCK
    ino, lun = (aged_file(volume, name, 4 * GIB, 20_000) for name in (b"golden", b"lun"))
    rng = random.Random(1)
    places = [(rng.randrange(blocks), rng.randrange(blocks)) for _ in range(100)]
    lines = {
        "1 GiB to the same place": [BlockRange(1000, 1000, GIB // BLOCK)],
        "1 GiB one block further": [BlockRange(1000, 1001, GIB // BLOCK)],
        "100 blocks from anywhere to anywhere": [BlockRange(a, b, 1) for a, b in places],
    }
    for what, ranges in lines.items():
        took = median_us(
            lambda _, ranges=ranges: store.clone_ranges(  # type: ignore[misc]
                volume, ino, volume, lun, ranges
            ), rounds=20,
        )  # fmt: skip
        store.commit()
        print(f"range clone, {what}: {took:,.0f} us")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ramet-bench-") as scratch:
        path = Path(scratch) / "store"
        Store.create(path)
        with Store.open(path) as store:
            file_clones(store, 20_000)
            batch(store)
            volume_clones(store)
            block_ranges(store)


if __name__ == "__main__":
    main()
