"""A program: walk the file ``lab:/walked`` of a store, read of it at random, tell the memory.

``python -m bench.scenarios.walker STORE CACHE_BYTES READS`` prints JSON: anonymous bytes when the
store is open, the most there were afterwards, and the seconds of the walk.
"""

import json
import random
import sys
import time
from pathlib import Path

from bench.scenarios.images import BLOCK
from engine import ROOT_INO, Store

LOOK_EXTENTS, LOOK_READS = 4096, 1000


def anonymous_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no smaps_rollup")


def walk(path: Path, cache_bytes: int, reads: int) -> dict[str, float]:
    with Store.open(path, cache_bytes=cache_bytes) as store:
        volume = store.volume("lab")
        ino = volume.lookup(ROOT_INO, b"walked").ino
        opened = most = anonymous_bytes()
        start, mapped = time.perf_counter(), 0
        for number, extent in enumerate(volume.extents(ino)):
            mapped += extent.count
            if number % LOOK_EXTENTS == 0:
                most = max(most, anonymous_bytes())
        took, rng = time.perf_counter() - start, random.Random(1)
        for number in range(reads):
            volume.read(ino, rng.randrange(mapped) * BLOCK, BLOCK)
            if number % LOOK_READS == 0:
                most = max(most, anonymous_bytes())
        most = max(most, anonymous_bytes())
    return {"opened_bytes": opened, "most_bytes": most, "walk_s": took}


if __name__ == "__main__":
    print(json.dumps(walk(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
