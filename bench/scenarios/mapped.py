"""Files with many mapped blocks and little data, made in seconds by range clones of themselves."""

import random

from bench.scenarios.images import BLOCK, MIB
from engine import ROOT_INO, BlockRange, Store, Volume

SEED_BLOCKS = 1 << 12
COMMIT_STEPS = 64
GIB_BLOCKS = 1 << 18


def solid_file(volume: Volume, name: bytes, blocks: int) -> int:
    """Random content, 1 MiB a write; returns the inode number."""
    ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
    rng = random.Random(blocks)
    for first in range(0, blocks, MIB // BLOCK):
        count = min(MIB // BLOCK, blocks - first)
        volume.write(ino, first * BLOCK, rng.randbytes(count * BLOCK))
    return ino


def mapped_file(store: Store, volume: Volume, name: bytes, blocks: int) -> int:
    """Shares no node with itself: each doubling copies out of step with the leaves."""
    done = min(SEED_BLOCKS, blocks)
    ino = solid_file(volume, name, done)
    while done < blocks:
        count = min(done, blocks - done)
        steps = store.clone_in_steps(volume, ino, volume, ino, BlockRange(0, done, count))
        for number, _ in enumerate(steps):
            if number % COMMIT_STEPS == 0:
                store.commit()
        done += count
        store.commit()
    return ino


def age(volume: Volume, ino: int, blocks: int, overwrites: int, seed: int) -> None:
    """New content in blocks anywhere among the first ``blocks``."""
    rng = random.Random(seed)
    for _ in range(overwrites):
        volume.write(ino, rng.randrange(blocks) * BLOCK, rng.randbytes(BLOCK))
