"""What one address may have of what there is for all."""

import gc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nfsgw.quotas import Portion, Quota


def fill(portion: Portion) -> int:
    """Take all that may be had; how much."""
    taken = 0
    while not portion.full:
        portion.add(1)
        taken += 1
    return taken


def test_who_takes_all_he_can_leaves_as_much() -> None:
    quota = Quota(100)
    first = quota.of(b"first")
    assert fill(first) == 51
    others = [quota.of(b"%d" % number) for number in range(3)]
    assert [fill(each) for each in others] == [25, 13, 6]
    first.add(-3)
    assert first.full  # what it gives is others'
    assert fill(others[2]) == 2


def test_one_that_there_is_can_be_had() -> None:
    quota = Quota(1)
    first, second = quota.of(b"first"), quota.of(b"second")
    assert (first.room, second.room) == (1, 1)
    first.add(1)
    assert (first.room, second.room) == (0, 0)
    first.add(-1)
    assert not second.full


def test_an_address_has_one_portion_as_long_as_anybody_has_it() -> None:
    quota = Quota(9)
    one, same = quota.of(b"one"), quota.of(b"one")
    assert one is same
    one.add(2)
    del one
    assert quota.of(b"one").count == 2
    same.add(-2)
    del same
    gc.collect()
    assert not quota._portions


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 9)), max_size=60)


@given(st.integers(0, 40), STEPS)
def test_nobody_has_more_than_was_left(most: int, steps: list[tuple[int, int]]) -> None:
    quota = Quota(most)
    portions = [quota.of(b"%d" % number) for number in range(4)]
    held: Counter[int] = Counter()
    for who, wanted in steps:
        mine = portions[who]
        assert mine.full == (mine.room == 0)
        count = min(wanted, mine.room) if wanted > 0 else -min(-wanted, held[who])
        for _ in range(count):  # as much as ``room`` says, one by one
            assert held[who] <= quota.left
            mine.add(1)
            held[who] += 1
        if count < 0:
            mine.add(count)
            held[who] += count
        assert [each.count for each in portions] == [held[number] for number in range(4)]
        assert 0 <= quota.left == most - sum(held.values())
