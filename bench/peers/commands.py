"""Other people's programs: found, run, asked for their version."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.harness.peer import fsync


def missing(*programs: str, package: str) -> str | None:
    """Why it cannot run, when one of the programs is not installed."""
    absent = [name for name in programs if shutil.which(name) is None]
    return f"{', '.join(absent)} not installed; apt-get install {package}" if absent else None


def not_root() -> str | None:
    return "mounting needs root; run it as root" if os.geteuid() else None


def quietly(*command: object) -> str:
    """Run to the end; returns what it printed.  CalledProcessError has what it complained of."""
    done = subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout


def version(*command: str) -> str:
    """The first line it prints; empty when it does not run."""
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except OSError:
        return ""
    return ((done.stdout or done.stderr).strip().splitlines() or [""])[0]


def beside_python(program: str) -> str | None:
    """A program that pip has installed, or one in PATH."""
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.exists() else shutil.which(program)


def kernel_knows(file_system: str) -> bool:
    return f"\t{file_system}\n" in Path("/proc/filesystems").read_text()


def taken_bytes(folder: Path) -> int:
    """What the host file system has given to all files below, once it has written them."""
    for path in folder.rglob("*"):
        if path.is_file():
            fsync(path)
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
