"""Byte ranges against a model that knows each byte's lock."""

from hypothesis import given, settings
from hypothesis import strategies as st

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
