"""Processes of ours have our modules, whatever lies where the command was called."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Store
from hypervisor.quiesce import dismiss, start_guard
from service import background

RAMET = Path(sys.executable).parent / "ramet"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with modules of a stranger's, of which none may be run."""
    here, told = tmp_path / "here", tmp_path / "told"
    spring = f"open({str(told)!r}, 'a').write(__file__ + chr(10))\n"
    for name in ("cli/__init__", "cli/__main__", "hypervisor/__init__", "trio", "struct"):
        path = here / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(spring)
    told.touch()
    monkeypatch.chdir(here)
    yield here
    assert told.read_text() == ""


def test_a_daemon_runs_nothing_of_the_callers_directory(trap: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    Store.create(store)
    (trap / "mnt").mkdir()
    subprocess.run([RAMET, "--store", "../store", "mount", "mnt"], check=True)
    try:
        assert os.path.ismount(trap / "mnt")  # paths are still the caller's
        told = background.status(str(store))
        assert (told["store"], told["mountpoint"]) == (str(store), str(trap / "mnt"))
        assert os.readlink(f"/proc/{told['pid']}/cwd") == "/"
    finally:
        background.stop(str(store))


def test_a_guard_runs_nothing_of_the_callers_directory(trap: Path) -> None:
    guard = start_guard("test:///default", "6ba7b810-9dad-11d1-80b4-00c04fd430c9", 20)
    assert os.readlink(f"/proc/{guard.pid}/cwd") == "/"
    dismiss(guard, thawed=True)
    assert guard.returncode == 0
