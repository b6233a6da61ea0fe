"""What a guest gets: fio on an image, and on a clone of it."""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.scenarios.images import MIB, sequential

NEW = ("--refill_buffers",)


@dataclass(frozen=True)
class Work:
    """fio's words, and a chart's name."""

    name: str
    title: str
    rw: str
    block: str
    unit: str = "IOPS"
    jobs: int = 1
    extra: tuple[str, ...] = ()
    cloned: bool = False  # on clones too


WORKS = (
    Work("read-1m", "1 MiB sequential read", "read", "1m", "MiB/s"),
    Work("read-4k", "4 KiB random read, 1 job", "randread", "4k", cloned=True),
    Work("read-4k-4", "4 KiB random read, 4 jobs", "randread", "4k", jobs=4),
    Work("write-4k", "4 KiB random write", "randwrite", "4k", extra=NEW, cloned=True),
    Work("read-1m-aged", "1 MiB sequential read after random writes", "read", "1m", "MiB/s"),
    Work("write-1m", "1 MiB sequential write", "write", "1m", "MiB/s", extra=NEW),
)
FSYNC = "fsync-4k"
IMAGE, FIRST, AGAIN = range(3)
PLACES = ["image", "clone, first time", "clone, again"]


class DataPath(Scenario):
    """Direct I/O, so that the page cache over a mount takes no part; below it, it is warm.

    A clone is made anew for each line, so its first overwrites are what a guest meets after its
    first boot; the same is then done again on the same clone.
    """

    name = "data-path"
    title = "Read and write"
    question = "What do reads and writes cost, on an image, on a new clone, on a used clone?"
    roles = ("images", "data path")
    cache = "direct I/O to the image; the host's cache below a mount is warm"
    reasons = {  # noqa: RUF012
        "passthrough": "It only passes on: no map, no checksum, no dedup.",
        "passthrough-c": "It only passes on, in C: no map, no checksum, no dedup, no Python.",
        "xfs": "It is in the kernel: no FUSE request, no checksum of data, no dedup.",
        "btrfs": "It is in the kernel: no FUSE request, no dedup.",
        "btrfs-snapshot": "It is in the kernel: no FUSE request, no dedup.",
        "copy": "It is the host's own file system: no FUSE request, no map, no checksum.",
        "qcow2": "No checksum, no dedup; a clone's reads of the base are the host's own.",
        "lvm-thin": "It is in the kernel: no FUSE request, no checksum of data, no dedup.",
        "zfs": "It is in the kernel: no FUSE request, no dedup.",
        "juicefs": "It answers from its own cache, without reading what is durable.",
    }

    def detect(self) -> str | None:
        return None if shutil.which("fio") else "fio is not installed; apt-get install fio"

    def accepts(self, peer: Peer) -> str | None:
        return told_by(peer) or (None if peer.mounted else "its images have no path")

    def charts(self) -> list[Chart]:
        return [Chart(work.name, work.title, work.unit, "higher", "where", x_names=PLACES)
                for work in WORKS] + [
            Chart(FSYNC, "4 KiB write and fdatasync", "ms", "lower", "where", x_names=PLACES)
        ]  # fmt: skip

    def run(self, lab: Lab) -> None:
        mib = lab.pick(tiny=8, quick=32, full=512)
        seconds = lab.pick(tiny=0.2, quick=0.4, full=2.0)
        rounds = lab.pick(tiny=1, quick=2, full=5)
        lab.patience_s += 10 * seconds

        def put(peer: Peer) -> None:
            peer.make("golden", mib * MIB)
            peer.write("golden", lab.limited(sequential(mib * MIB, seed=1)))

        def on_image(peer: Peer, n: int, work: Work | None) -> dict[str, float]:
            with peer.opened("golden") as path:
                return once(path, work, mib, seconds, n)

        def on_clone(peer: Peer, n: int, work: Work | None) -> dict[str, float]:
            if peer.role != "images":
                return {}
            with cloned(peer, f"clone-{n}") as path:
                first = once(path, work, mib, seconds, n)
                again = once(path, work, mib, seconds, n)  # the same places
            lab.record(next(iter(again)), peer, AGAIN, next(iter(again.values())))
            return first

        lab.prepare(f"image of {mib} MiB", put)
        for work in lab.parts((*WORKS, None)):
            what = work.title if work else "write and fdatasync"
            lab.patient()
            lab.turns(IMAGE, rounds, lambda peer, n, work=work: on_image(peer, n, work), what)  # type: ignore[misc]
            if work is None or work.cloned:
                lab.turns(FIRST, rounds, lambda peer, n, work=work: on_clone(peer, n, work), what)  # type: ignore[misc]


def told_by(peer: Peer) -> str | None:
    """Why it need not be asked: another peer reads and writes in the same way."""
    return f"it reads and writes as {peer.data_path_of} does" if peer.data_path_of else None


@contextlib.contextmanager
def cloned(peer: Peer, name: str) -> Iterator[Path]:
    """A clone for the time of a measurement."""
    peer.clone("golden", name)
    peer.sync([name])
    try:
        with peer.opened(name) as path:
            yield path
    finally:
        peer.delete([name])


def once(path: Path, work: Work | None, mib: int, seconds: float, seed: int) -> dict[str, float]:
    """One sample, by its chart."""
    if work is None:
        return {FSYNC: statistics.median(synced_times_ms(path, mib, seed, 30))}
    return {work.name: fio(path, work, mib, seconds, seed)}


def fio(path: Path, work: Work, mib: int, seconds: float, seed: int) -> float:
    """Requests a second of all jobs together; of 1 MiB each that is MiB/s as well."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)  # what was written before must not be written back meanwhile
    os.close(fd)
    done = subprocess.run(
        ["fio", "--name=x", f"--filename={path}", f"--rw={work.rw}", f"--bs={work.block}",
         "--direct=1", "--ioengine=psync", f"--numjobs={work.jobs}", "--group_reporting",
         "--thread", f"--size={mib}m", "--output-format=json", f"--randseed={seed}",
         "--fallocate=none", "--time_based", f"--runtime={round(seconds * 1000)}ms", *work.extra],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    job = json.loads(done.stdout)["jobs"][0]
    return float(job["read"]["iops"] + job["write"]["iops"])


def synced_times_ms(path: Path, mib: int, seed: int, count: int) -> list[float]:
    """Of 4 KiB writes, each with its fdatasync."""
    times = []
    fd = os.open(path, os.O_RDWR)
    try:
        for n in range(count):
            data, start = os.urandom(4096), time.perf_counter()
            os.pwrite(fd, data, (n * 7919 + seed) % (mib << 8) * 4096)
            os.fdatasync(fd)
            times.append((time.perf_counter() - start) * 1e3)
    finally:
        os.close(fd)
    return times
