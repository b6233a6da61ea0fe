"""Makes ``native`` use the C core built with ASan, UBSan and failing allocations.

Import it (or ``pytest -p sanitized``) before ``native``, in a process with libasan preloaded
(``environment``).  It also notes which functions of the core were called.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INTO = ROOT / "build" / "sanitized"


def build() -> Path:
    """The sanitized core, made when it is not there or older than its sources."""
    sources = [*(ROOT / "native").glob("[a-z]*.[ch]"), ROOT / "native" / "build.py"]
    newest = max(source.stat().st_mtime for source in sources)
    built = list((INTO / "native").glob("_core*.so"))
    if not built or built[0].stat().st_mtime < newest:
        INTO.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "native/build.py", "--sanitize", "--fail-alloc", "--into", str(INTO)],
            check=True, cwd=ROOT, capture_output=True,
        )  # fmt: skip
        built = list((INTO / "native").glob("_core*.so"))
    return built[0]


def environment() -> dict[str, str]:
    """For a child that imports this module: the sanitizer's library comes first."""
    asan = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return os.environ | {
        "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1", "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
    }  # fmt: skip


class Recorder:
    """The core's ``lib``, and the names of its functions that were called."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self.called: set[str] = set()
        self.functions = {name for name in dir(lib) if callable(getattr(lib, name))}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._lib, name)
        if callable(found):
            self.called.add(name)
        return found


class Allocations:
    """The counter of alloc.h."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib

    def fail(self, nth: int) -> None:
        """The ``nth`` allocation from now fails; 0: none."""
        self._lib.rmt_alloc_count = 0
        self._lib.rmt_alloc_fail = nth

    @property
    def count(self) -> int:
        return int(self._lib.rmt_alloc_count)

    @property
    def failed(self) -> bool:
        return 0 < self._lib.rmt_alloc_fail <= self._lib.rmt_alloc_count


def _load() -> tuple[Any, Any]:
    path = build()
    spec = importlib.util.spec_from_file_location("native._core", path)
    assert spec is not None
    assert spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    recorder = Recorder(core.lib)
    door = ModuleType("native._core")
    door.ffi, door.lib = core.ffi, recorder  # type: ignore[attr-defined]
    sys.modules["native._core"] = door
    return recorder, core.lib


if "asan" in os.environ.get("LD_PRELOAD", ""):
    assert "native" not in sys.modules
    RECORDER, LIB = _load()
    ALLOCATIONS = Allocations(LIB)

if __name__ == "__main__":
    build()
    told = environment()
    names = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "PYTHONPATH")
    print(*(f"{name}={told[name]}" for name in names))
