"""The engine against a dict of bytes, driven by Hypothesis and by long random walks."""

import pytest
from engine_machine import EngineMachine
from engine_walk import run
from hypothesis import HealthCheck, settings

TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(
    max_examples=150,
    stateful_step_count=100,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("seed", range(16))
def test_a_long_walk_never_reads_a_wrong_byte(seed: int) -> None:
    run(seed, 3000)
