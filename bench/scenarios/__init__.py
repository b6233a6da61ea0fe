"""The questions, a module each, in the order they are asked."""

from bench.harness.scenario import Scenario
from bench.scenarios.clone_size import CloneSize

SCENARIOS: tuple[type[Scenario], ...] = (CloneSize,)
