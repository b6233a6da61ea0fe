"""Reads of a clone that nobody has in memory: the morning after, or a host with little of it."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

from bench.harness.peer import Peer
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.peers.commands import missing
from bench.scenarios.data_path import cloned, told_by
from bench.scenarios.images import MIB, sequential

SMALL, LARGE = "read-4k", "read-1m"
ONE, MANY = 0, 1
JOBS = (1, 16)
WORKS = ((SMALL, "4 KiB random reads", "randread", "4k", "IOPS"),
         (LARGE, "1 MiB reads, in order", "read", "1m", "MiB/s"))  # fmt: skip
KERNEL = "Its reads are the host kernel's, without FUSE, and without a checksum of what came in."


class Cold(Scenario):
    """Each block is read once at most, by one job, so that nothing becomes warm on the way."""

    name = "cold"
    title = "Read a clone with a cold cache"
    question = "What do reads of a new clone cost when none of its data is in memory?"
    cache = (
        "cold: fsync and posix_fadvise(DONTNEED) of every file in the peer's folder and on its "
        "mount, images and what holds them (slabs, loop device's file, objects), before each "
        "sample; then direct I/O. Only these files are dropped, and what a program keeps in its "
        "own memory stays: Ramet's and JuiceFS's metadata, the kernel's of a file system"
    )
    reasons = {  # noqa: RUF012
        "xfs": KERNEL,
        "btrfs": "Its reads are the host kernel's, without FUSE.",
        "lvm-thin": KERNEL,
        "zfs": "Its reads are the host kernel's, without FUSE.",
        "copy": KERNEL + " A full copy is in one piece on the disk.",
        "qcow2": "The storage daemon reads the base with no checksum of it.",
        "juicefs": "It reads objects of 4 MiB ahead, and answers what follows from its memory.",
    }

    def detect(self) -> str | None:
        return missing("fio", package="fio")

    def accepts(self, peer: Peer) -> str | None:
        return told_by(peer) or (None if peer.mounted else "its images have no path")

    def charts(self) -> list[Chart]:
        return [Chart(name, title, unit, "higher", "jobs", x_names=["1 job", "16 jobs"])
                for name, title, _, _, unit in WORKS]  # fmt: skip

    def run(self, lab: Lab) -> None:
        mib = lab.pick(tiny=16, quick=64, full=1024)
        seconds = lab.pick(tiny=0.2, quick=0.7, full=5.0)
        lab.patience_s += 10 * seconds

        def put(peer: Peer) -> None:
            peer.make("golden", mib * MIB)
            peer.write("golden", lab.limited(sequential(mib * MIB, seed=1)))

        def read(peer: Peer, n: int, where: int) -> dict[str, float]:
            found = {}
            with cloned(peer, f"clone-{where}-{n}") as path:
                for name, _, rw, block, _ in WORKS:
                    drop(peer)
                    found[name] = fio_once(path, rw, block, JOBS[where], mib, seconds, n)
            return found

        lab.prepare(f"image of {mib} MiB", put)
        for where in lab.parts((ONE, MANY)):
            rounds = lab.pick(tiny=1, quick=3, full=7)
            lab.turns(where, rounds, partial(read, where=where), self.charts()[0].x_names[where])


def drop(peer: Peer) -> None:
    """The pages of its files leave the host's cache; what is dirty is written first."""
    for root in {peer.folder, peer.root}:
        for path in root.rglob("*"):
            if path.is_block_device() or path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fio_once(
    path: Path, rw: str, block: str, jobs: int, mib: int, seconds: float, seed: int
) -> float:
    """Requests a second, until each job has read its own part or the time is over."""
    part = f"{mib // jobs}m"
    done = subprocess.run(
        ["fio", "--name=x", f"--filename={path}", f"--rw={rw}", f"--bs={block}", "--direct=1",
         "--ioengine=psync", "--thread", f"--numjobs={jobs}", "--group_reporting",
         f"--size={part}", f"--offset_increment={part}", f"--runtime={round(seconds * 1000)}ms",
         "--output-format=json", f"--randseed={seed}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(json.loads(done.stdout)["jobs"][0]["read"]["iops"])
