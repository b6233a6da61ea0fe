"""Compile the C hot path into ``native/_core``: ``python native/build.py``.

The cdef is taken from ``rmt.h`` itself, so the declarations cannot drift from the code.
"""

import os
import re
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = (
    "audit.c", "cache.c", "gc.c", "index.c", "io.c", "map.c", "owners.c", "reclaim.c", "slots.c",
)  # fmt: skip
SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"]


def declarations() -> str:
    """``rmt.h`` without comments and preprocessor lines, constants as ``#define NAME ...``."""
    text = re.sub(r"/\*.*?\*/", "", (HERE / "rmt.h").read_text(), flags=re.S)
    kept = []
    for line in text.splitlines():
        constant = re.match(r"#define (RMT_[A-Z_]+) \d+u?$", line)
        if constant:
            kept.append(f"#define {constant[1]} ...")
        elif not line.startswith("#"):
            kept.append(line)
    return "\n".join(kept)


def builder(*, sanitize: bool = False) -> FFI:
    ffi = FFI()
    ffi.cdef(declarations())
    flags = ["-O3", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra"]
    ffi.set_source(
        "native._core",
        '#include "rmt.h"',
        sources=[f"native/{name}" for name in SOURCES],
        include_dirs=["native"],
        extra_compile_args=flags + (SANITIZE if sanitize else []),
        extra_link_args=SANITIZE if sanitize else [],
    )
    return ffi


def main() -> None:
    os.chdir(HERE.parent)
    builder(sanitize="--sanitize" in sys.argv[1:]).compile(verbose=False)


if __name__ == "__main__":
    main()
