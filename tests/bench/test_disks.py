"""File systems on loop devices: gone afterwards, whatever happened."""

from pathlib import Path

import pytest

from bench.disks import file_system
from bench.peers.xfs import Xfs

SIZE_BYTES = 400 << 20


def loops_of(folder: Path) -> list[Path]:
    told = Path("/sys/block").glob("loop*/loop/backing_file")
    return [each for each in told if each.read_text().startswith(str(folder))]


def test_no_mount_and_no_loop_device_is_left(tmp_path: Path) -> None:
    with file_system(tmp_path, "xfs", SIZE_BYTES) as root:
        assert root.is_mount()
        assert len(loops_of(tmp_path)) == 1
    assert not root.is_mount()
    assert not loops_of(tmp_path)


def test_one_that_cannot_be_mounted_leaves_no_loop_device(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="mkfs"), file_system(tmp_path, "xfs", 4096):
        pass
    assert not loops_of(tmp_path)


def test_a_directory_of_another_file_system_is_refused(tmp_path: Path) -> None:
    why = Xfs(Path("/proc")).detect()
    assert why == "/proc is proc, not xfs"
