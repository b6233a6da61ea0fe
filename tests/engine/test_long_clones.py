"""Clones of a range in steps: all or nothing, as of the start, whatever happens between."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_ranges import BLOCK, FANOUT, content, make, open_new, pattern, whole_after_gc

from engine import Store, errors
from engine.long_clones import blocks_of, clone_in_steps
from engine.ranges import BlockRange

STEP_COST = 12  # a dozen leaves of four blocks


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_new(tmp_path / "store")
    yield made
    made.abandon()


def count(steps: Generator[None, None, None]) -> int:
    return sum(1 for _ in steps)


SOURCE_BLOCKS, TARGET_BLOCKS = 90, 50
PLACES = st.tuples(st.integers(0, SOURCE_BLOCKS - 1), st.integers(0, 70), st.integers(1, 90))
BETWEEN = st.sampled_from(["source", "target", "commit", "gc", "nothing", "snapshot"])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=PLACES, tail=st.integers(0, BLOCK - 1), between=st.lists(BETWEEN, max_size=12))
def test_whatever_comes_between_the_range_is_that_of_the_start(
    place: tuple[int, int, int], tail: int, between: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    store = open_new(tmp_path_factory.mktemp("long") / "store")
    first, at, blocks = place
    blocks = min(blocks, SOURCE_BLOCKS - first)
    past = pattern(SOURCE_BLOCKS)[: SOURCE_BLOCKS * BLOCK - tail]
    expected = bytearray(pattern(TARGET_BLOCKS, 700))
    try:
        lab = store.volume("v")
        source, target = make(lab, b"s", past), make(lab, b"t", bytes(expected))
        store.commit()
        steps = clone_in_steps(
            lab, source, lab, target, BlockRange(first, at, blocks), step_cost=STEP_COST
        )
        for n, _ in enumerate(steps):
            match between[n] if n < len(between) else "nothing":
                case "source":
                    lab.write(source, (first + n) * BLOCK + 5, b"later" * 9)
                case "target":
                    lab.write(target, 7, b"meanwhile")
                    expected[7:16] = b"meanwhile"
                case "commit":
                    store.commit()
                case "gc":
                    store.gc()
                case "snapshot":
                    store.create_snapshot(lab, f"s{n}")
        new = past[first * BLOCK : (first + blocks) * BLOCK]
        size = max(at * BLOCK + len(new), len(expected))
        expected.extend(bytes(size - len(expected)))
        whole = new + bytes(-len(new) % BLOCK)  # past the source's end its last block is zero
        expected[at * BLOCK : at * BLOCK + len(whole)] = whole
        del expected[size:]
        assert content(lab, target) == expected
        whole_after_gc(store)
        assert content(lab, target) == expected
    finally:
        store.abandon()


def test_a_range_at_congruent_positions_is_one_step(store: Store) -> None:
    lab = store.volume("v")
    source, target = make(lab, b"s", pattern(300)), make(lab, b"t", b"")
    assert count(clone_in_steps(lab, source, lab, target, BlockRange(0, FANOUT**4, 300))) == 0
    assert content(lab, target) == bytes(FANOUT**4 * BLOCK) + pattern(300)


def test_a_long_range_takes_several_steps_and_the_target_changes_at_the_last(store: Store) -> None:
    lab, other = store.volume("v"), store.create_volume("w")
    source, target = make(lab, b"s", pattern(200)), make(other, b"t", pattern(3, 50))
    before = store.pool.core.allocated_slots
    steps = clone_in_steps(lab, source, other, target, BlockRange(0, 1, 200), step_cost=STEP_COST)
    seen = 0
    for _ in steps:
        seen += 1
        assert content(other, target) == pattern(3, 50)
    assert seen > 8
    assert content(other, target) == pattern(1, 50) + pattern(200)
    assert store.pool.core.allocated_slots == before
    assert other.referenced_bytes == 201 * BLOCK
    assert not lab.held
    assert not other.held


def test_steps_that_are_given_up_leave_nothing(store: Store) -> None:
    lab = store.volume("v")
    source, target = make(lab, b"s", pattern(100)), make(lab, b"t", pattern(3, 50))
    steps = clone_in_steps(lab, source, lab, target, BlockRange(0, 1, 100), step_cost=STEP_COST)
    next(steps)
    next(steps)
    steps.close()
    assert content(lab, target) == pattern(3, 50)
    assert not lab.held
    whole_after_gc(store)


def test_a_crash_between_steps_leaves_nothing(store: Store) -> None:
    lab = store.volume("v")
    source, target = make(lab, b"s", pattern(100)), make(lab, b"t", pattern(3, 50))
    steps = clone_in_steps(lab, source, lab, target, BlockRange(0, 1, 100), step_cost=STEP_COST)
    for _ in range(4):
        next(steps)
        store.commit()
    path = store.path
    store.abandon()
    with Store.open(path) as again:
        assert content(again.volume("v"), target) == pattern(3, 50)
        whole_after_gc(again)


def test_a_restore_between_steps_ends_it(store: Store) -> None:
    lab = store.volume("v")
    source, target = make(lab, b"s", pattern(100)), make(lab, b"t", pattern(3, 50))
    store.create_snapshot(lab, "s")
    steps = clone_in_steps(lab, source, lab, target, BlockRange(0, 1, 100), step_cost=STEP_COST)
    next(steps)
    store.restore(lab, "s", force=True)
    with pytest.raises(errors.Stale, match="restored"):
        count(steps)
    assert content(lab, target) == pattern(3, 50)
    whole_after_gc(store)


def test_a_quota_is_met_before_anything_is_changed(store: Store) -> None:
    lab = store.volume("v")
    small = store.create_volume("small", quota_bytes=60 * BLOCK)
    source, target = make(lab, b"s", pattern(100)), make(small, b"t", pattern(3, 50))
    with pytest.raises(errors.QuotaExceeded):
        count(clone_in_steps(lab, source, small, target, BlockRange(0, 1, 99), step_cost=STEP_COST))
    assert content(small, target) == pattern(3, 50)
    assert not small.held
    whole_after_gc(store)


def test_what_cannot_be_is_said_at_once(store: Store) -> None:
    lab = store.volume("v")
    source, target = make(lab, b"s", pattern(100)), make(lab, b"t", b"")
    with pytest.raises(errors.InvalidArgument, match="past the source's end"):
        next(clone_in_steps(lab, source, lab, target, BlockRange(0, 1, 101), step_cost=STEP_COST))
    with pytest.raises(errors.TooLarge):
        far = (1 << 50) // BLOCK - 4
        next(clone_in_steps(lab, source, lab, target, BlockRange(0, far, 9), step_cost=STEP_COST))
    store.create_snapshot(lab, "s")
    past = store.snapshot(lab, "s")
    with pytest.raises(errors.ReadOnly):
        next(clone_in_steps(lab, source, past, target, BlockRange(0, 1, 9), step_cost=STEP_COST))
    assert not lab.held


def test_bytes_are_named_by_their_blocks() -> None:
    assert blocks_of(0, 3 * BLOCK, 1) == BlockRange(0, 3, 1)
    assert blocks_of(BLOCK, 0, 2 * BLOCK + 1) == BlockRange(1, 0, 3)
