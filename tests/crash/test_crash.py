"""Power loss, the short form; ``make crash`` and docs/RELIABILITY.md have the long one.

In processes of their own, because they take a mount namespace of their own.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from crash_bugs import BUGS, ON_A_FULL_DISK

SEEN_ON = dict.fromkeys(BUGS, "ext4") | {"no-slab-directory-fsync": "posix"}
FIGURES = re.compile(r"(\d+) points, (\d+) acks, (\d+) flushes, (\d+) failures")
DEADLINE_S = 600


def crash(medium: str, points: int, *options: object) -> tuple[int, int, int]:
    """Points, acks and failures of one ``make crash``."""
    command = [
        sys.executable, Path(__file__).with_name("crash_run.py"), "--fs", medium, "--points",
        points, "--seed", "ci", *options,
    ]  # fmt: skip
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    found = FIGURES.search(done.stdout.splitlines()[-1]) if done.stdout else None
    assert found, done.stdout + done.stderr
    made, acks, _, failures = map(int, found.groups())
    assert done.returncode == bool(failures)
    return made, acks, failures


@pytest.mark.parametrize(
    ("medium", "mode", "points"),
    [
        ("ext4", "engine", 150), ("ext4", "daemon", 50), ("xfs", "engine", 75),
        ("xfs", "daemon", 25), ("btrfs", "engine", 75), ("btrfs", "daemon", 25),
        ("posix", "engine", 100),
    ],
)  # fmt: skip
def test_no_cut_loses_what_was_acknowledged(medium: str, mode: str, points: int) -> None:
    made, acks, failures = crash(medium, points, "--mode", mode, "--per-run", 75)
    assert (made, failures) == (points, 0)
    assert acks > 0


@pytest.mark.parametrize(("medium", "points"), [("ext4", 24), ("xfs", 12), ("btrfs", 12)])
def test_nor_when_the_disk_has_been_filled_since(medium: str, points: int) -> None:
    made, acks, failures = crash(medium, points, "--mode", "engine", "--per-run", 12, "--full")
    assert (made, failures) == (points, 0)
    assert acks > 0


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_the_harness_sees_a_mistake_in_the_protocol(bug: str) -> None:
    options = ["--mode", "engine", "--per-run", 75, "--first-failure", "--bug", bug]
    options += ["--full"] if bug in ON_A_FULL_DISK else []
    assert crash(SEEN_ON[bug], 2000, *options)[2] > 0  # it ends with the first
