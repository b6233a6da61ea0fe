"""Compile the library that adds requests to pyfuse3: ``python fusefs/build.py``."""

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = (HERE / "extra_ops.c", HERE / "privileges.c", HERE / "device.c")
LIBRARY = HERE / "extra_ops.so"


def main() -> None:
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True
    ).stdout.split()
    subprocess.run(
        ["cc", "-O2", "-std=c11", "-Wall", "-Wextra", "-fPIC", "-shared", *map(str, SOURCES),
         "-o", str(LIBRARY), *flags, "-ldl"],
        check=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
