"""A run's filter, by all ways to read one, against one that goes bit by bit (filter_agree.c)."""

import os
import subprocess
from pathlib import Path

from native.build import HERE

AGREE = Path(__file__).with_name("filter_agree.c")


def test_all_ways_to_read_a_filter_agree(tmp_path: Path) -> None:
    program = tmp_path / "filter_agree"
    subprocess.run(
        ["gcc", "-O2", "-g", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", f"-I{HERE}",
         AGREE, HERE / "filter_bmi2.c", "-o", program],
        check=True,
    )  # fmt: skip
    seed = os.environ.get("RAMET_SEED", "1")
    subprocess.run([program, seed], check=True, timeout=300)
