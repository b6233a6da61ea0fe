"""The handle of inject.c: build it, preload it into a child, arm it from inside."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "inject.c"
LIBRARY = HERE.parent.parent / "build" / "inject.so"
WRITE, SYNC, ALLOCATE, NAME = 1, 2, 4, 8
KINDS = {"write": WRITE, "sync": SYNC, "allocate": ALLOCATE, "name": NAME}
SHORT = -1  # instead of an errno: the call writes half of what it was given


def library() -> Path:
    """The compiled interposer, made when it is not there or older than its source."""
    if not LIBRARY.exists() or LIBRARY.stat().st_mtime < SOURCE.stat().st_mtime:
        LIBRARY.parent.mkdir(exist_ok=True)
        scratch = LIBRARY.with_suffix(f".{os.getpid()}")
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", scratch, SOURCE,
             "-ldl"], check=True,
        )  # fmt: skip
        scratch.rename(LIBRARY)
    return LIBRARY


def environment(
    kind: int = 0, path: Path | None = None, nth: int = 0, error: int = 0, *, sticky: bool = False
) -> dict[str, str]:
    """The environment of a child with the interposer in it, armed from its first call if told."""
    told = {**os.environ, "LD_PRELOAD": str(library()), "PYTHONPATH": str(Path.cwd())}
    if kind:
        told |= {
            "INJECT_KINDS": str(kind), "INJECT_PATH": str(path), "INJECT_NTH": str(nth),
            "INJECT_ERROR": str(error),
        } | ({"INJECT_STICKY": "1"} if sticky else {})  # fmt: skip
    return told


def run(script: str, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a script of this directory with the interposer in it."""
    return subprocess.run(
        [sys.executable, str(HERE / script), *arguments], env=environment(), text=True,
        capture_output=True, check=False, timeout=timeout_s,
    )  # fmt: skip


class Faults:
    """The interposer of this process."""

    def __init__(self) -> None:
        loaded = ctypes.CDLL(None)
        self._arm = loaded.inject_arm
        self._arm.argtypes = (
            ctypes.c_int, ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int,
        )  # fmt: skip
        self.disarm = loaded.inject_disarm
        self._fired = loaded.inject_fired
        self._count = loaded.inject_count
        self._count.restype = ctypes.c_long

    def arm(self, kind: int, path: Path, nth: int, error: int, *, sticky: bool = False) -> None:
        """The ``nth`` call of the kind under the path fails; from then on all, if sticky."""
        self._arm(kind, str(path).encode(), nth, error, sticky)

    def count(self, kind: int, path: Path) -> None:
        """Only count."""
        self._arm(kind, str(path).encode(), -1, 0, 0)

    @property
    def fired(self) -> bool:
        return bool(self._fired())

    @property
    def calls(self) -> int:
        return int(self._count())
