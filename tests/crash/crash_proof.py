"""``make crash-proof``: the harness sees each mistake of crash_bugs.py, and none without them.

A mistake need not show on every file system; where it does not, the table says 0 (see
docs/RELIABILITY.md for why).  The exit code is 1 when a mistake is seen on none.
"""

import argparse
import contextlib
import io
import sys

from crash_bugs import BUGS, ON_A_FULL_DISK
from crash_run import MEDIA, crash, prepare

POINTS = 125


def caught(medium: str, bug: str | None, seed: str, points: int) -> int:
    """How many of the cuts show it."""
    with contextlib.redirect_stdout(io.StringIO()):
        full = bug in ON_A_FULL_DISK and medium != "posix"
        figures = crash(
            medium, points, seed, mode="engine", bug=bug, full=full,
            per_run=points // 5 if full else points,  # a workload has few moments that show it
        )  # fmt: skip
    return len(figures.failures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    prepare()
    print(f"{'caught of ' + str(options.points):24}", *(f"{name:>8}" for name in MEDIA))
    missed = 0
    for bug in (None, *BUGS):
        counts = [caught(name, bug, options.seed, options.points) for name in MEDIA]
        print(f"{bug or 'no mistake':24}", *(f"{count:8}" for count in counts), flush=True)
        missed += any(counts) if bug is None else not any(counts)
    print(f"crash-proof: {len(BUGS)} mistakes, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
