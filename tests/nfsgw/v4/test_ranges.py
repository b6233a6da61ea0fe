"""Byte ranges against a model that knows each byte's lock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfsgw.v4.range_index import RangeIndex
from nfsgw.v4.ranges import END_MAX, Range, Ranges

BYTES = 24
OWNERS = [(1, b"a"), (1, b"b"), (2, b"a")]
bounds = st.tuples(st.integers(0, BYTES - 1), st.integers(0, BYTES - 1)).map(sorted)
steps = st.lists(
    st.tuples(st.sampled_from(OWNERS), bounds, st.sampled_from(["shared", "exclusive", "unlock"])),
    max_size=30,
)


class Model:
    """Who has which byte, and how."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, bytes], dict[int, bool]] = {owner: {} for owner in OWNERS}

    def against(
        self, owner: tuple[int, bytes], start: int, end: int, exclusive: bool
    ) -> set[tuple[int, bytes]]:
        return {
            other
            for other, held in self.held.items()
            if other != owner
            for byte in range(start, end + 1)
            if byte in held and (exclusive or held[byte])
        }

    def ranges(self, owner: tuple[int, bytes]) -> list[Range]:
        """Neighbours of one kind together."""
        found: list[Range] = []
        for byte, exclusive in sorted(self.held[owner].items()):
            if found and found[-1].end == byte - 1 and found[-1].exclusive == exclusive:
                found[-1] = Range(found[-1].start, byte, exclusive)
            else:
                found.append(Range(byte, byte, exclusive))
        return found


@given(steps)
@settings(max_examples=300)
def test_as_a_model_of_bytes(done: list[tuple[tuple[int, bytes], list[int], str]]) -> None:
    ranges, model = Ranges(), Model()
    for owner, (start, end), what in done:
        before = len(model.ranges(owner))
        if what == "unlock":
            split = ranges.splits(owner, start, end)
            more = ranges.clear(owner, start, end)
            for byte in range(start, end + 1):
                model.held[owner].pop(byte, None)
            assert split == (more == 1)
        else:
            exclusive = what == "exclusive"
            against = model.against(owner, start, end, exclusive)
            found = ranges.conflict(owner, Range(start, end, exclusive))
            assert (found is None) == (not against)
            if found is not None:
                assert found[0] in against
                assert found[1] in model.ranges(found[0])
                assert found[1].start <= end
                assert found[1].end >= start
                continue
            more = ranges.put(owner, Range(start, end, exclusive))
            model.held[owner].update(dict.fromkeys(range(start, end + 1), exclusive))
        assert more == len(model.ranges(owner)) - before
        for each in OWNERS:
            assert ranges.held(each) == model.ranges(each)
    for owner in OWNERS:
        assert ranges.forget(owner) == len(model.ranges(owner))
    assert not ranges


def test_the_last_byte_there_can_be() -> None:
    ranges, (one, other, _) = Ranges(), OWNERS
    ranges.put(one, Range(10, END_MAX, True))
    assert ranges.conflict(other, Range(END_MAX, END_MAX, False)) == (one, Range(10, END_MAX, True))
    assert ranges.clear(one, 20, END_MAX) == 0
    assert ranges.held(one) == [Range(10, 19, True)]
    assert ranges.conflict(other, Range(20, END_MAX, True)) is None


@given(st.data())
@settings(max_examples=30)
def test_an_index_of_many_as_a_list(data: st.DataObject) -> None:
    """Small blocks, few holders, and ranges that start together and overlap."""
    index: RangeIndex[int] = RangeIndex(4)
    there: list[tuple[int, int, int]] = []
    holders = st.integers(0, 2)
    for _ in range(data.draw(st.integers(0, 60))):
        if there and data.draw(st.booleans()):
            index.remove(*there.pop(data.draw(st.integers(0, len(there) - 1))))
        else:
            start, length = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 30))
            there.append((start, start + length, data.draw(holders)))
            index.add(*there[-1])
    for holder in range(3):
        for start in range(0, 42, 3):
            for end in (start, start + 4, 50):
                found = index.meeting(start, end, holder)
                meeting = [
                    each for each in there
                    if each[2] != holder and each[0] <= end and each[1] >= start
                ]  # fmt: skip
                assert (found is None) == (not meeting)
                assert found is None or found in meeting


class Counted(int):
    """A byte that counts how often one is compared."""

    compared = 0

    def __ge__(self, other: object) -> bool:
        Counted.compared += 1
        return int.__ge__(self, other)  # type: ignore[operator]


@pytest.mark.parametrize("apart", [10, 0])
def test_a_lock_does_not_look_at_every_owner(apart: int) -> None:
    """Many share the file, each his part of it or all the same part."""
    ranges, many = Ranges(), 20_000
    for n in range(many):
        ranges.put((n, b"me"), Range(n * apart, Counted(n * apart + 4), False))
    last = (many - 1) * apart
    Counted.compared = 0
    assert ranges.conflict((0, b"you"), Range(last + 5, last + 9, True)) is None
    assert ranges.conflict((0, b"you"), Range(last, last, False)) is None
    assert ranges.conflict((0, b"you"), Range(last + 4, last + 9, True)) is not None
    assert Counted.compared < many / 10
    for n in range(many):
        assert ranges.forget((n, b"me")) == 1
    assert not ranges


def test_an_owner_with_many_ranges_goes_at_once() -> None:
    ranges, (one, other, _) = Ranges(), OWNERS
    for n in range(2000):
        ranges.put(one, Range(2 * n, 2 * n, n % 3 == 0))
    for n in range(0, 2000, 400):
        ranges.put(other, Range(2 * n + 1, 2 * n + 1, True))
    assert ranges.forget(one) == 2000
    assert ranges.conflict(one, Range(0, END_MAX, False)) == (other, Range(1, 1, True))
    assert ranges.conflict(other, Range(0, END_MAX, True)) is None


@pytest.mark.parametrize("shortened", [False, True])
def test_many_ranges_in_the_middle_go_at_once(shortened: bool) -> None:
    ranges, (one, other, third) = Ranges(), OWNERS
    for n in range(2000):
        ranges.put(one, Range(3 * n, 3 * n, n % 2 == 0))
        ranges.put(other, Range(3 * n + 1, 3 * n + 1, n % 2 == 0))
    if shortened:
        assert ranges.shorten(one, 1500) == 1500
        gone = range(500, 2000)
    else:
        assert ranges.clear(one, 3 * 300, 3 * 1500) == -1201
        gone = range(300, 1501)
    for n in range(2000):
        for exclusive in (False, True):
            there = n not in gone and (exclusive or n % 2 == 0)
            wanted = Range(3 * n, 3 * n, exclusive)
            assert (ranges.conflict(third, wanted) is not None) == there
            wanted = Range(3 * n + 1, 3 * n + 1, exclusive)
            assert (ranges.conflict(third, wanted) is not None) == (exclusive or n % 2 == 0)
    assert ranges.shorten(one, 5000) == 2000 - len(gone)
    assert ranges.held(one) == []
    assert ranges.forget(other) == 2000
    assert not ranges
