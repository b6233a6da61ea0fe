"""Random operations through the mount, against copies of the files in memory (fsx_run.py)."""

from pathlib import Path

from chance import SEED
from fsx_run import build, unsound, walked
from mounted import Mount


def test_random_operations_on_files_go_as_in_memory(mount: Mount, tmp_path: Path) -> None:
    seeds = range(SEED * 2, SEED * 2 + 2)
    assert walked(mount, build(tmp_path), seeds, 1500) == (1, [])
    mount.stop()
    assert unsound(mount.store) == ""
