"""kill -9 of the daemon under load, the short form of ``make kill``."""

import subprocess
import sys
from pathlib import Path


def test_a_killed_daemon_loses_nothing_that_was_acknowledged() -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kill_run.py"), "--rounds", "20", "--seed", "ci"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 kills" in done.stdout
    assert " 0 failures" in done.stdout.splitlines()[-1]
