"""Churn: does anything grow without bound?  ``make churn ROUNDS=300 SEED=1``

A store of steady size is overwritten, cloned, snapshotted and deleted from, round after round,
with gc every few rounds, as a daemon would run it.  What may not grow: LMDB's file, the slabs'
space on disk, the process's anonymous memory, the reclaim queue, what is garbage after gc.  The
last line has the figures; the exit code says whether the last third of the rounds stayed within a
tenth (and some slack for small numbers) of the third before it.
"""

import argparse
import random
import sys
import tempfile
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from engine import ROOT_INO, Store, Volume, fsck

BLOCK = 4096
FILES, FILE_BLOCKS = 24, 1024
WRITES, CLONES, SNAPSHOTS, GC_EVERY = 600, 12, 4, 3
GROWTH_MAX = 1.1
SLACK_BYTES = 4 << 20


@dataclass(frozen=True)
class Sample:
    """After a gc."""

    metadata_file_bytes: int
    slabs_on_disk_bytes: int
    anonymous_bytes: int
    allocated_bytes: int
    queue: int


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell RssAnon")


def sample(store: Store) -> Sample:
    return Sample(
        (store.path / "meta" / "data.mdb").stat().st_size,
        sum(path.stat().st_blocks * 512 for path in (store.path / "slabs").iterdir()),
        anonymous_bytes(), store.pool.core.allocated_slots * BLOCK, len(store.pool.reclaim),
    )  # fmt: skip


class Churn:
    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.rng = random.Random(seed)
        self.lab = store.create_volume("lab")
        self.base = [self.file(self.lab, b"base-%d" % n) for n in range(FILES)]
        self.clones: list[bytes] = []
        self.snapshots: list[str] = []

    def file(self, volume: Volume, name: bytes) -> int:
        ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
        volume.write(ino, 0, self.rng.randbytes(FILE_BLOCKS * BLOCK))
        return ino

    def round(self, n: int) -> None:
        store, lab, rng = self.store, self.lab, self.rng
        for k in range(CLONES):
            name = b"clone-%d-%d" % (n, k)
            store.clone_file(lab, rng.choice(self.base), lab, ROOT_INO, name)
            self.clones.append(name)
        targets = self.base + [lab.lookup(ROOT_INO, name).ino for name in self.clones]
        for k in range(WRITES):
            at = rng.randrange(FILE_BLOCKS) * BLOCK
            lab.write(rng.choice(targets), at, rng.randbytes(BLOCK))
            if k % 200 == 0:
                store.pool.reclaim.step(0.001)
                store.commit()
        store.create_snapshot(lab, f"s{n}")
        self.snapshots.append(f"s{n}")
        while len(self.clones) > 3 * CLONES:
            lab.unlink(ROOT_INO, self.clones.pop(rng.randrange(CLONES)))
        while len(self.snapshots) > SNAPSHOTS:
            store.remove_snapshot(lab, self.snapshots.pop(0))
        store.commit()

    def run(self, rounds: int) -> list[Sample]:
        samples = []
        for n in range(rounds):
            self.round(n)
            if n % GC_EVERY == GC_EVERY - 1:
                self.store.gc()
                samples.append(sample(self.store))
        return samples


def grown(samples: list[Sample]) -> list[str]:
    """What is larger in the last third than in the one before, in words."""
    third = len(samples) // 3
    before, after = samples[third : 2 * third], samples[2 * third :]
    found = []
    for at, each in enumerate(fields(Sample)):
        was = max(astuple(s)[at] for s in before)
        now = max(astuple(s)[at] for s in after)
        if now > was * GROWTH_MAX + SLACK_BYTES:
            found.append(f"{each.name} grew from {was:,} to {now:,}")
    return found


def churn(rounds: int, seed: int) -> tuple[list[Sample], list[str]]:
    """Run; what is wrong, in words, is empty when all is well."""
    with tempfile.TemporaryDirectory(prefix="ramet-churn-") as folder:
        path = Path(folder) / "store"
        Store.create(path, slab_slots=16_384)
        with Store.open(path, cache_bytes=16 << 20) as store:
            samples = Churn(store, seed).run(rounds)
            report = fsck.check(store)
            problems = grown(samples) + [f"{f.check} {f.where}" for f in report.findings]
            if report.garbage_slots:
                problems.append(f"{report.garbage_slots} slots of garbage after gc")
    return samples, problems


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    samples, problems = churn(asked.rounds, asked.seed)
    for n, each in enumerate(samples):
        print(f"{(n + 1) * GC_EVERY:>6}", *(f"{value >> 20:>8} MiB" for value in astuple(each)[:4]))
    print(*problems, sep="\n")
    last = samples[-1]
    print(f"{asked.rounds} rounds: metadata {last.metadata_file_bytes >> 20} MiB, slabs on disk "
          f"{last.slabs_on_disk_bytes >> 20} MiB for {last.allocated_bytes >> 20} MiB of blocks, "
          f"anonymous {last.anonymous_bytes >> 20} MiB, {len(problems)} problems")  # fmt: skip
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
