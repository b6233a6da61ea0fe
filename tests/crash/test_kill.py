"""kill -9 of the daemon under load, the short form of ``make kill``."""

import random
from pathlib import Path

from kill_run import Killer


def test_a_killed_daemon_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    killer = Killer(tmp_path, random.Random("ci"))
    while killer.rounds < 20:
        killer.round()
        assert killer.failures == []
    assert killer.acks > 20
