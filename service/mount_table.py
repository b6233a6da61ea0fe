"""The kernel's table of mounts, read without asking any file system."""

import ctypes
import os
import re
from pathlib import Path
from typing import NamedTuple

MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)
TABLE = Path("/proc/self/mountinfo")


class Mounted(NamedTuple):
    """One line of it, as proc(5) tells."""

    device: str  # MAJOR:MINOR, the same for all binds of one file system
    root: str  # the directory of the file system that is seen here
    path: Path
    kind: str
    source: str


def _lines() -> list[list[str]]:
    """The words of each line.  Names are any bytes but spaces, tabs, newlines and backslashes,
    which are escaped: other characters that end lines elsewhere do not here."""
    return [line.split(" ") for line in os.fsdecode(TABLE.read_bytes()).split("\n") if line]


def mounts() -> list[Mounted]:
    """In the order of mounting: of two at one path the later is seen."""
    found = []
    for words in ([_plain(word) for word in line] for line in _lines()):
        tail = words.index("-", 6)
        found.append(
            Mounted(words[2], words[3], Path(words[4]), words[tail + 1], words[tail + 2])
        )  # fmt: skip
    return found


def mount_at(path: Path) -> Mounted | None:
    """What is seen at a path, if it is a mount point."""
    return next((each for each in reversed(mounts()) if each.path == path), None)


def device_at(path: Path) -> int:
    """The st_dev of the file system that is seen at a path."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        told = Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)
    (number,) = re.findall(r"^mnt_id:\s*(\d+)$", told, re.MULTILINE)
    major, minor = next(words[2] for words in _lines() if words[0] == number).split(":")
    return os.makedev(int(major), int(minor))


def drop_binds(mountpoint: Path) -> None:
    """End what else the file system at a mount point is mounted at: soon nobody answers there."""
    ours = mount_at(mountpoint)
    for each in mounts() if ours is not None else []:
        if ours is not None and each.device == ours.device and each.path != mountpoint:
            _libc.umount2(os.fsencode(each.path), MNT_DETACH)


def _plain(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
