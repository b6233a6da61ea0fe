"""Set-id bits go as on any Linux file system, and the kernel does not ask before each write."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mounted import Mount

SET_ID = 0o6777
NOBODY = 65534
LIBC_CALLS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def allocate(fd, mode, offset, length):
    call = libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    assert call(fd, mode, offset, length) == 0
os.setgroups([]); os.setgid(65534); os.setuid(65534)
path, other = sys.argv[1:]
"""


def as_nobody(code: str, path: Path, other: Path) -> None:
    """Relative to the folder: nobody may not walk to it."""
    command = [sys.executable, "-c", LIBC_CALLS + code, path.name, other.name]
    subprocess.run(command, check=True, cwd=path.parent)


def bits(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def files(mount: Mount) -> tuple[Path, Path]:
    made = mount.lab / "program", mount.lab / "other"
    for path in made:
        path.write_bytes(b"x" * 8192)
        path.chmod(SET_ID)
    return made


@pytest.mark.parametrize(
    "code",
    [
        "os.pwrite(os.open(path, os.O_WRONLY), b'y', 0)",
        "os.pwrite(os.open(path, os.O_WRONLY), b'y' * 4096, 1 << 20)",
        "os.truncate(path, 5000)",
        "os.open(path, os.O_WRONLY | os.O_TRUNC)",
        "allocate(os.open(path, os.O_WRONLY), 3, 0, 4096)",
        "allocate(os.open(path, os.O_WRONLY), 0, 0, 1 << 20)",
        "os.copy_file_range(os.open(other, os.O_RDONLY), os.open(path, os.O_WRONLY), 4096)",
    ],
)
def test_who_is_not_root_takes_the_bits_off(files: tuple[Path, Path], code: str) -> None:
    path, other = files
    bits(path)
    as_nobody(code, path, other)
    asked = subprocess.run(["stat", "-c%a", path], check=True, capture_output=True, text=True)
    assert asked.stdout == "777\n"  # it asks for nothing else, which the kernel may still have
    assert bits(path) == 0o777
    assert bits(other) == SET_ID


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"new"),
        lambda path: os.truncate(path, 3),
        os.utime,
    ],
)
def test_root_leaves_them(files: tuple[Path, Path], change: Callable[[Path], None]) -> None:
    change(files[0])
    assert bits(files[0]) == SET_ID


def test_a_new_owner_or_group_takes_them_off_files_only(mount: Mount) -> None:
    for name, owner, group in (("a", NOBODY, -1), ("b", -1, NOBODY)):
        path = mount.lab / name
        path.touch()
        path.chmod(SET_ID)
        os.chown(path, owner, group)
        assert bits(path) == 0o777
    directory = mount.lab / "d"
    directory.mkdir()
    directory.chmod(0o2775)
    os.chown(directory, NOBODY, NOBODY)
    assert bits(directory) == 0o2775


def test_the_group_bit_of_a_file_that_the_group_cannot_execute_stays(mount: Mount) -> None:
    path = mount.lab / "a"
    path.write_bytes(b"x")
    path.chmod(0o2666)
    os.chown(path, -1, NOBODY)
    assert bits(path) == 0o2666


def test_the_kernel_asks_once_for_an_inode_not_before_each_write(mount: Mount) -> None:
    path = mount.lab / "disk"
    path.touch()
    before = mount.stats()["attributes_asked"]
    fd = os.open(path, os.O_WRONLY)
    for n in range(100):
        os.pwrite(fd, b"x" * 4096, n * 4096)
    os.close(fd)
    assert mount.stats()["attributes_asked"] - before < 10
