"""Images that scenarios put into peers: the same bytes for each, from a seed."""

import random
from collections.abc import Iterator

from bench.harness.peer import Block

BLOCK = 4096
GIB = 1 << 30
MIB = 1 << 20


def scattered(size_bytes: int, count: int, seed: int) -> Iterator[Block]:
    """``count`` blocks of random content at random places: what ages an image."""
    rng = random.Random(seed)
    for _ in range(count):
        yield rng.randrange(size_bytes // BLOCK) * BLOCK, rng.randbytes(BLOCK)


def sequential(size_bytes: int, seed: int) -> Iterator[Block]:
    """A full image of random content, 1 MiB a write."""
    rng = random.Random(seed)
    for at in range(0, size_bytes, MIB):
        yield at, rng.randbytes(min(MIB, size_bytes - at))
