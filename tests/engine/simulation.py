"""A long random walk over the same rules as test_model.py, with weights that fill the store.

Hypothesis finds small failures; this finds those that need hundreds of steps.  A seed repeats a run.
"""

import random
from typing import Any

from test_model import FILE_BLOCKS, BLOCK, EngineMachine

WEIGHTS = {
    "write": 30, "write_open": 8, "truncate": 4, "punch": 6, "unlink": 3, "rename": 2,
    "open_file": 3, "close_file": 2, "clone_file": 10, "clone_from_snapshot": 5, "clone_range": 14,
    "clone_volume": 3, "remove_volume": 1, "snapshot": 3, "remove_snapshot": 2, "restore": 3,
    "capture": 6, "write_commit": 8, "finish_commit": 8, "gc_start": 3, "gc_mark": 8,
    "gc_sweep": 8, "gc_whole": 1, "crash": 1, "forget_caches": 2, "check_contents": 2,
}  # fmt: skip


class Draw:
    """Stands for Hypothesis's data object in rules that draw from what is there."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def draw(self, strategy: Any) -> Any:
        return self._rng.choice(strategy.elements)


def arguments(rng: random.Random, step: str) -> dict[str, Any]:
    names = [b"a", b"b", b"c", b"d", b"e", b"f"]
    offset = rng.randrange(FILE_BLOCKS) * BLOCK
    if rng.random() < 0.3:
        offset += rng.randrange(BLOCK)
    volumes, snapshots = ["v1", "v2", "v3"], ["s1", "s2"]
    length = rng.choice([rng.randrange(1, 24) * BLOCK, rng.randrange(1, 5 * BLOCK)])
    every = {
        "volume": rng.choice(volumes), "name": rng.choice(names), "offset": offset,
        "length": length, "kind": rng.randrange(40) if rng.random() < 0.7 else rng.randrange(3),
        "size": rng.randrange(FILE_BLOCKS * BLOCK), "old": rng.choice(names),
        "new": rng.choice(names), "source": rng.choice(volumes), "into": rng.choice(volumes),
        "snap": rng.choice(snapshots), "force": rng.random() < 0.5, "clean": rng.random() < 0.2,
        "nodes": rng.randrange(1, 60), "data": Draw(rng), "to": rng.randrange(FILE_BLOCKS) * BLOCK,
        "start": offset,
    }  # fmt: skip
    code = getattr(EngineMachine, step).__code__
    return {k: every[k] for k in code.co_varnames[1 : code.co_argcount]}


def allowed(machine: EngineMachine, step: str) -> bool:
    function = getattr(EngineMachine, step)
    conditions = getattr(function, "hypothesis_stateful_preconditions", ())
    return all(condition(machine) for condition in conditions)


def run(seed: int, steps: int) -> EngineMachine:
    """Walk; AssertionError or Corrupt when the store and the model differ."""
    rng = random.Random(seed)
    machine = EngineMachine()
    try:
        for _ in range(steps):
            step = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if allowed(machine, step):
                getattr(machine, step)(**arguments(rng, step))
                machine.slots_are_accounted_for()
    finally:
        machine.teardown()
    return machine
