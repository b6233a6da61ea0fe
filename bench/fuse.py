"""The data path through FUSE against a bare pyfuse3 pass-through to a flat file, by fio.

Both sides of a line run in turns, in one go; a figure is the median of ROUNDS.  ``BENCH_DIR`` says
where (default: the folder for temporary files).
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine import Store

ROUNDS = 3
SECONDS = 3
FILE_MIB = 512
FSYNCS = 300


@dataclass(frozen=True)
class Work:
    """One line: fio's words, the budget as a ratio, and what counts."""

    name: str
    rw: str
    block: str
    budget: float
    jobs: int = 1
    extra: tuple[str, ...] = ()
    fresh: bool = False  # each round writes a new file once, instead of for some seconds


WORK = (
    Work("4 KiB random read, 1 job", "randread", "4k", 0.9),
    Work("4 KiB random read, 4 jobs", "randread", "4k", 0.9, jobs=4),
    Work("4 KiB random write", "randwrite", "4k", 0.9, extra=("--refill_buffers",)),
    Work("1 MiB sequential read", "read", "1m", 0.8),
    Work("1 MiB write, new data", "write", "1m", 0.6, extra=("--refill_buffers",), fresh=True),
    Work("1 MiB write, duplicate data", "write", "1m", 0.8, extra=("--scramble_buffers=0",
         "--buffer_pattern=0x5a5aa5a5"), fresh=True),
)  # fmt: skip


def fio(path: Path, work: Work, seed: int) -> float:
    """One run; returns the rate of I/Os (all sizes are equal, so this is bytes as well)."""
    command = [
        "fio", "--name=x", f"--filename={path}", f"--rw={work.rw}", f"--bs={work.block}",
        "--direct=1", "--ioengine=psync", f"--numjobs={work.jobs}", "--group_reporting",
        f"--size={FILE_MIB}m", "--output-format=json", f"--randseed={seed}", "--fallocate=none",
        *work.extra, *([] if work.fresh else ["--time_based", f"--runtime={SECONDS}"]),
    ]  # fmt: skip
    os.sync()  # what was written before must not be written back meanwhile
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    job = json.loads(done.stdout)["jobs"][0]
    return float(job["read"]["iops"] + job["write"]["iops"])


@contextlib.contextmanager
def served(command: list[str], mountpoint: Path) -> Iterator[None]:
    """A process that says ``ready`` and serves a mount, ended by SIGTERM."""
    mountpoint.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{command} did not start")
        yield
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def line(name: str, ours: float, theirs: float, budget: float, unit: str) -> None:
    ratio = ours / theirs
    verdict = "ok" if ratio >= budget else "below"
    print(f"{name:<34}{ours:>10,.0f} {theirs:>10,.0f} {unit:<6}{ratio:>6.2f} x"
          f"   (budget {budget:.2f}) {verdict}", flush=True)  # fmt: skip


def compare(work: Work, lab: Path, flat: Path) -> None:
    ours, theirs = [], []
    for n in range(ROUNDS):
        theirs.append(fio(flat, work, n))
        target = lab / ("new" if work.fresh else "file")
        ours.append(fio(target, work, n))
        if work.fresh:
            target.unlink()
    unit = "MiB/s" if work.block == "1m" else "IOPS"  # of 1 MiB each
    line(work.name, statistics.median(ours), statistics.median(theirs), work.budget, unit)


def first_overwrite(lab: Path) -> None:
    """Random overwrites of a clone that is new, against those of a file nobody shares."""
    work = Work("", "randwrite", "4k", 0.8, extra=("--refill_buffers",))
    shared, alone = [], []
    for n in range(ROUNDS):
        alone.append(fio(lab / "file", work, 100 + n))
        subprocess.run(["cp", str(lab / "file"), str(lab / "clone")], check=True)
        shared.append(fio(lab / "clone", work, 200 + n))
        (lab / "clone").unlink()
    line("first overwrite after a clone", statistics.median(shared), statistics.median(alone),
         0.8, "IOPS")  # fmt: skip


def synced(path: Path) -> float:
    """Median milliseconds of a 4 KiB write with its fdatasync."""
    times = []
    fd = os.open(path, os.O_RDWR)
    try:
        for n in range(FSYNCS):
            data = os.urandom(4096)
            start = time.perf_counter()
            os.pwrite(fd, data, n * 7 % 4096 * 4096)
            os.fdatasync(fd)
            times.append(time.perf_counter() - start)
    finally:
        os.close(fd)
    return statistics.median(times) * 1e3


def main() -> None:
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as name, \
            contextlib.ExitStack() as stack:  # fmt: skip
        folder = Path(name)
        flat, store = folder / "flat", folder / "store"
        with flat.open("wb") as file:
            for _ in range(FILE_MIB):
                file.write(os.urandom(1 << 20))
        Store.create(store)
        with Store.open(store) as opened:
            opened.create_volume("lab")
        bare, mount = folder / "bare", folder / "mnt"
        stack.enter_context(served(["-m", "bench.passthrough", str(flat), str(bare)], bare))
        stack.enter_context(
            served(["-m", "cli", "--store", str(store), "serve", "--mount", str(mount)], mount)
        )
        lab = mount / "lab"
        shutil.copyfile(flat, lab / "file")
        print(f"{'':<34}{'ramet':>10} {'bare':>10}")
        for work in WORK:
            compare(work, lab, bare / "flat")
        first_overwrite(lab)
        ours, theirs = synced(lab / "file"), synced(flat)
        print(f"{'4 KiB write + fdatasync':<34}{ours:>7.2f} ms {theirs:>7.2f} ms"
              f"{ours / theirs:>9.2f} x   (budget 4.00, host file system)"
              f" {'ok' if ours <= 4 * theirs else 'above'}")  # fmt: skip


if __name__ == "__main__":
    main()
