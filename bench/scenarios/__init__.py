"""The questions, a module each, in the order they are asked."""

from bench.harness.scenario import Scenario
from bench.scenarios.clone_size import CloneSize
from bench.scenarios.command import Command
from bench.scenarios.fragmentation import Fragmentation
from bench.scenarios.generation import Generation
from bench.scenarios.many import Batch, Concurrency

SCENARIOS: tuple[type[Scenario], ...] = (
    CloneSize, Fragmentation, Generation, Batch, Concurrency, Command,
)  # fmt: skip
