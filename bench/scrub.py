"""What a scrub does to the requests beside it: latency of 4 KiB direct reads and writes on a mount.

One client asks one request after the other, for some seconds without a scrub and for as long as a
scrub runs; printed are p50, p99 and the longest of both, and how fast the scrub went.
"""

import contextlib
import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.mounts import served

FILE_MIB = 1024
QUIET_S = 5.0
ROOT = Path(__file__).parents[1]
BLOCK = 4096


def ramet(store: Path, *words: object) -> None:
    subprocess.run(
        [sys.executable, "-P", "-m", "cli", "--store", str(store), *map(str, words)],
        check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def requests(fd: int, until: Callable[[], bool]) -> list[float]:
    """Latencies in seconds: three reads, one write, at random places."""
    buffer, rng, taken = mmap.mmap(-1, BLOCK), random.Random(1), []
    while not until():
        at = rng.randrange(FILE_MIB << 8) * BLOCK
        write = len(taken) % 4 == 3
        if write:
            buffer[:16] = rng.randbytes(16)
        begun = time.perf_counter()
        if write:
            os.pwrite(fd, buffer, at)
        else:
            os.preadv(fd, [buffer], at)
        taken.append(time.perf_counter() - begun)
    return taken


def told(name: str, taken: list[float]) -> str:
    cuts = statistics.quantiles(taken, n=1000)
    return (f"{name}: {len(taken):,} requests, p50 {cuts[499] * 1e6:,.0f} us, p99 "
            f"{cuts[989] * 1e6:,.0f} us, p99.9 {cuts[998] * 1e6:,.0f} us, longest "
            f"{max(taken) * 1e3:.1f} ms")  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory(
        prefix="ramet-bench-", dir=os.environ.get("BENCH_DIR")
    ) as name:
        store, image, mount = Path(name) / "store", Path(name) / "image", Path(name) / "mnt"
        with image.open("wb") as file:
            for _ in range(FILE_MIB):
                file.write(os.urandom(1 << 20))
        ramet(store, "init", store)
        ramet(store, "volume", "create", "lab")
        with contextlib.ExitStack() as stack:
            command = ["-P", "-m", "cli", "--store", str(store), "serve", "--mount", str(mount)]
            stack.enter_context(served(command, mount))
            ramet(store, "import", image, "lab:/image")
            fd = os.open(mount / "lab" / "image", os.O_RDWR | os.O_DIRECT)
            stack.callback(os.close, fd)
            end = time.monotonic() + QUIET_S
            print(told("without a scrub", requests(fd, lambda: time.monotonic() > end)))
            scrub = subprocess.Popen(
                [sys.executable, "-P", "-m", "cli", "--store", str(store), "--json", "scrub"],
                stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            print(told("beside a scrub", requests(fd, lambda: scrub.poll() is not None)))
            answer = json.loads(scrub.communicate()[0])
            print(f"the scrub: {answer['checked_bytes'] >> 20:,} MiB in "
                  f"{answer['elapsed_ms'] / 1000:.1f} s, {answer['read_mib_s']:,.0f} MiB/s while "
                  f"it read, {answer['bad_blocks']} bad blocks")  # fmt: skip


if __name__ == "__main__":
    main()
