"""A guest whose disk is on a share: QEMU's own NFS client against each peer's server."""

import contextlib
import re
import subprocess
from functools import partial
from typing import NamedTuple

from bench.harness.peer import Peer, Share
from bench.harness.results import Chart
from bench.harness.scenario import Lab, Scenario
from bench.peers.commands import missing
from bench.scenarios.data_path import AGAIN, FIRST, IMAGE, PLACES, cloned, told_by
from bench.scenarios.images import MIB, sequential

GANESHA = "NFS-Ganesha is in C with many threads, Ramet's server Python; no checksum, no dedup."
REQUESTS_S = 300
STEP = 7  # requests apart: no two are neighbours, and all of the image is met


class Work(NamedTuple):
    name: str
    title: str
    size: int
    unit: str
    write: bool
    depth: int = 16


WORKS = (
    Work("read-4k", "4 KiB reads, 16 at once", 4096, "IOPS", write=False),
    Work("write-4k", "4 KiB writes, 16 at once", 4096, "IOPS", write=True),
    Work("read-1m", "1 MiB reads, 4 at once", MIB, "MiB/s", write=False, depth=4),
    Work("write-1m", "1 MiB writes, 4 at once", MIB, "MiB/s", write=True, depth=4),
)


class Nfs(Scenario):
    """``qemu-img bench`` writes one byte all over, another each round: to Ramet duplicates."""

    name = "nfs"
    title = "Read and write over NFS"
    question = "What do they cost by NFSv3, on an image, on a new clone, on a used clone?"
    cache = "no cache in the client (libnfs in QEMU); the server's is warm"
    reasons = dict.fromkeys(("xfs", "btrfs", "copy", "juicefs"), GANESHA)

    def detect(self) -> str | None:
        return missing("qemu-img", package="qemu-utils qemu-block-extra")

    def accepts(self, peer: Peer) -> str | None:
        return told_by(peer) or peer.no_nfs()

    def charts(self) -> list[Chart]:
        return [Chart(work.name, work.title, work.unit, "higher", "where", x_names=PLACES)
                for work in WORKS]  # fmt: skip

    def run(self, lab: Lab) -> None:
        mib = lab.pick(tiny=8, quick=32, full=512)
        rounds = lab.pick(tiny=1, quick=2, full=5)
        lab.patience_s *= 3
        shares: dict[str, Share] = {}

        def put(peer: Peer) -> None:
            peer.make("golden", mib * MIB)
            peer.write("golden", lab.limited(sequential(mib * MIB, seed=1)))
            shares[peer.name] = peer.export(exports)

        def ask(peer: Peer, n: int, work: Work, where: int) -> dict[str, float]:
            share, name = shares[peer.name], f"clone-{work.name}-{n}"
            if where == IMAGE:
                return {work.name: qemu_bench(share, "golden", work, mib, n)}
            with cloned(peer, name):
                first = qemu_bench(share, name, work, mib, n)
                again = qemu_bench(share, name, work, mib, n + rounds)
            lab.record(work.name, peer, AGAIN, again)
            return {work.name: first}

        with contextlib.ExitStack() as exports:
            lab.prepare(f"image of {mib} MiB on a share", put)
            for work in lab.parts(WORKS):
                lab.patient()
                for where in (IMAGE, FIRST):
                    lab.turns(where, rounds, partial(ask, work=work, where=where), work.title)


def qemu_bench(share: Share, name: str, work: Work, mib: int, seed: int) -> float:
    """Requests a second by QEMU's own clock; of 1 MiB each that is MiB/s as well."""
    requests = mib << 6 if work.size < MIB else mib * 2
    writing = ["-w", f"--pattern={1 + seed % 255}"] if work.write else []
    done = subprocess.run(
        [*share.enter, "qemu-img", "bench", "-f", "raw", "-s", str(work.size), "-c", str(requests),
         "-d", str(work.depth), "-S", str(STEP * work.size), *writing, f"{share.url}/{name}"],
        check=True, capture_output=True, text=True, timeout=REQUESTS_S,
    )  # fmt: skip
    found = re.search(r"completed in ([\d.]+) seconds", done.stdout)
    if found is None:
        raise OSError(f"qemu-img bench said {done.stdout.strip()!r}")
    return requests / float(found[1])
