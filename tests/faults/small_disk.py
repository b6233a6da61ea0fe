"""A small real file system on a loop device, to be filled to its last byte."""

import contextlib
import errno
import filecmp
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
OTHERS = "others"
SIZE_BYTES = {"ext4": 100 << 20, "xfs": 300 << 20, "btrfs": 160 << 20}  # xfs: its least
FREE_BYTES = 90 << 20
DEADLINE_S = 60


@contextlib.contextmanager
def small_tmpfs() -> Iterator[Path]:
    """The same in memory: a host that has no FIEMAP."""
    with tempfile.TemporaryDirectory(prefix="ramet-disk-") as directory:
        options = f"size={FREE_BYTES}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", directory], check=True)


@contextlib.contextmanager
def small_disk(kind: str) -> Iterator[Path]:
    """An empty file system of the kind, mounted; gone afterwards."""
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=base, prefix="ramet-disk-") as directory:
        image, root = Path(directory) / "image", Path(directory) / "mnt"
        with image.open("wb") as file:
            file.truncate(SIZE_BYTES[kind])
        subprocess.run([*MKFS[kind], str(image)], check=True, stdout=subprocess.DEVNULL)
        root.mkdir()
        _mount(image, root)
        try:
            (root / OTHERS).touch()  # there is no room for its inode later
            with (root / "padding").open("wb") as padding:
                os.posix_fallocate(padding.fileno(), 0, max(free_bytes(root) - FREE_BYTES, 1))
            yield root
        finally:
            subprocess.run(["umount", str(root)], check=True)


def _mount(image: Path, root: Path) -> None:
    subprocess.run(["mount", "-o", "loop", str(image), str(root)], check=True)


def cut_power(root: Path) -> None:
    """What the disk had been given by now is there, and nothing else; no file may be open."""
    image = root.with_name("image")
    kept = root.with_name("kept")
    while True:  # until it is of one moment: nothing was written while it was copied
        subprocess.run(["cp", "--sparse=always", str(image), str(kept)], check=True)
        if filecmp.cmp(image, kept, shallow=False):
            break
    subprocess.run(["umount", str(root)], check=True)
    _until_gone(image)
    kept.rename(image)
    _mount(image, root)


def _until_gone(image: Path) -> None:
    """A mount namespace that was made meanwhile, anybody's, has what was mounted then; and XFS and
    btrfs cannot be mounted beside their own copies."""
    deadline = time.monotonic() + DEADLINE_S
    ask = ["losetup", "--associated", str(image)]
    while subprocess.run(ask, check=True, capture_output=True).stdout:
        assert time.monotonic() < deadline, f"{image} is mounted somewhere"
        time.sleep(0.01)


def fill(root: Path) -> int:
    """Somebody else's file takes all there is, to the last block; returns its bytes."""
    size = 0
    with (root / OTHERS).open("ab", buffering=0) as file:
        for step in (1 << 20, 4096, 512):
            data = os.urandom(step)
            while True:
                try:
                    size += file.write(data)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
        with contextlib.suppress(OSError):
            os.fsync(file.fileno())
    return size


def free_bytes(path: Path) -> int:
    host = os.statvfs(path)
    return host.f_bavail * host.f_frsize
