"""Compile the C hot path into ``native/_core``: ``python native/build.py``.

The cdef is taken from ``rmt.h`` itself, so the declarations cannot drift from the code.
"""

import argparse
import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = (
    "audit.c", "backed.c", "cache.c", "fetchers.c", "filter.c", "filter_bmi2.c", "front.c", "gc.c",
    "hash.c", "hash_avx2.c", "host.c", "index.c", "io.c", "map.c", "merge.c", "owners.c",
    "reclaim.c", "runs.c", "slots.c", "writes.c",
)  # fmt: skip
SANITIZE = [
    "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer",
    "-g",
]  # fmt: skip
ALLOCATIONS = "extern long rmt_alloc_count, rmt_alloc_fail;"


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


def builder(*, sanitize: bool = False, fail_alloc: bool = False) -> FFI:
    """``fail_alloc``: allocations can be made to fail (alloc.h); for tests only."""
    ffi = FFI()
    ffi.cdef(declarations() + (ALLOCATIONS if fail_alloc else ""))
    flags = ["-O3", "-std=c11", "-D_GNU_SOURCE", "-pthread", "-Wall", "-Wextra"]
    if sanitize:
        flags += SANITIZE
    if fail_alloc:
        flags += ["-DRMT_FAIL_ALLOC"]
    ffi.set_source(
        "native._core",
        '#include "rmt.h"\n#include "alloc.h"',
        sources=[str(HERE / name) for name in SOURCES],
        include_dirs=[str(HERE)],
        extra_compile_args=flags,
        extra_link_args=SANITIZE if sanitize else [],
    )
    return ffi


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    parser.add_argument("--fail-alloc", action="store_true", help="see alloc.h")
    parser.add_argument("--into", default=".", help="directory that gets native/_core")
    told = parser.parse_args()
    into = os.path.abspath(os.path.join(HERE.parent, told.into))
    os.chdir(HERE.parent)
    ffi = builder(sanitize=told.sanitize, fail_alloc=told.fail_alloc)
    ffi.compile(tmpdir=into, verbose=False)


if __name__ == "__main__":
    main()
