"""Every allocation of the C core fails once, under ASan and UBSan.  `make asan` takes all N."""

import json
import os
import subprocess
import sys

from chance import SEED
from sanitized import HERE, environment

DEEP = os.environ.get("RAMET_FAULTS") == "deep"
STRIDE, ENGINE_STRIDE = (1, 1) if DEEP else (31, 97)


def test_every_allocation_fails_once() -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "alloc_walk.py"), "--stride", str(STRIDE), "--seed", str(SEED),
         "--engine", str(ENGINE_STRIDE)],
        env=environment(), capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, (SEED, done.stderr[-6000:])
    figures = json.loads(done.stdout)
    print(done.stdout)
    assert figures["core_points"] >= 300 // STRIDE, figures
    assert figures["engine_points"] > 0, figures
