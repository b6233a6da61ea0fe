"""The disk under test (disk.c) from Python: recorded, cut, mounted.

``disk.c`` has the image and the log; here are the loop device on it and the file system in it.
Everything that is set up is taken down again in reverse, whatever happens in between: nothing stays
mounted, no loop device stays attached.
"""

import contextlib
import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("disk.c")
PROGRAM = Path(sys.prefix) / "crash-disk"
MS_NOATIME = 1024
DEADLINE_S = 30
_CONTROL = struct.Struct("<QQ")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class FileSystem:
    """A host file system: how it is made and mounted.

    ``whole`` is a range that its own recovery needs to be written in one piece or not at all, so
    no cut tears a write there.
    """

    name: str
    image_bytes: int
    mkfs: tuple[str, ...]
    options: str = ""
    whole: str = "0:0"


FILE_SYSTEMS = {
    "ext4": FileSystem(
        "ext4", 192 << 20, ("mkfs.ext4", "-q", "-b", "4096", "-N", "512", "-J", "size=8"),
        "noinit_itable",
    ),
    "xfs": FileSystem("xfs", 320 << 20, ("mkfs.xfs", "-q", "-f", "-l", "size=64m"), "nouuid"),
    "btrfs": FileSystem(
        "btrfs", 256 << 20, ("mkfs.btrfs", "-q", "-m", "single", "-d", "single"),
        "nodiscard", "65536:4096",
    ),
}  # fmt: skip


def build() -> Path:
    """Compile disk.c, unless that has been done since it last changed."""
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= SOURCE.stat().st_mtime:
        return PROGRAM
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True
    ).stdout.split()
    scratch = PROGRAM.with_suffix(f".{os.getpid()}")
    subprocess.run(
        ["cc", "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(scratch),
         *flags],
        check=True,
    )  # fmt: skip
    scratch.rename(PROGRAM)
    return PROGRAM


@contextlib.contextmanager
def disk(
    mode: str, directory: Path, file_system: FileSystem, log: Path
) -> Iterator[str]:  # fmt: skip
    """Serve the disk in ``directory``; gives the loop device on it."""
    directory.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [build(), mode, directory, str(file_system.image_bytes), log, file_system.whole],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the disk did not start")
        with _loop_device(directory / "image") as device:
            yield device
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        process.stdout.close()
        if os.path.ismount(directory):
            subprocess.run(["umount", "-l", str(directory)], check=True)


@contextlib.contextmanager
def _loop_device(image: Path) -> Iterator[str]:
    done = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    )
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def make_file_system(device: str, file_system: FileSystem) -> None:
    subprocess.run([*file_system.mkfs, device], check=True, stdout=subprocess.DEVNULL)


def cut_power(directory: Path, end: int, seed: int) -> None:
    """From now on the image is what a cut after ``end`` bytes of the log may have left."""
    fd = os.open(directory / "control", os.O_WRONLY)
    try:
        os.write(fd, _CONTROL.pack(end, seed))
    finally:
        os.close(fd)


@contextlib.contextmanager
def mounted(device: str, root: Path, file_system: FileSystem) -> Iterator[None]:
    """Mount the image; OSError when the host file system does not take it."""
    root.mkdir(exist_ok=True)
    arguments = (device, str(root), file_system.name, file_system.options)
    source, target, kind, options = (each.encode() for each in arguments)
    if _libc.mount(source, target, kind, ctypes.c_ulong(MS_NOATIME), options):
        error = ctypes.get_errno()
        raise OSError(error, f"cannot mount {device}: {os.strerror(error)}")
    try:
        yield
    finally:
        if _libc.umount2(target, 0):
            error = ctypes.get_errno()
            subprocess.run(["umount", "-l", str(root)], check=False)
            raise OSError(error, f"cannot unmount {root}: {os.strerror(error)}")
