"""The data path through the mount against pass-throughs, JuiceFS, XFS and btrfs, in one run.

Every line is measured on all peers in turns, ROUNDS times; a figure is the median of its rounds, a
ratio is of medians of the same run.  fio does I/O with O_DIRECT, so that the kernel's page cache
over a mount takes no part.  ``python -m bench.datapath [--peers ramet,bare] [--only TEXT]
[--json FILE]``; ``BENCH_DIR`` says where (default: the folder for temporary files).
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.mounts import PEERS, Absent, Place

ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = 2
FILE_MIB = 512
FSYNCS = 200
NAMES = 2000
NEW = ("--refill_buffers",)
SAME = ("--scramble_buffers=0", "--buffer_pattern=0x5a5aa5a5")
ZERO = ("--zero_buffers",)


@dataclass(frozen=True)
class Line:
    """What is measured: a rate, of which more is better.  ``budgets``: as ratios to peers."""

    name: str
    unit: str
    run: Callable[[Place, int], float | None]
    budgets: tuple[tuple[str, float], ...] = ()


def fio(path: Path, rw: str, block: str, jobs: int, seed: int, extra: tuple[str, ...]) -> float:
    """Requests a second of all jobs together."""
    command = [
        "fio", "--name=x", f"--filename={path}", f"--rw={rw}", f"--bs={block}", "--direct=1",
        "--ioengine=psync", f"--numjobs={jobs}", "--group_reporting", f"--size={FILE_MIB}m",
        "--output-format=json", f"--randseed={seed}", "--fallocate=none", *extra,
    ]  # fmt: skip
    os.sync()  # what was written before must not be written back meanwhile
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    job = json.loads(done.stdout)["jobs"][0]
    return float(job["read"]["iops"] + job["write"]["iops"])


def timed(rw: str, block: str, jobs: int = 1, extra: tuple[str, ...] = ()) -> Callable[..., float]:
    """Some seconds on the file that is there."""
    words = (*extra, "--time_based", f"--runtime={SECONDS}")
    return lambda place, seed: fio(place.file("file"), rw, block, jobs, seed, words)


def fresh(extra: tuple[str, ...]) -> Callable[..., float]:
    """A new file, written once from the start to the end (a pass-through's: over the old one)."""

    def run(place: Place, seed: int) -> float:
        path = place.file("new")
        rate = fio(path, "write", "1m", 1, seed, extra)
        if place.folder:
            path.unlink()
        return rate

    return run


def overwritten_clone(place: Place, seed: int) -> float | None:
    """4 KiB random writes into a clone that nobody has written to."""
    if place.clone is None:
        return None
    path = place.file("clone")
    place.clone(place.file("file"), path)
    try:
        words = (*NEW, "--time_based", f"--runtime={SECONDS}")
        return fio(path, "randwrite", "4k", 1, seed, words)
    finally:
        path.unlink()


def synced(place: Place, seed: int) -> float:
    """4 KiB writes, each with its fdatasync."""
    fd, times = os.open(place.file("file"), os.O_RDWR), []
    try:
        for n in range(FSYNCS):
            data, start = os.urandom(4096), time.perf_counter()
            os.pwrite(fd, data, (n * 7 + seed) % 4096 * 4096)
            os.fdatasync(fd)
            times.append(time.perf_counter() - start)
    finally:
        os.close(fd)
    return 1 / statistics.median(times)


def names(what: str) -> Callable[[Place, int], float | None]:
    """Makes, looks at, lists or removes NAMES empty files in one folder."""

    def run(place: Place, seed: int) -> float | None:
        if place.folder is None:
            return None
        folder = place.folder / f"names-{seed}"
        folder.mkdir()
        works: dict[str, Callable[[], object]] = {
            "create": lambda: [(folder / str(n)).touch() for n in range(NAMES)],
            "stat": lambda: [(folder / str(n)).stat() for n in range(NAMES)],
            "readdir": lambda: [os.listdir(folder) for _ in range(20)],
            "unlink": lambda: [(folder / str(n)).unlink() for n in range(NAMES)],
        }
        rate = 0.0
        for work, call in works.items():
            start = time.perf_counter()
            call()
            count = NAMES * 20 if work == "readdir" else NAMES
            if work == what:
                rate = count / (time.perf_counter() - start)
        folder.rmdir()
        return rate

    return run


BARE, HALF = (("bare", 0.9),), (("bare", 0.6),)
LINES = (
    Line("1 MiB sequential read", "MiB/s", timed("read", "1m"), (("bare", 0.8),)),
    *(Line(f"4 KiB random read, {jobs} jobs", "IOPS", timed("randread", "4k", jobs),
           BARE if jobs <= 4 else ()) for jobs in (1, 4, 16)),
    *(Line(f"4 KiB random write, {jobs} jobs", "IOPS", timed("randwrite", "4k", jobs, NEW),
           (*BARE, ("juicefs", 10.0)) if jobs == 1 else ()) for jobs in (1, 4, 16)),
    Line("1 MiB read, overwritten", "MiB/s", timed("read", "1m"), (("bare", 0.8),)),
    Line("1 MiB write, new data", "MiB/s", fresh(NEW), HALF),
    Line("1 MiB write, duplicate data", "MiB/s", fresh(SAME), (("bare", 0.8),)),
    Line("1 MiB write, zeroes", "MiB/s", fresh(ZERO)),
    Line("4 KiB write + fdatasync", "1/s", synced, (("host", 0.25),)),
    Line("first overwrite of a clone", "IOPS", overwritten_clone),
    *(Line(f"{what}, {NAMES} names", "1/s", names(what))
      for what in ("create", "stat", "readdir", "unlink")),
)  # fmt: skip


def measure(places: dict[str, Place], line: Line) -> dict[str, float]:
    """The median of each peer that can do it."""
    rates: dict[str, list[float]] = {}
    for n in range(ROUNDS):
        for name, place in places.items():
            rate = line.run(place, n)
            if rate is not None:
                rates.setdefault(name, []).append(rate)
    return {name: statistics.median(found) for name, found in rates.items()}


def show(line: Line, rates: dict[str, float], peers: list[str]) -> None:
    cells = "".join(f"{rates[p]:>10,.0f}" if p in rates else f"{'-':>10}" for p in peers)
    verdicts = []
    for peer, budget in line.budgets:
        if peer in rates and "ramet" in rates:
            ratio = rates["ramet"] / rates[peer]
            verdict = "ok" if ratio >= budget else "below"
            verdicts.append(f"{ratio:.2f} x {peer} ({verdict} {budget:g})")
    print(f"{line.name:<30}{cells} {line.unit:<6} {', '.join(verdicts)}", flush=True)


@contextlib.contextmanager
def mounted(wanted: list[str], folder: Path) -> Iterator[dict[str, Place]]:
    """All peers that run here, each with its file of FILE_MIB random MiB."""
    with contextlib.ExitStack() as stack:
        places = {}
        for name in wanted:
            own = folder / name
            own.mkdir()
            try:
                places[name] = stack.enter_context(PEERS[name](own))
            except (Absent, subprocess.CalledProcessError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
        data = [os.urandom(1 << 20) for _ in range(FILE_MIB)]
        for place in places.values():
            with place.file("file").open("r+b" if place.flat else "wb") as file:
                file.writelines(data)
                os.fsync(file.fileno())
        yield places


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.datapath", description=__doc__)
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated")
    parser.add_argument("--only", default="", help="lines whose name has this text")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    chosen = parser.parse_args(argv)
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as name, mounted(
        chosen.peers.split(","), Path(name)
    ) as places:  # fmt: skip
        places["host"] = Place(Path(name))
        places["host"].file("file").write_bytes(os.urandom(FILE_MIB << 20))
        peers, results = list(places), {}
        print(f"{'':<30}" + "".join(f"{peer:>10}" for peer in peers))
        for line in LINES:
            if chosen.only in line.name:
                results[line.name] = measure(places, line)
                show(line, results[line.name], peers)
    if chosen.json:
        chosen.json.write_text(json.dumps({"rounds": ROUNDS, "rates": results}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
