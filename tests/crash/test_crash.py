"""Power loss, the short form; ``make crash`` and docs/RELIABILITY.md have the long one."""

import pytest
from crash_bugs import BUGS
from crash_run import crash

SEEN_ON = dict.fromkeys(BUGS, "ext4") | {"no-slab-directory-fsync": "posix"}


@pytest.mark.parametrize(
    ("medium", "mode", "points"),
    [
        ("ext4", "engine", 150), ("ext4", "daemon", 50), ("xfs", "engine", 75),
        ("xfs", "daemon", 25), ("btrfs", "engine", 75), ("btrfs", "daemon", 25),
        ("posix", "engine", 100),
    ],
)  # fmt: skip
def test_no_cut_loses_what_was_acknowledged(medium: str, mode: str, points: int) -> None:
    figures = crash(medium, points, "ci", mode=mode, per_run=100)
    assert figures.failures == []
    assert figures.points == points
    assert figures.acks > 0


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_the_harness_sees_a_mistake_in_the_protocol(bug: str) -> None:
    medium = SEEN_ON[bug]
    figures = crash(medium, 600, "ci", mode="engine", bug=bug, per_run=75, first_failure=True)
    assert figures.failures
