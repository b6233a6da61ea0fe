"""Import of an image against ``cp`` of it between two files of the host's file system.

The image: runs of blocks, most of them random, some copied from earlier in it, some zeroes that are
written, some holes; its make-up is printed.  In each of ROUNDS rounds, in turns: ``cp``, then its
fsync; ``ramet import`` into a new store that no daemon serves; the same with a daemon that serves a
mount.  Into each store a second image follows, which differs in ``--changed`` blocks of a hundred:
what it added is compared with that difference.  A figure is the median of its rounds.

The source is in the page cache whole before each (it is read, and nothing waits to be written),
and free memory has just been touched: in a virtual machine its first use is dear.  An import is
timed as a user does, the command from its start to its end, when all is durable.

``python -m bench.ingest [--gib 10] [--json FILE]``; ``BENCH_DIR`` says where (default: the folder
for temporary files), which needs twice the image, and the machine its size in free memory.
"""

import argparse
import json
import mmap
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.mounts import served
from engine import Store

ROUNDS = int(os.environ.get("ROUNDS", "3"))
BLOCK = 4096
GIB = 1 << 30
PIECE = 8 << 20
MAKE_UP = {"unique": 70, "duplicate": 10, "zero": 5, "hole": 15}  # of a hundred blocks
RUN_BLOCKS_MAX = 512
BUDGET = 0.5  # of the rate of cp


@dataclass
class Image:
    """A file, the blocks of it that hold random bytes, and how many there are of each kind."""

    path: Path
    unique: list[range] = field(default_factory=list)
    blocks: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(self.blocks.values()) * BLOCK

    def change(self, hundredths: float, seed: int) -> int:
        """Overwrite so many of its blocks by new ones, here and there; returns the bytes."""
        rng = random.Random(seed)
        changed = 0
        with self.path.open("r+b") as file:
            for run in self.unique:
                for block in run:
                    if rng.random() * MAKE_UP["unique"] < hundredths:
                        file.seek(block * BLOCK)
                        file.write(rng.randbytes(BLOCK))
                        changed += BLOCK
        return changed

    def warm(self) -> None:
        """All of it in the page cache, nothing left to be written to the disk, and as much free
        memory as it takes that the machine's host has given it already."""
        os.sync()
        with self.path.open("rb") as file:
            while file.read(PIECE):
                pass
        free = re.search(r"^MemFree: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        assert free is not None
        size = min(self.size, int(free[1]) * 1024 * 9 // 10)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        mmap.mmap(-1, size, flags=flags).close()


def make_image(path: Path, size: int) -> Image:
    image, rng = Image(path, blocks=dict.fromkeys(MAKE_UP, 0)), random.Random(size)
    kinds, weights = list(MAKE_UP), list(MAKE_UP.values())
    with path.open("w+b") as file:
        at, end = 0, size // BLOCK
        while at < end:
            count = min(rng.randint(1, RUN_BLOCKS_MAX), end - at)
            kind = rng.choices(kinds, weights)[0] if image.unique else "unique"
            if kind == "duplicate":
                source = rng.choice(image.unique)
                count = min(count, len(source))
                data = os.pread(file.fileno(), count * BLOCK, source.start * BLOCK)
            elif kind == "unique":
                image.unique.append(range(at, at + count))
                data = os.urandom(count * BLOCK)
            else:
                data = bytes(count * BLOCK)
            if kind != "hole":
                os.pwrite(file.fileno(), data, at * BLOCK)
            image.blocks[kind] += count
            at += count
        file.truncate(size)
    return image


def cpu_s(who: int | None) -> float:
    """Seconds of CPU so far: of a process, or (None) of our children that have ended."""
    if who is None:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime
    fields = Path(f"/proc/{who}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def copy(image: Image, target: Path) -> Iterator[tuple[str, float]]:
    start = time.perf_counter()
    subprocess.run(["cp", image.path, target], check=True)
    yield "cp", time.perf_counter() - start
    fd = os.open(target, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    yield "cp + fsync", time.perf_counter() - start
    target.unlink()


def command(store: Path, *words: str | Path) -> dict[str, Any]:
    """A command of Ramet, whole."""
    line = [sys.executable, "-P", "-m", "cli", "--store", store, "--json", *words]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def imported(
    image: Image, store: Path, name: str, hundredths: float, seed: int, daemon: int | None
) -> Iterator[tuple[str, float]]:
    """Both images into an empty store."""
    before = command(store, "df")
    for which, to in (("", "lab:/first"), (", second image", "lab:/second")):
        changed = image.change(hundredths, seed) if which else 0
        image.warm()
        used, start = cpu_s(daemon), time.perf_counter()
        command(store, "import", image.path, to)
        yield name + which, time.perf_counter() - start
        yield f"{name}{which}, CPU", cpu_s(daemon) - used
        after = command(store, "df")
        added = after["physical_bytes"] - before["physical_bytes"]
        if which:
            yield f"{name}: added", added
            yield f"{name}: difference", changed
            yield f"{name}: metadata", after["metadata_bytes"] - before["metadata_bytes"]
        before = after


def round_of(
    image: Image, folder: Path, hundredths: float, seed: int
) -> Iterator[tuple[str, float]]:
    image.warm()
    yield from copy(image, folder / "copy")
    for name in ("import", "import, daemon"):
        store = folder / "store"
        Store.create(store)
        with Store.open(store) as opened:
            opened.create_volume("lab")
        if name == "import":
            yield from imported(image, store, name, hundredths, 2 * seed, None)
        else:
            mountpoint = folder / "mount"
            words = ["-P", "-m", "cli", "--store", str(store), "serve", "--mount", str(mountpoint)]
            with served(words, mountpoint):
                pid = command(store, "status")["pid"]
                yield from imported(image, store, name, hundredths, 2 * seed + 1, pid)
            mountpoint.rmdir()
        shutil.rmtree(store)


def show(image: Image, found: dict[str, float]) -> None:
    mib = image.size / (1 << 20)
    total = sum(image.blocks.values())
    parts = ", ".join(f"{count / total:.1%} {kind}" for kind, count in image.blocks.items())
    print(f"image of {mib / 1024:.1f} GiB: {parts}")
    print(f"{'':<28}{'s':>8}{'MiB/s':>8}{'CPU s':>8}{'/ cp':>8}{'/ cp + fsync':>14}")
    for name, value in found.items():
        if ":" in name or name.endswith("CPU"):
            continue
        ratios = [found[peer] / value for peer in ("cp", "cp + fsync")]
        cpu = f"{found[name + ', CPU']:>8.1f}" if name + ", CPU" in found else f"{'-':>8}"
        verdict = ("ok" if ratios[0] >= BUDGET else "below") if name.startswith("import") else ""
        print(f"{name:<28}{value:>8.2f}{mib / value:>8,.0f}{cpu}{ratios[0]:>8.2f}"
              f"{ratios[1]:>14.2f}  {verdict}")  # fmt: skip
    for name in ("import", "import, daemon"):
        added, difference = found[f"{name}: added"], found[f"{name}: difference"]
        print(f"{name}: the second image added {added / (1 << 20):,.1f} MiB of blocks, "
              f"{added / difference:.4f} x its difference, and "
              f"{found[f'{name}: metadata'] / (1 << 20):,.1f} MiB of metadata")  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ingest", description=__doc__)
    parser.add_argument("--gib", type=float, default=4, help="the image's size")
    parser.add_argument("--changed", type=float, default=1, help="blocks of a hundred")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    chosen = parser.parse_args(argv or [])
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as name:
        image = make_image(Path(name) / "image", int(chosen.gib * GIB) // BLOCK * BLOCK)
        rounds = [dict(round_of(image, Path(name), chosen.changed, n)) for n in range(ROUNDS)]
    found = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    show(image, found)
    if chosen.json:
        told = {"rounds": rounds, "medians": found, "blocks": image.blocks, "load": os.getloadavg()}
        chosen.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
