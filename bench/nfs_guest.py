"""NFS as a Linux kernel uses it: fio in a guest, against the gateway and against NFS-Ganesha.

One guest (emulated: Debian's cloud kernel, busybox, fio) mounts both by NFSv3 and NFSv4.2 at once.
Ganesha exports the FUSE mount of a store, by which alone it could serve one.  Each line is run on
the servers in turns, ROUNDS times in the one boot, and a figure is the median.  An emulated kernel
is slow and shares the cores with the servers, so what is compared is the whole way of a request:
ratios come out nearer to 1 than those of the servers alone (``bench.nfs``).
"""

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from bench.ganesha import MOUNT_PORT, NFS_PORT, PSEUDO, ganesha
from bench.nfs import FILE_MIB, OF_GANESHA, SMALL, daemon, export, in_namespaces

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "guest")]

import client  # noqa: E402
import nfs_client  # noqa: E402

from bench.guest import build  # noqa: E402

CACHE = ROOT / ".venv" / "guest-cache"
ROUNDS = 3
RUN_MS = 1500
OUR_PORT = 12_049
MEMORY_MIB = 1024  # fio brings 80 MiB of libraries
DEADLINE_S = 900
VERSIONS = ("3", "4.2")
SERVERS = ("ramet", "ganesha")


@dataclass(frozen=True)
class Work:
    """One line: fio's words."""

    name: str
    rw: str
    size: int
    depth: int


WORK = tuple(
    Work(f"{size >> 10} KiB {'random' if 'rand' in rw else 'sequential'} "
         f"{'write' if 'write' in rw else 'read'}, depth {depth}", rw, size, depth)
    for size, depth, kinds in (
        (SMALL, 1, ("randread", "randwrite")),
        (SMALL, 16, ("randread", "randwrite")),
        (65_536, 16, ("randread", "randwrite")),
        (1 << 20, 16, ("read", "write")),
    )
    for rw in kinds
)  # fmt: skip

JOBS = f"""[global]
ioengine=libaio
direct=1
thread
stonewall
time_based
runtime={RUN_MS}ms
size={FILE_MIB}m
fallocate=none
gtod_reduce=1
disk_util=0
"""
SCRIPT = """
cat > /jobs << 'END'
{jobs}END
grep ' nfs' /proc/mounts
round=0
while [ $round -lt {rounds} ]; do
    round=$((round + 1))
    fio --output-format=terse --terse-version=3 /jobs > /said || {{ cat /said; exit 1; }}
    cut -d ';' -f 3,5,8,49 /said | sed 's/^/RATE;/'
done
"""
RATE = re.compile(r"^RATE;(\d+)-(\w+)-([\d.]+);(\d+);([\d.]+);([\d.]+)$", re.MULTILINE)


def folder_of(server: str, version: str) -> str:
    return f"/{server}{version}"


def jobs() -> str:
    """fio's job file: in every line of WORK the servers follow one another."""
    text = JOBS
    for number, work in enumerate(WORK):
        for version in VERSIONS:
            for server in SERVERS:
                text += (
                    f"[{number}-{server}-{version}]\nfilename={folder_of(server, version)}/file\n"
                    f"rw={work.rw}\nbs={work.size}\niodepth={work.depth}\n"
                )
    return text


def mounts(lab: Path) -> str:
    """The lines of the guest's script that mount both servers; ``lab`` is what Ganesha exports."""
    text = ""
    for server, port, mount_port in (
        ("ramet", OUR_PORT, OUR_PORT), ("ganesha", NFS_PORT, MOUNT_PORT),
    ):  # fmt: skip
        for version in VERSIONS:
            path = str(lab) if server == "ganesha" and version == "3" else PSEUDO
            options = f"addr={client.HOST},vers={version},proto=tcp,port={port},"
            options += (
                f"nolock,mountproto=tcp,mountport={mount_port}"
                if version == "3"
                else "clientaddr=10.0.2.15"
            )
            where = folder_of(server, version)
            text += f"mkdir {where}\n"
            text += f"linux_client mount {client.HOST}:{path} {where} {options} || exit 1\n"
    return text


def guest(folder: Path) -> client.Client:
    """The NFS client of the tests, with fio and what it is linked with put behind it."""
    made = nfs_client.make(folder / "client", CACHE)
    tree = folder / "fio"
    for name in ("bin", "lib", "lib64"):
        (tree / name).mkdir(parents=True)
    fio = shutil.which("fio")
    assert fio is not None
    shutil.copy(fio, tree / "bin" / "fio")
    told = subprocess.run(["ldd", fio], check=True, capture_output=True, text=True).stdout
    for word in told.split():
        if word.startswith("/"):
            place = "lib64" if "/ld-linux" in word else "lib"
            shutil.copy(word, tree / place / Path(word).name)
    return replace(made, initramfs=made.initramfs + client.packed(tree), memory_mib=MEMORY_MIB)


def run(folder: Path, lab: Path) -> str:
    """Boot, mount, measure; what the guest printed.  The guest ends with this, whatever happens."""
    log = folder / "console"
    script = mounts(lab) + SCRIPT.format(jobs=jobs(), rounds=ROUNDS)
    process = guest(folder).start(script, log)
    try:
        return client.finish(process, log, DEADLINE_S)
    finally:
        process.kill()
        process.wait()


def rates(said: str) -> dict[tuple[int, str, str], list[float]]:
    """Requests a second of each round, by the line, the server and the version."""
    found: dict[tuple[int, str, str], list[float]] = {}
    for number, server, version, error, read, write in RATE.findall(said):
        if error != "0":
            raise RuntimeError(f"fio: error {error} at {server}, vers={version}, job {number}")
        found.setdefault((int(number), server, version), []).append(float(read) + float(write))
    if {len(each) for each in found.values()} != {ROUNDS}:
        raise RuntimeError(f"fio did not run {ROUNDS} times; the guest said:\n{said[-5000:]}")
    return found


def report(said: str) -> None:
    found = rates(said)
    names = "".join(f"{each:>9}" for each in SERVERS)
    print(f"{'fio in a guest, requests a second':<44}{names}   ratio"
          f" (budget {OF_GANESHA} at 4 KiB)")  # fmt: skip
    for number, work in enumerate(WORK):
        for version in VERSIONS:
            ours, theirs = (statistics.median(found[number, each, version]) for each in SERVERS)
            verdict = "" if work.size > SMALL else "ok" if ours >= OF_GANESHA * theirs else "below"
            print(f"{f'{work.name}, v{version}':<44}{ours:>9,.0f}{theirs:>9,.0f}"
                  f"   {ours / theirs:>5.2f}  {verdict}".rstrip(), flush=True)  # fmt: skip


def inside() -> None:
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as name, \
            contextlib.ExitStack() as stack:  # fmt: skip
        folder = Path(name)
        stack.enter_context(daemon(folder, "alone", mount=False))
        lab = stack.enter_context(daemon(folder, "mounted", mount=True))
        export(folder, "alone", f"127.0.0.1:{OUR_PORT}")
        stack.enter_context(ganesha(folder, lab, own_network=False))
        report(run(folder, lab))


def main() -> None:
    build.download(CACHE)  # before the namespaces, which have no way out
    in_namespaces("bench.nfs_guest")


if __name__ == "__main__":
    inside() if sys.argv[1:] == ["in"] else main()
