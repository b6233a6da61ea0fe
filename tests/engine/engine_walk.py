"""A long random walk over the same rules as engine_machine.py, with weights that fill the store.

Hypothesis finds small failures; this finds those that need hundreds of steps.
A seed repeats a run.
"""

import inspect
import random
from collections.abc import Callable
from typing import Any

from engine_machine import BLOCK, FILE_BLOCKS, EngineMachine

from engine.block_range import BlockRange

WEIGHTS = {
    "write": 30, "write_open": 8, "truncate": 4, "punch": 6, "unlink": 3, "rename": 2,
    "begin_read": 6, "finish_read": 5,
    "open_file": 3, "close_file": 2, "clone_file": 10, "clone_from_snapshot": 5, "clone_range": 14,
    "clone_ranges": 10,
    "clone_volume": 3, "remove_volume": 1, "snapshot": 3, "remove_snapshot": 2, "restore": 3,
    "capture": 6, "sync": 8, "write_commit": 8, "finish_commit": 8, "gc_start": 3, "gc_mark": 8,
    "gc_sweep": 8, "gc_whole": 1, "reclaim": 8, "trim_take": 4, "trim_punch": 4,
    "crash": 1, "forget_caches": 2, "check_contents": 2,
}  # fmt: skip
# Most of what is done is writing and syncing: what the intent log is for.
SYNCED = {
    "write": 120, "write_open": 4, "sync": 60, "capture": 6, "write_commit": 6, "finish_commit": 12,
    "crash": 8, "truncate": 1, "unlink": 1, "rename": 1, "open_file": 1, "close_file": 1,
    "clone_file": 2, "clone_range": 1, "snapshot": 1, "restore": 1, "reclaim": 2, "gc_whole": 1,
    "remove_snapshot": 1, "check_contents": 2,
}  # fmt: skip


def existing(rng: random.Random, machine: EngineMachine) -> tuple[str, bytes]:
    """A volume and a name; most often a file that is there."""
    volumes = machine.model.volumes
    volume = rng.choice(sorted(volumes))
    files = sorted(volumes[volume])
    if files and rng.random() < 0.9:
        return volume, rng.choice(files)
    return rng.choice(["v1", "v2", "v3"]), rng.choice([b"a", b"b", b"c", b"d", b"e", b"f"])


def block_ranges(rng: random.Random, have: int, room: int) -> list[BlockRange]:
    """Ranges of one call; most often inside both files."""
    found = []
    for _ in range(rng.randrange(1, 6)):
        count = rng.randrange(1, 30)
        first, at = (rng.randrange(max(size - count, 1)) for size in (have, room))
        if rng.random() < 0.4:  # congruent: whole subtrees can be shared
            first, at = first // 16 * 16, at // 16 * 16
        found.append(BlockRange(first, at, min(count, max(have - first, 1))))
    return found


def arguments(rng: random.Random, machine: EngineMachine, step: str) -> dict[str, Any]:
    volume, name = existing(rng, machine)
    into, new = existing(rng, machine)
    held = sorted({v for v, _ in machine.model.snapshots})
    if step in {"restore", "clone_from_snapshot"} and held:
        volume = rng.choice(held)
    if step in {"clone_volume", "clone_file"} and rng.random() < 0.7:
        into, new = rng.choice(["v1", "v2", "v3"]), rng.choice([b"a", b"b", b"c", b"d", b"e", b"f"])
    offset = rng.randrange(FILE_BLOCKS) * BLOCK
    into_offset = rng.randrange(FILE_BLOCKS) * BLOCK
    if rng.random() < 0.3:  # congruent: whole subtrees can be shared
        offset, into_offset = offset // 65536 * 65536, into_offset // 65536 * 65536
    elif rng.random() < 0.3:
        offset += rng.randrange(BLOCK)
    length = rng.choice([rng.randrange(1, 24) * BLOCK, rng.randrange(1, 5 * BLOCK)])
    have = len(machine.model.volumes.get(volume, {}).get(name, b"")) // BLOCK
    room = len(machine.model.volumes.get(into, {}).get(new, b"")) // BLOCK
    every = {
        "ranges": block_ranges(rng, have, room), "extend": rng.random() < 0.5,
        "volume": volume, "name": name, "source": volume, "old": name, "into": into, "new": new,
        "offset": offset, "start": offset,
        "length": length, "kind": rng.randrange(40) if rng.random() < 0.7 else rng.randrange(3),
        "size": rng.randrange(FILE_BLOCKS * BLOCK), "snap": rng.choice(["s1", "s2"]),
        "force": rng.random() < 0.5, "clean": rng.random() < 0.2,
        "nodes": rng.randrange(1, 60), "pick": rng.randrange(10),
        "to": into_offset, "steps": rng.randrange(1, 9),
    }  # fmt: skip
    wanted = list(inspect.signature(getattr(EngineMachine, step)).parameters)[1:]
    return {name: every[name] for name in wanted}


def allowed(machine: EngineMachine, step: str) -> bool:
    rule = getattr(EngineMachine, step).hypothesis_stateful_rule
    return all(condition(machine) for condition in rule.preconditions)


def run(
    seed: int, steps: int, weights: dict[str, int] = WEIGHTS,
    make: Callable[[], EngineMachine] = EngineMachine,
) -> EngineMachine:  # fmt: skip
    """Walk; AssertionError or Corrupt when the store and the model differ."""
    rng = random.Random(seed)
    machine = make()
    try:
        for _ in range(steps):
            step = rng.choices(list(weights), list(weights.values()))[0]
            if allowed(machine, step):
                getattr(machine, step)(**arguments(rng, machine, step))
                machine.slots_are_accounted_for()
    finally:
        machine.teardown()
    return machine
