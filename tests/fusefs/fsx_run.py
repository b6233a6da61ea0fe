"""``make fsx``: random operations on files of a mount, checked against copies of them in memory.

The walks are those of tests/nfsgw/linux/fsx.c, several at once and two files each: reads, writes,
mmap, direct I/O, truncates, holes, zeroes, allocations, and copies, which are clones.  Whenever
each of them has done a thousand operations the store is served anew.  A walk is a function of its
seed.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mounted import Mount, serve
from nfs_client import FLAGS, SOURCES

from engine import Store

WALKS = 4


def build(out: Path) -> Path:
    """The program, in ``out``."""
    program = out / "walk"
    subprocess.run(["gcc", *FLAGS, "-o", program, *sorted(SOURCES.glob("*.c"))], check=True)
    return program


@contextmanager
def started(
    program: Path, root: Path, seeds: range, count: int
) -> Iterator[list[subprocess.Popen[str]]]:
    """A walk for each seed; they end with the block."""
    walks = [
        subprocess.Popen(
            [program, "fsx", str(root / f"walk-{seed}"), str(seed), str(count), "mount"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        for seed in seeds
    ]  # fmt: skip
    try:
        yield walks
    finally:
        for walk in walks:
            walk.kill()
            walk.communicate()


def walked(mount: Mount, program: Path, seeds: range, count: int) -> tuple[int, list[str]]:
    """How often the mount was served anew, and what was wrong."""
    remounts = 0
    wrong: list[str] = []
    with started(program, mount.lab, seeds, count) as walks:
        walking = walks
        while walking:
            lines = [(walk, walk.stdout.readline()) for walk in walking if walk.stdout]
            walking = [walk for walk, line in lines if line == "RENEW\n"]
            for walk, line in lines:
                if line != "RENEW\n" and not line.startswith("PASSED"):
                    wrong.append(line + (walk.stdout.read() if walk.stdout else ""))
            if walking:
                mount.stop()
                mount.process = serve(mount.store, mount.root).process
                remounts += 1
            for walk in walking:
                assert walk.stdin is not None
                walk.stdin.write("\n")
    return remounts, wrong


def unsound(store: Path) -> str:
    """What fsck says of the store and of each block of it; empty when it finds nothing."""
    words = [sys.executable, "-m", "cli", "--store", str(store), "fsck", "--data"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seeds = range(options.seed * WALKS, (options.seed + 1) * WALKS)
    with tempfile.TemporaryDirectory(prefix="ramet-fsx-") as scratch:
        here = Path(scratch)
        store, root = here / "store", here / "mnt"
        root.mkdir()
        Store.create(store)
        with Store.open(store) as opened:
            opened.create_volume("lab")
        mount = serve(store, root)
        try:
            remounts, wrong = walked(mount, build(here), seeds, options.operations // WALKS)
        finally:
            mount.stop()
        found = unsound(store)
    print(*wrong, found, sep="\n")
    print(
        f"fsx seed {options.seed}: {options.operations // WALKS * WALKS} operations, "
        f"{WALKS} walks, {remounts} remounts, {len(wrong)} wrong"
    )
    return 1 if wrong or found else 0


if __name__ == "__main__":
    sys.exit(main())
