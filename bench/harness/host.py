"""Facts of the machine that a figure depends on."""

import os
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from bench.harness.results import Host

PACKAGES = ("ramet", "pyfuse3", "lmdb", "trio", "msgspec")


def facts(folder: Path) -> Host:
    """Before a run; ``load_after`` is for later."""
    return Host(
        cpu=_cpu(), cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=f"{platform.system()} {platform.release()}", file_system=_file_system(folder),
        root=os.geteuid() == 0, load_before=load(), versions=_versions(),
    )  # fmt: skip


def load() -> list[float]:
    return [round(each, 2) for each in os.getloadavg()]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Kind and options of the mount that the folder is on: the longest that contains it."""
    best, told = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if folder.resolve().is_relative_to(where) and len(where) >= len(best):
            best, told = where, f"{kind} ({options})"
    return told


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            continue
    return found
