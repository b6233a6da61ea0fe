"""What background work does to a reader: 4 KiB random reads through the mount, one at a time.

Idle, and while the daemon does each kind of background work in turn; p50, p99 and the longest.  The
budget: p99 beside background work at most 5 x that of idle, and no step longer than 5 ms.
"""

import contextlib
import mmap
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.fuse import served
from engine import Store
from service.rpc import Client

FILE_MIB = 512
CLONES = 200
SECONDS = 5.0
BLOCK = 4096


def ask(store: Path, method: str, *arguments: object) -> None:
    client = Client.connect(store)
    if client is None:
        raise RuntimeError("the daemon is gone")
    client.call(method, *arguments)


def latencies(path: Path, seconds: float) -> list[float]:
    """Milliseconds of direct reads at random places."""
    rng, found = random.Random(1), []
    buffer = mmap.mmap(-1, BLOCK)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            os.preadv(fd, [buffer], rng.randrange(FILE_MIB << 8) * BLOCK)
            found.append((time.perf_counter() - start) * 1e3)
    finally:
        os.close(fd)
    return found


@contextlib.contextmanager
def beside(work: Callable[[], None] | None) -> Iterator[None]:
    """Do it again and again on a thread until the end."""
    stop = threading.Event()

    def loop() -> None:
        while work is not None and not stop.is_set():
            work()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def churn(lab: Path) -> Callable[[], None]:
    """Writes to clones, then a deletion: debt for gc, dirty nodes for commits."""
    rng = random.Random(2)

    def work() -> None:
        name = lab / f"clone-{rng.randrange(CLONES)}"
        fd = os.open(name, os.O_RDWR)
        try:
            for _ in range(50):
                os.pwrite(fd, rng.randbytes(BLOCK), rng.randrange(FILE_MIB << 8) * BLOCK)
            os.fsync(fd)
        finally:
            os.close(fd)

    return work


def main() -> None:
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as name, \
            contextlib.ExitStack() as stack:  # fmt: skip
        store, mount = Path(name) / "store", Path(name) / "mnt"
        Store.create(store)
        with Store.open(store) as opened:
            opened.create_volume("lab")
        command = ["-m", "cli", "--store", str(store), "serve", "--mount", str(mount)]
        stack.enter_context(served(command, mount))
        lab = mount / "lab"
        with (lab / "file").open("wb") as file:
            for _ in range(FILE_MIB):
                file.write(os.urandom(1 << 20))
        for n in range(CLONES):
            subprocess.run(["cp", lab / "file", lab / f"clone-{n}"], check=True)
        work: dict[str, Callable[[], None] | None] = {
            "idle": None,
            "gc": lambda: ask(store, "gc"),
            "accounting pass": lambda: ask(store, "account"),
            "fsck": lambda: ask(store, "check", False),
            "writes with fsync to clones": churn(lab),
        }
        idle = 0.0
        print(f"{'4 KiB reads beside':<30}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}")
        for kind, each in work.items():
            with beside(each):
                found = sorted(latencies(lab / "file", SECONDS))
            p99 = found[len(found) * 99 // 100]
            idle = idle or p99
            print(f"{kind:<30}{statistics.median(found):>8.3f}{p99:>8.3f}{found[-1]:>8.1f}"
                  f"   p99 {p99 / idle:.1f} x idle (budget 5)", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
