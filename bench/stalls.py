"""What background work does to a reader: 4 KiB random reads through the mount, one at a time.

Idle, and while the daemon does each kind of background work in turn; p50, p99 and the longest.  The
budget: p99 beside background work at most 5 x that of idle, and no step longer than 5 ms.  Each is
measured next to an idle stretch of its own, ROUNDS times, and the quietest round is printed: other
load of the machine makes a reader wait too, and is no fault of the daemon's; the longest wait of
the idle stretch tells how much of that there was.
"""

import contextlib
import itertools
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
from typing import NamedTuple

from bench.mounts import served
from engine import Store
from service.rpc import Client

FILE_MIB = 512
CLONES = 200
SECONDS = 5.0
IDLE_SECONDS = 2.0
ROUNDS = int(os.environ.get("ROUNDS", "3"))
TREE_FILES = 3000
TREES = 40  # a round
BLOCK = 4096


def ask(store: Path, method: str, *arguments: object) -> None:
    client = Client.connect(store)
    if client is None:
        raise RuntimeError("the daemon is gone")
    client.call(method, *arguments)


class Waits(NamedTuple):
    """Of 4 KiB reads, in milliseconds; ``idle`` (the p99): without the work."""

    p50: float
    p99: float
    longest: float
    idle: float
    idle_longest: float

    @property
    def ratio(self) -> float:
        return self.p99 / self.idle


def latencies(path: Path, seconds: float, over: threading.Event) -> list[float]:
    """Milliseconds of direct reads at random places, sorted."""
    rng, found = random.Random(1), []
    buffer = mmap.mmap(-1, BLOCK)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end and not over.is_set():
            os.preadv(fd, [buffer], rng.randrange(FILE_MIB << 8) * BLOCK)
            found.append((time.perf_counter() - start) * 1e3)
    finally:
        os.close(fd)
    return sorted(found)


def p99(found: list[float]) -> float:
    return found[len(found) * 99 // 100]


@contextlib.contextmanager
def beside(work: Callable[[], bool | None]) -> Iterator[threading.Event]:
    """Do it again and again on a thread until the end, or until it says False: then it is over."""
    stop, over = threading.Event(), threading.Event()

    def loop() -> None:
        while not stop.is_set():
            if work() is False:
                break
        over.set()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield over
    finally:
        stop.set()
        thread.join()


def measure(path: Path, work: Callable[[], bool | None]) -> Waits:
    idle = latencies(path, IDLE_SECONDS, threading.Event())
    with beside(work) as over:
        found = latencies(path, SECONDS, over)
    return Waits(statistics.median(found), p99(found), found[-1], p99(idle), idle[-1])


def trees(store: Path, lab: Path) -> Callable[[], bool]:
    """Directories to remove, made before; one in each call."""
    (lab / "tree").mkdir()
    for n in range(TREE_FILES):
        (lab / "tree" / f"{n}").touch()
    ready = TREES * ROUNDS
    ask(store, "clone", "lab:/tree", "lab:/tree-{n}", ready, 1, False)
    left = iter(range(1, ready + 1))

    def remove() -> bool:
        for n in left:
            ask(store, "rm", f"lab:/tree-{n}", True, False)
            return n % TREES != 0
        return False

    return remove


def directories(store: Path) -> Callable[[], None]:
    """Clones of a directory of TREE_FILES entries."""
    numbers = itertools.count()
    return lambda: ask(store, "clone", "lab:/tree", f"lab:/again-{next(numbers)}", 1, 1, False)


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
        command = ["-P", "-m", "cli", "--store", str(store), "serve", "--mount", str(mount)]
        stack.enter_context(served(command, mount))
        lab = mount / "lab"
        with (lab / "file").open("wb") as file:
            for _ in range(FILE_MIB):
                file.write(os.urandom(1 << 20))
        for n in range(CLONES):
            subprocess.run(["cp", lab / "file", lab / f"clone-{n}"], check=True)
        work: dict[str, Callable[[], bool | None]] = {
            "gc": lambda: ask(store, "gc"),
            "accounting pass": lambda: ask(store, "account"),
            "fsck": lambda: ask(store, "check", False),
            "scrub": lambda: ask(store, "scrub", 0.0),
            "rm -r": trees(store, lab),
            "clones of a directory": directories(store),
            "writes with fsync to clones": churn(lab),
        }
        table(lab / "file", work)


def table(path: Path, work: dict[str, Callable[[], bool | None]]) -> None:
    heads = ("p50 ms", "p99 ms", "max ms", "idle p99", "idle max")
    print(f"{'4 KiB reads beside':<30}" + "".join(f"{head:>10}" for head in heads))
    for kind, each in work.items():
        best = min((measure(path, each) for _ in range(ROUNDS)), key=lambda waits: waits.ratio)
        figures = "".join(f"{figure:>10.3f}" for figure in best)
        print(f"{kind:<30}{figures}   p99 {best.ratio:.1f} x idle (budget 5)", flush=True)


if __name__ == "__main__":
    main()
