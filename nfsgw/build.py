"""Compile again.c into ``nfsgw/_again``: ``python nfsgw/build.py``.

The declarations are taken from ``again.h`` itself, so they cannot drift from the code.
"""

import argparse
import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g"]


def declarations() -> str:
    text = re.sub(r"/\*.*?\*/", "", (HERE / "again.h").read_text(), flags=re.S)
    kept = []
    for line in text.splitlines():
        constant = re.match(r"#define (NFS_[A-Z_]+) \d+u\s*$", line)
        if constant:
            kept.append(f"#define {constant[1]} ...")
        elif not line.startswith("#"):
            kept.append(line)
    return "\n".join(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    parser.add_argument("--into", default=".", help="directory that gets nfsgw/_again")
    told = parser.parse_args()
    ffi = FFI()
    ffi.cdef(declarations())
    ffi.set_source(
        "nfsgw._again",
        '#include "again.h"',
        sources=[str(HERE / "again.c")],
        include_dirs=[str(HERE)],
        extra_compile_args=["-O3", "-std=c11", "-Wall", "-Wextra"]
        + (SANITIZE if told.sanitize else []),
        extra_link_args=SANITIZE if told.sanitize else [],
    )
    into = os.path.abspath(os.path.join(HERE.parent, told.into))
    os.chdir(HERE.parent)
    ffi.compile(tmpdir=into, verbose=False)


if __name__ == "__main__":
    main()
