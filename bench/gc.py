"""gc: what the mark of an aged tree costs, alone and with a thousand clones of it.

The mark visits a shared node once, so a thousand clones cost what one costs, plus what differs.
"""

import os
import random
import tempfile
import time
from pathlib import Path

from engine import ROOT_INO, Store, Volume

BLOCK = 4096
FILE_MIB = 2048
OVERWRITES = 100_000
CLONES = 1000
ROUNDS = 3


def aged(volume: Volume, overwrites: int) -> int:
    """A full file whose blocks were then overwritten at random; returns its inode number."""
    rng = random.Random(1)
    ino = volume.create(ROOT_INO, b"golden", 0o644, 0, 0).ino
    for n in range(FILE_MIB):
        volume.write(ino, n << 20, rng.randbytes(1 << 20))
    for _ in range(overwrites):
        volume.write(ino, rng.randrange(FILE_MIB << 8) * BLOCK, rng.randbytes(BLOCK))
    return ino


def mark(store: Store) -> tuple[float, int, int]:
    """Seconds, entries and nodes of a mark."""
    gc, commit = store.start_gc()
    commit.write()
    store.finish(commit)
    try:
        gc.open()
        start = time.thread_time()
        gc.mark()
        return time.thread_time() - start, gc.result.entries_visited, gc.result.nodes_visited
    finally:
        gc.close()


def line(name: str, store: Store) -> float:
    seconds, entries, nodes = min(mark(store) for _ in range(ROUNDS))
    print(f"gc mark, {name}: {entries / seconds / 1e6:,.1f} M entries/s of CPU "
          f"({nodes:,} nodes in {seconds * 1e3:.1f} ms; budget 20)", flush=True)  # fmt: skip
    return seconds


def main() -> None:
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as scratch:
        path = Path(scratch) / "store"
        Store.create(path)
        with Store.open(path) as store:
            volume = store.create_volume("lab")
            golden = aged(volume, OVERWRITES)
            store.commit()
            one = line("aged 2 GiB file", store)
            for n in range(CLONES):
                clone = store.clone_file(volume, golden, volume, ROOT_INO, b"clone-%04d" % n)
                volume.write(clone.ino, n * BLOCK, os.urandom(BLOCK))
            store.commit()
            many = line(f"and {CLONES} clones, a block of each its own", store)
            print(f"  {many / one:.2f} x the mark without clones")


if __name__ == "__main__":
    main()
