"""Host file systems on a disk that can lose its power (disk.c): recorded, cut, mounted.

``disk.c`` has the image and the log; here are the loop device on it and the file system in it.
Everything that is set up is taken down again in reverse, whatever happens in between: nothing stays
mounted, no loop device stays attached.
"""

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crash_log import Cutter, Place, Record, read_log

SOURCE = Path(__file__).with_name("disk.c")
PROGRAM = Path(sys.prefix) / "crash-disk"
MS_NOATIME = 1 << 10
MS_REC_PRIVATE = ctypes.c_ulong(1 << 14 | 1 << 18)
MNT_DETACH = 2
BLKFLSBUF = 0x1261
CLONE_NEWNS = 1 << 17
DEADLINE_S = 30
_CONTROL = struct.Struct("<QQ")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class FileSystem:
    """A host file system on such a disk: how it is made, mounted, recorded and cut.

    ``whole`` is a range that its own recovery needs to be written in one piece or not at all, so
    no cut tears a write there.
    """

    name: str
    image_bytes: int
    mkfs: tuple[str, ...]
    options: str
    whole: str = "0:0"

    @contextlib.contextmanager
    def recorded(self, directory: Path, log: Path) -> Iterator[Place]:
        root, served = directory / "root", directory / "disk"
        with self._disk("record", served, log) as device:
            subprocess.run([*self.mkfs, device], check=True, stdout=subprocess.DEVNULL)
            with self._mounted(device, root):
                yield Place(root, served / "notes")

    def records(self, log: Path) -> list[Record]:
        return list(read_log(log))

    @contextlib.contextmanager
    def replayed(self, directory: Path, log: Path) -> Iterator[Cutter]:
        served = directory / "disk"
        with self._disk("replay", served, log) as device:

            @contextlib.contextmanager
            def cut(end: int, seed: int) -> Iterator[Path]:
                with (served / "control").open("wb", buffering=0) as control:
                    control.write(_CONTROL.pack(end, seed))
                _forget(device)
                with self._mounted(device, directory / "root"):
                    yield directory / "root"

            yield cut

    @contextlib.contextmanager
    def _disk(self, mode: str, directory: Path, log: Path) -> Iterator[str]:
        """Serve the disk in ``directory``; gives the loop device on it."""
        directory.mkdir(exist_ok=True)
        arguments = [mode, directory, str(self.image_bytes), log, self.whole]
        with serving([build(), *arguments], directory), _loop_device(directory / "image") as device:
            yield device

    @contextlib.contextmanager
    def _mounted(self, device: str, root: Path) -> Iterator[None]:
        """Mount the image; OSError when the host file system does not take it."""
        root.mkdir(exist_ok=True)
        arguments = (device, str(root), self.name, self.options)
        source, target, kind, options = (each.encode() for each in arguments)
        if _libc.mount(source, target, kind, ctypes.c_ulong(MS_NOATIME), options):
            error = ctypes.get_errno()
            raise OSError(error, f"cannot mount {device}: {os.strerror(error)}")
        try:
            yield
        except BaseException:
            _libc.umount2(target, MNT_DETACH)
            raise
        if _libc.umount2(target, 0):
            error = ctypes.get_errno()
            _libc.umount2(target, MNT_DETACH)
            raise OSError(error, f"cannot unmount {root}: {os.strerror(error)}")


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


def _forget(device: str) -> None:
    """The kernel keeps no page of the device, whoever may have it open as well."""
    fd = os.open(device, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, BLKFLSBUF)
    finally:
        os.close(fd)


def own_mounts() -> None:
    """Give this process a mount namespace of its own, for good.

    A process that makes itself a namespace gets a copy of all mounts it sees (QEMU under libvirt
    does).  Such a copy would keep a file system alive after we have unmounted it, and the next
    mount of the same disk would be the old file system, caches and all.
    """
    if _libc.unshare(CLONE_NEWNS) or _libc.mount(None, b"/", None, MS_REC_PRIVATE, None):
        error = ctypes.get_errno()
        raise OSError(error, f"no mount namespace of our own: {os.strerror(error)}")


def unmount_below(directory: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    for target in [line.split()[1] for line in mounts]:
        if target.startswith(f"{directory}/"):
            _libc.umount2(target.encode(), MNT_DETACH)


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
def serving(command: list[str | Path], directory: Path) -> Iterator[None]:
    """A FUSE process of ours that says ready and ends on SIGTERM."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{command[0]} did not start")
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        process.stdout.close()
        # A mount that was left is dead, and no mount to os.path.ismount.
        subprocess.run(["umount", "-q", "-l", str(directory)], check=False)


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
