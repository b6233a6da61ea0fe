"""Jobs against a model: as Hypothesis drives it, for small failures, and walked, for deep ones."""

import random

import pytest
from hypothesis import HealthCheck, settings
from job_machine import JobMachine

TestJobs = JobMachine.TestCase
TestJobs.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
WALK_STEPS = 300


def step(machine: JobMachine, rng: random.Random) -> None:
    pick = rng.randrange(1 << 16)
    chosen = rng.choices(
        ("go on", "start", "commit", "move", "replace", "cancel", "crash", "clear"),
        (16, 6, 4, 4, 2, 2, 2, 1),
    )[0]
    if chosen == "start":
        source = rng.choice(["golden", "tree"])
        machine.start(source=source, count=rng.randint(1, 5), fails_at=rng.randint(0, 12))
    elif chosen == "commit":
        machine.commit()
    elif chosen == "clear":
        machine.clear(number=rng.randint(1, machine.model.next))
    elif chosen == "crash":
        machine.crash(interrupted_after=rng.choice([None, 0, 1, 2, 4]), commits=rng.random() < 0.5)
    elif chosen == "move" and machine._clones():
        machine.somebody_moves_a_clone(pick=pick, instead=rng.random() < 0.5)
    elif chosen == "replace" and machine._clones():
        machine.somebody_puts_a_file_in_its_place(pick=pick)
    elif chosen == "cancel" and machine.live:
        machine.cancel(pick=pick)
    elif machine.live:
        machine.go_on(pick=pick, times=rng.randint(1, 4))


@pytest.mark.parametrize("seed", range(8))
def test_a_walk(seed: int) -> None:
    rng, machine = random.Random(seed), JobMachine()
    try:
        for _ in range(WALK_STEPS):
            step(machine, rng)
            machine.the_store_is_as_it_should_be()
    finally:
        machine.teardown()
