"""fallocate, statfs, and finding holes: space as programs on the mount see it."""

import ctypes
import errno
import os
import subprocess
from pathlib import Path

import pytest
from command import Ramet
from mounted import Mount

BLOCK = 4096
KEEP, PUNCH, COLLAPSE, ZERO, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(path: Path, mode: int, offset: int, length: int) -> int:
    """0 or an errno."""
    with path.open("r+b") as file:
        return LIBC.fallocate(file.fileno(), mode, offset, length) and ctypes.get_errno()


def full_file(mount: Mount, name: str, blocks: int = 16) -> Path:
    path = mount.lab / name
    path.write_bytes(b"d" * (blocks * BLOCK))
    return path


def test_allocating_sets_the_size_or_keeps_it(shared: Mount) -> None:
    path = full_file(shared, "allocated")
    assert fallocate(path, KEEP, 16 * BLOCK, 4 * BLOCK) == 0
    assert path.stat().st_size == 16 * BLOCK
    assert fallocate(path, 0, 16 * BLOCK, 4 * BLOCK + 1) == 0
    assert path.read_bytes() == b"d" * (16 * BLOCK) + bytes(4 * BLOCK + 1)


@pytest.mark.parametrize("mode", [ZERO, ZERO | KEEP, PUNCH | KEEP])
def test_zeroed_ranges_are_holes_and_nothing_else_changes(shared: Mount, mode: int) -> None:
    path = full_file(shared, f"zeroed{mode}")
    assert fallocate(path, mode, BLOCK + 5, 3 * BLOCK) == 0
    assert fallocate(path, mode, 15 * BLOCK, 4 * BLOCK) == 0
    size = 19 * BLOCK if mode == ZERO else 16 * BLOCK
    expected = bytearray(b"d" * (15 * BLOCK) + bytes(size - 15 * BLOCK))
    expected[BLOCK + 5 : 4 * BLOCK + 5] = bytes(3 * BLOCK)
    assert path.read_bytes() == expected
    assert int(os.getxattr(path, "user.ramet.referenced_bytes")) == 13 * BLOCK
    with path.open("rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 2 * BLOCK
        assert os.lseek(file.fileno(), 2 * BLOCK, os.SEEK_DATA) == 4 * BLOCK
        with pytest.raises(OSError) as caught:
            os.lseek(file.fileno(), 15 * BLOCK, os.SEEK_DATA)
    assert caught.value.errno == errno.ENXIO


def test_what_is_not_supported_is_refused_and_changes_nothing(shared: Mount) -> None:
    path = full_file(shared, "refused")
    for mode in (PUNCH, COLLAPSE, INSERT, UNSHARE, UNSHARE | KEEP, PUNCH | ZERO | KEEP):
        assert fallocate(path, mode, 0, BLOCK) == errno.EOPNOTSUPP, mode
    assert path.read_bytes() == b"d" * (16 * BLOCK)
    with pytest.raises(OSError) as caught:
        os.open(shared.lab, os.O_TMPFILE | os.O_RDWR)
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("end", [1 << 50, 1 << 52, 1 << 62])
def test_ranges_past_what_a_file_may_be_are_refused(shared: Mount, end: int) -> None:
    """Short ones, whose entries are looked at before: 1 PiB, all that maps can name, and more."""
    path, other = full_file(shared, "long"), shared.lab / "other"
    other.touch()
    for offset in (end - BLOCK, end):
        for mode in (0, KEEP, PUNCH | KEEP, ZERO, ZERO | KEEP):
            assert fallocate(path, mode, offset, 2 * BLOCK) == errno.EFBIG, (offset, mode)
        with path.open("rb") as source, other.open("r+b") as target:
            with pytest.raises(OSError) as caught:
                os.copy_file_range(source.fileno(), target.fileno(), 2 * BLOCK, 0, offset)
            assert caught.value.errno == errno.EFBIG
            assert os.copy_file_range(source.fileno(), target.fileno(), BLOCK, offset, 0) == 0
    assert path.read_bytes() == b"d" * (16 * BLOCK)
    assert other.stat().st_size == 0


def test_an_allocation_that_there_is_no_room_for_is_refused(shared: Mount) -> None:
    path = full_file(shared, "room")
    assert fallocate(path, 0, 0, 1 << 60) == errno.EFBIG
    free = os.statvfs(shared.root).f_bavail * BLOCK
    for mode in (0, KEEP):
        assert fallocate(path, mode, 0, free + (1 << 30)) == errno.ENOSPC
    assert path.stat().st_size == 16 * BLOCK
    Ramet(shared.store).run("volume", "create", "small", "--quota", "1M")
    small = shared.root / "small" / "file"
    small.write_bytes(b"x" * (100 * BLOCK))
    assert fallocate(small, 0, 0, 257 * BLOCK) == errno.EDQUOT
    assert fallocate(small, 0, 0, 256 * BLOCK) == 0  # what is there already counts once


def test_a_volume_with_a_quota_shows_it(shared: Mount) -> None:
    Ramet(shared.store).run("volume", "create", "limited", "--quota", "64M")
    limited = shared.root / "limited"
    (limited / "file").write_bytes(os.urandom(256 * BLOCK))
    found, whole = os.statvfs(limited), os.statvfs(shared.root)
    assert found.f_blocks * found.f_frsize == 64 << 20
    assert (found.f_blocks - found.f_bfree) == 256
    assert found.f_files - found.f_ffree == 2  # its root, and the file
    assert whole.f_blocks > found.f_blocks
    assert os.statvfs(limited / "file").f_blocks == found.f_blocks
    assert os.statvfs(limited / ".snapshots").f_blocks == found.f_blocks


def test_free_inodes_are_those_there_is_room_for(shared: Mount) -> None:
    before = os.statvfs(shared.lab)
    for n in range(20):
        (shared.lab / f"inode{n}").touch()
    after = os.statvfs(shared.lab)
    assert 0 < after.f_ffree <= after.f_bfree * BLOCK // 512
    used = [found.f_files - found.f_ffree for found in (before, after)]
    assert used[1] - used[0] == 20


def sparse_file(path: Path) -> Path:
    """1 GiB with three pieces of data."""
    with path.open("wb") as file:
        file.truncate(1 << 30)
        for at in (0, 300 << 20, (1 << 30) - 70_000):
            os.pwrite(file.fileno(), os.urandom(70_000), at)
    return path


def test_qemu_img_reads_what_is_data_only(shared: Mount, tmp_path: Path) -> None:
    path, copy = sparse_file(shared.lab / "sparse"), tmp_path / "copy.raw"
    table = subprocess.run(
        ["qemu-img", "map", "-f", "raw", "--output=json", path], check=True, capture_output=True,
        text=True,
    ).stdout  # fmt: skip
    assert table.count('"data": true') == 3
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", path, copy], check=True)
    assert copy.stat().st_blocks * 512 < 1 << 20
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", path, copy], check=True)


def test_programs_that_go_by_blocks_see_holes_when_asked_to(
    one_volume: tuple[Ramet, Path], tmp_path: Path
) -> None:
    path = sparse_file(one_volume[1] / "sparse")
    archive, copy = tmp_path / "a.tar", tmp_path / "copy"
    subprocess.run(["tar", "-C", path.parent, "-Scf", archive, path.name], check=True)
    assert archive.stat().st_size < 1 << 20
    subprocess.run(["cp", path, copy], check=True)
    assert copy.stat().st_blocks * 512 < 1 << 20
    subprocess.run(["tar", "-C", tmp_path, "-xf", archive], check=True)
    for found in (copy, tmp_path / "sparse"):
        subprocess.run(
            ["qemu-img", "compare", "-f", "raw", "-F", "raw", path, found], check=True
        )  # fmt: skip
