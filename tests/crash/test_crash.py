"""Power loss, the short form; ``make crash`` and docs/RELIABILITY.md have the long one."""

import pytest
from crash_bugs import BUGS
from crash_run import crash


@pytest.mark.parametrize(
    ("file_system", "mode", "points"),
    [
        ("ext4", "engine", 200), ("ext4", "daemon", 50), ("xfs", "engine", 100),
        ("xfs", "daemon", 30), ("btrfs", "engine", 90), ("btrfs", "daemon", 30),
    ],
)  # fmt: skip
def test_no_cut_loses_what_was_acknowledged(file_system: str, mode: str, points: int) -> None:
    figures = crash(file_system, points, "ci", mode=mode, per_run=100)
    assert figures.failures == []
    assert figures.points == points
    assert figures.acks > 0


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_the_harness_sees_a_mistake_in_the_protocol(bug: str) -> None:
    figures = crash("ext4", 600, "ci", mode="engine", bug=bug, per_run=100, first_failure=True)
    assert figures.failures
