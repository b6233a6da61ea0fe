"""NFS: ``qemu-img bench`` against the gateway, our FUSE mount, NFS-Ganesha, a bare server.

Ganesha exports the FUSE mount, by which alone it could serve a store; the bare server is one of
trio and struct that answers from memory (bench/nfs_bare.py).  All run at once, in network and mount
namespaces of their own, for each wants ports 111 and 2049; QEMU works on them in turns, and a
figure is the median of ROUNDS.  What is written is one pattern, so that both ways into the store do
the same work.
"""

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.ganesha import ganesha
from bench.mounts import served
from engine import Store

ROUNDS = 5
FILE_MIB = 256
OURS, BARE, MOUNTED = "127.0.0.2", "127.0.0.3", "127.0.0.4"
#        bytes, requests of a run
SIZES = ((4096, 40_000), (65_536, 16_000), (1 << 20, 1_000))
DEPTHS = (1, 16)
SMALL = 4096
OF_GANESHA, OF_BARE = 1.5, 0.8
Bench = Callable[[int, int, int, bool], float]


def qemu(target: str, *words: str, enter: tuple[str, ...] = ()) -> Bench:
    """A function that runs requests and returns their rate, by QEMU's own clock."""

    def run(size: int, count: int, depth: int, write: bool) -> float:
        command = [
            *enter, "qemu-img", "bench", "-f", "raw", "-s", str(size), "-c", str(count),
            "-d", str(depth), *(("-w", "--pattern=165") if write else ()), *words, target,
        ]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = re.search(r"completed in ([\d.]+) seconds", done.stdout)
        assert found is not None
        return count / float(found[1])

    return run


@contextlib.contextmanager
def daemon(folder: Path, name: str, *, mount: bool) -> Iterator[Path]:
    """A daemon of a store of its own with the file in it; its volume where it is mounted."""
    store, mountpoint = folder / name, folder / f"{name}-mnt"
    Store.create(store)
    with Store.open(store) as opened:
        lab = opened.create_volume("lab")
        file = lab.create(1, b"file", 0o644, 0, 0)
        for mib in range(FILE_MIB):
            lab.write(file.ino, mib << 20, os.urandom(1 << 20))
    words = ["-P", "-m", "cli", "--store", str(store), "serve"]
    with served([*words, *(("--mount", str(mountpoint)) if mount else ())], mountpoint):
        yield mountpoint / "lab"


def export(folder: Path, name: str, address: str) -> str:
    rule = "--client", "127.0.0.0/8:root"
    subprocess.run(
        [sys.executable, "-P", "-m", "cli", "--store", str(folder / name), "share", "nfs", "add",
         "lab", "--listen", address, *rule],
        check=True, capture_output=True,
    )  # fmt: skip
    return f"nfs://{address}/lab/file"


def compare(sides: dict[str, Bench], size: int, count: int, depth: int, write: bool) -> None:
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, run in sides.items():
            rates[name].append(run(size, count if depth > 1 else count // 2, depth, write))
    found = {name: statistics.median(each) for name, each in rates.items()}
    ours = found["ramet"]
    what = f"{size >> 10} KiB {'write' if write else 'read'}, depth {depth}"
    figures = "".join(f"{rate:>9,.0f}" for rate in found.values())
    of_ganesha, of_bare = ours / found["ganesha"], ours / found["bare"]
    enough = of_bare >= OF_BARE and (size > SMALL or of_ganesha >= OF_GANESHA)
    print(f"{what:<24}{figures}   {ours / found['fuse']:>5.2f} {of_ganesha:>7.2f} {of_bare:>5.2f}"
          f"  {'ok' if enough else 'below'}", flush=True)  # fmt: skip


def inside() -> None:
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as name, \
            contextlib.ExitStack() as stack:  # fmt: skip
        folder = Path(name)
        stack.enter_context(daemon(folder, "alone", mount=False))
        lab = stack.enter_context(daemon(folder, "mounted", mount=True))
        stack.enter_context(
            served(["-P", "-m", "bench.nfs_bare", BARE, str(FILE_MIB)], folder / "nowhere")
        )
        enter = stack.enter_context(ganesha(folder, lab))
        sides = {
            "ramet": qemu(export(folder, "alone", OURS)),
            "mounted": qemu(export(folder, "mounted", MOUNTED)),
            "fuse": qemu(str(lab / "file"), "-t", "none"),
            "ganesha": qemu(f"nfs://127.0.0.1{lab}/file", enter=enter),
            "bare": qemu(f"nfs://{BARE}/lab/file"),
        }
        names = "".join(f"{each:>9}" for each in sides)
        print(f"{'requests a second':<24}{names}   ramet/fuse /ganesha /bare"
              f" (budget {OF_GANESHA} at 4 KiB, {OF_BARE})")  # fmt: skip
        for write in (False, True):
            for size, count in SIZES:
                for depth in DEPTHS:
                    compare(sides, size, count, depth, write)


def in_namespaces(module: str) -> None:
    """``python -m module in``, in namespaces of its own: nothing of it is to be seen outside."""
    script = (
        f"ip link set lo up && mount -t tmpfs tmpfs /run && exec {sys.executable} -P -m {module} in"
    )
    subprocess.run(["unshare", "--net", "--mount", "sh", "-c", script], check=True)


def main() -> None:
    in_namespaces("bench.nfs")


if __name__ == "__main__":
    inside() if sys.argv[1:] == ["in"] else main()
