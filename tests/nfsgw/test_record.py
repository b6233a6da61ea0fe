"""Records out of a stream, however it was cut; and what a stranger's lengths do not get."""

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from nfsgw.quotas import Portion
from nfsgw.record import (
    BUFFER_BYTES,
    FRAGMENTS_MAX,
    JOIN_BYTES_MAX,
    LAST,
    RECORD_BYTES_MAX,
    Buffers,
    RecordReader,
    marked,
)
from nfsgw.xdr import Garbage

SIZES = st.one_of(
    st.integers(0, 200), st.integers(BUFFER_BYTES - 9, BUFFER_BYTES + 9), st.integers(0, 300_000)
)


def fragments(data: bytes, cuts: list[int]) -> bytes:
    """A record, cut at some places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in pairwise(places)] or [b""]
    heads = [len(piece) for piece in pieces]
    heads[-1] |= LAST
    return b"".join(struct.pack(">I", h) + p for h, p in zip(heads, pieces, strict=True))


def read(
    reader: RecordReader, buffers: Buffers, stream: bytes, steps: list[int]
) -> Iterator[bytes]:
    """As a connection does: receive some, take all records there are, give their buffers back."""
    at, n = 0, 0
    while True:
        while (record := reader.next()) is not None:
            yield bytes(record.view)
            record.view.release()
            if record.buffer is not None:
                buffers.give(record.buffer, reader.portion)
        if at == len(stream):
            return
        space = reader.space()
        count = min(len(space), steps[n % len(steps)], len(stream) - at)
        space[:count] = stream[at : at + count]
        reader.received(count)
        at, n = at + count, n + 1


@settings(max_examples=60)
@given(
    st.lists(st.tuples(SIZES, st.lists(st.integers(0, 1 << 20), max_size=4)), max_size=5),
    st.lists(st.sampled_from([1, 3, 4, 5, 100, 4096, 65_535, 65_536, 1 << 20]), min_size=1),
    st.sampled_from([1, 2, 9]),
)
def test_records_come_out_as_they_went_in(
    records: list[tuple[int, list[int]]], steps: list[int], most: int
) -> None:
    if max(steps) < 100:
        steps = [*steps, 4096]  # a byte at a time takes its time
    wanted = [bytes([n + 1]) * size for n, (size, _) in enumerate(records)]
    stream = b"".join(
        fragments(data, cuts) for data, (_, cuts) in zip(wanted, records, strict=True)
    )
    buffers = Buffers(most)
    reader = RecordReader(buffers)
    assert list(read(reader, buffers, stream, steps)) == wanted
    assert not reader.partial
    reader.close()
    assert buffers.left == most


def test_a_length_gets_no_memory_before_there_are_bytes() -> None:
    buffers = Buffers(1)
    reader = RecordReader(buffers)
    head = struct.pack(">I", LAST | RECORD_BYTES_MAX)
    assert list(read(reader, buffers, head + bytes(BUFFER_BYTES - 5), [1 << 20])) == []
    assert buffers.left
    assert list(read(reader, buffers, b"x", [1])) == []
    assert not buffers.left
    waiting = RecordReader(buffers)
    assert list(read(waiting, buffers, head + bytes(BUFFER_BYTES - 4), [1 << 20])) == []
    assert waiting.starved  # until the other has gone
    reader.close()
    assert waiting.next() is None
    assert not waiting.starved
    waiting.close()
    assert buffers.left


def take_all(buffers: Buffers) -> list[tuple[bytearray, Portion]]:
    """All that are left, each by another address."""
    others = [buffers.of(b"%d" % number) for number in range(buffers.left)]
    return [(buffers.take(each), each) for each in others]


def record(size: int) -> bytes:
    return struct.pack(">I", LAST | size) + bytes(size)


SMALL_SIZE = 60_000
SMALL, MORE_THAN_FIT = record(SMALL_SIZE), 2 + BUFFER_BYTES // SMALL_SIZE


def take(reader: RecordReader, buffers: Buffers, stream: bytes) -> list[bytes]:
    """As much at once as there is room for; then the connection waits for more."""
    found = list(read(reader, buffers, stream, [1 << 30]))
    reader.space()
    return found


def test_who_sends_much_at_once_has_more_room_until_he_pauses() -> None:
    buffers = Buffers(2)
    reader = RecordReader(buffers)
    narrow = len(reader.space())
    many = SMALL * MORE_THAN_FIT
    for _ in range(3):
        assert len(take(reader, buffers, many)) == MORE_THAN_FIT
        assert len(reader.space()) > narrow
    assert take(reader, buffers, SMALL[:5]) == []
    reader.rest()
    assert len(reader.space()) > narrow  # something is in it
    assert len(take(reader, buffers, SMALL[5:])) == 1
    reader.rest()
    assert len(reader.space()) == narrow
    assert buffers.left == 2


def test_room_is_not_taken_from_large_records() -> None:
    buffers = Buffers(4)
    readers = [RecordReader(buffers) for _ in range(4)]
    narrow = len(readers[0].space())
    wide = [len(take(reader, buffers, SMALL * MORE_THAN_FIT)) for reader in readers]
    assert wide == [MORE_THAN_FIT] * 4
    assert [len(reader.space()) > narrow for reader in readers] == [True, True, False, False]
    large = record(RECORD_BYTES_MAX)
    assert len(list(read(readers[3], buffers, large, [1 << 20]))) == 1
    for reader in readers:
        reader.close()
    assert buffers.left == 4


@pytest.mark.parametrize("there", [0, 3, 4, 5, 9, 70_000, BUFFER_BYTES + 1, 500_000])
def test_a_large_record_after_much_at_once_has_the_room_that_there_is(there: int) -> None:
    """However much of it came with what was before it."""
    buffers = Buffers(2)
    reader = RecordReader(buffers)
    body = bytes(range(256)) * (RECORD_BYTES_MAX // 256)
    large = struct.pack(">I", LAST | len(body)) + body
    many = SMALL * MORE_THAN_FIT
    assert len(list(read(reader, buffers, many + many + large[:there], [1 << 30]))) == (
        2 * MORE_THAN_FIT
    )
    assert list(read(reader, buffers, large[there:], [1 << 16])) == [body]
    assert len(take(reader, buffers, SMALL)) == 1
    assert buffers.left == 2


def test_a_large_record_that_came_whole_has_a_buffer_too() -> None:
    """Whether the one that it came in can be spared or not; if there is no other, it waits."""
    buffers = Buffers(4)
    reader, narrow = RecordReader(buffers), BUFFER_BYTES
    body = bytes(range(250)) * 2000
    large = struct.pack(">I", LAST | len(body)) + body
    for behind in (b"", SMALL[:99], SMALL * (MORE_THAN_FIT + 1)):
        take(reader, buffers, SMALL * MORE_THAN_FIT)
        space = reader.space()
        assert len(space) > narrow
        stream = large + behind
        space[: len(stream)] = stream
        reader.received(len(stream))
        assert reader.ahead == stream
        moved = len(behind) > narrow
        if moved:
            taken = take_all(buffers)
            assert reader.next() is None
            assert reader.starved
            for each, portion in taken:
                buffers.give(each, portion)
        record = reader.next()
        assert record is not None
        assert record.view == body
        assert record.buffer is not None
        assert not reader.starved
        assert buffers.left == (2 if moved else 3)
        record.view.release()
        buffers.give(record.buffer, reader.portion)
        rest = list(read(reader, buffers, SMALL[99:] if behind == SMALL[:99] else b"", [1 << 20]))
        assert len(rest) == (MORE_THAN_FIT + 1 if moved else len(behind) > 0)
        reader.rest()
        assert buffers.left == 4


def test_who_waits_for_a_buffer_that_is_not_needed_any_more_does_not_wait() -> None:
    """A program took the record as it was."""
    buffers = Buffers(2)
    reader = RecordReader(buffers)
    take(reader, buffers, SMALL * MORE_THAN_FIT)
    stream = record(300_000) + SMALL * (MORE_THAN_FIT + 1)
    reader.space()[: len(stream)] = stream
    reader.received(len(stream))
    taken = take_all(buffers)
    assert reader.next() is None
    assert reader.starved
    reader.skip(4 + 300_000)
    assert [bytes(each) for each in read(reader, buffers, b"", [1])] == [bytes(SMALL_SIZE)] * (
        MORE_THAN_FIT + 1
    )
    assert not reader.starved
    reader.rest()
    assert buffers.left == 2 - len(taken)


def test_as_many_are_woken_as_can_have_a_buffer() -> None:
    """One of those that wait; and the next, when that has ended and not taken it."""
    buffers, woken = Buffers(1), []
    mine = buffers.of(b"mine")
    readers = [RecordReader(buffers, b"mine") for _ in range(3)]

    async def wait(reader: RecordReader) -> None:
        await buffers.given(mine)
        woken.append(reader)

    async def main() -> None:
        taken = buffers.take(mine)
        async with trio.open_nursery() as nursery:
            for each in readers:
                nursery.start_soon(wait, each)
            await trio.testing.wait_all_tasks_blocked()
            buffers.give(taken, mine)
            for count in range(1, 4):
                await trio.testing.wait_all_tasks_blocked()
                assert len(woken) == count
                woken[-1].close()
        assert not buffers._waiting

    trio.run(main)


def test_a_buffer_that_is_looked_at_is_not_used_again() -> None:
    buffers = Buffers(2)
    mine = buffers.of(b"mine")
    one = buffers.take(mine)
    kept = memoryview(one)[5:9]
    buffers.give(one, mine)
    assert buffers.take(mine) is not one
    kept.release()
    two = buffers.take(mine)
    buffers.give(two, mine)
    assert buffers.take(mine) is two
    assert len(two) == RECORD_BYTES_MAX


@pytest.mark.parametrize(
    "stream",
    [
        struct.pack(">I", LAST | RECORD_BYTES_MAX + 1), struct.pack(">I", RECORD_BYTES_MAX + 1),
        struct.pack(">I", 4) + b"abcd" + struct.pack(">I", LAST | RECORD_BYTES_MAX - 3),
        struct.pack(">I", 0) * (FRAGMENTS_MAX + 1),
    ],
)  # fmt: skip
def test_what_is_too_much_is_garbage(stream: bytes) -> None:
    buffers = Buffers(1)
    with pytest.raises(Garbage):
        list(read(RecordReader(buffers), buffers, stream, [1 << 16]))


@given(st.lists(st.integers(0, 3 * JOIN_BYTES_MAX), max_size=6))
def test_an_answer_is_one_fragment(sizes: list[int]) -> None:
    parts = [bytes([n]) * size for n, size in enumerate(sizes)]
    found = marked(parts)
    whole = b"".join(found)
    assert whole == struct.pack(">I", LAST | sum(sizes)) + b"".join(parts)
    for part in parts:
        if len(part) >= JOIN_BYTES_MAX:  # goes out without a copy
            assert any(each is part for each in found)


def test_fragments_of_all_connections_are_bounded() -> None:
    buffers = Buffers(1)
    some = struct.pack(">I", BUFFER_BYTES) + bytes(BUFFER_BYTES)  # nothing large yet
    more = struct.pack(">I", 2) + b"ab"
    readers = [RecordReader(buffers) for _ in range(3)]
    for reader in readers:
        assert list(read(reader, buffers, some, [1 << 16])) == []
    assert list(read(readers[0], buffers, more, [1 << 16])) == []
    assert not buffers.left
    with pytest.raises(Garbage):
        list(read(readers[1], buffers, more, [1 << 16]))
    readers[1].close()
    assert not buffers.left
    end = struct.pack(">I", LAST | 1) + b"c"
    assert list(read(readers[0], buffers, end, [1 << 16])) == [bytes(BUFFER_BYTES) + b"abc"]
    assert buffers.left
    assert list(read(readers[2], buffers, more, [1 << 16])) == []
    assert not buffers.left
    readers[2].close()
    assert buffers.left


def whole(ahead: memoryview) -> list[bytes]:
    """The records that are there from the start on, each in one fragment."""
    found, at = [], 0
    while at + 4 <= len(ahead):
        (mark,) = struct.unpack_from(">I", ahead, at)
        end = at + 4 + (mark ^ LAST)
        if end > len(ahead):
            break
        found.append(bytes(ahead[at + 4 : end]))
        at = end
    return found


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(SIZES, st.lists(st.integers(0, 1 << 20), max_size=2)), min_size=1, max_size=9
    ),
    st.lists(st.sampled_from([5, 100, 4096, 65_536, 1 << 20]), min_size=1),
    st.lists(st.integers(0, 3), min_size=1),
    st.sampled_from([1, 2, 9]),
)
def test_what_is_ahead_may_be_skipped(
    records: list[tuple[int, list[int]]], steps: list[int], skips: list[int], most: int
) -> None:
    """Some records are taken as a program's short way does, the others as ever."""
    steps = [*steps, 4096]
    wanted = [bytes([n + 1]) * size for n, (size, _) in enumerate(records)]
    stream = b"".join(
        fragments(data, cuts) for data, (_, cuts) in zip(wanted, records, strict=True)
    )
    buffers = Buffers(most)
    reader = RecordReader(buffers)
    found: list[bytes] = []
    at = turn = 0
    while True:
        there = whole(reader.ahead)
        assert bool(there) == (len(reader.ahead) > 0)
        taken = there[: skips[turn % len(skips)]]
        turn += 1
        if taken:
            reader.skip(sum(4 + len(each) for each in taken))
            found += taken
            continue
        record = reader.next()
        if record is not None:
            assert not there or record.view == there[0]
            found.append(bytes(record.view))
            record.view.release()
            if record.buffer is not None:
                buffers.give(record.buffer, reader.portion)
            continue
        assert not there
        if at == len(stream):
            break
        space = reader.space()
        count = min(len(space), steps[turn % len(steps)], len(stream) - at)
        space[:count] = stream[at : at + count]
        reader.received(count)
        at += count
    assert found == wanted
    assert not reader.partial
    reader.close()
    assert buffers.left == most


@settings(max_examples=60)
@given(SIZES, st.lists(st.integers(0, 1 << 20), max_size=3), st.integers(0, 400_000))
def test_lacking_is_a_fragment_that_has_begun(size: int, cuts: list[int], count: int) -> None:
    buffers = Buffers(2)
    reader = RecordReader(buffers)
    stream = fragments(bytes(size), cuts)[:count]
    assert not reader.lacking
    list(read(reader, buffers, stream, [1 << 16]))
    at = 0
    while at + 4 <= len(stream):
        (mark,) = struct.unpack_from(">I", stream, at)
        at += 4 + (mark & ~LAST)
    assert reader.lacking == (at != len(stream))
    reader.close()


@pytest.mark.parametrize(
    ("stream", "count"),
    [
        (b"", 0), (b"\x80", 0), (struct.pack(">I", LAST), 0), (struct.pack(">I", LAST | 1), 0),
        (struct.pack(">I", LAST | 1) + b"x", 5), (struct.pack(">I", LAST | 2) + b"x", 0),
        (struct.pack(">I", LAST | 1) + b"x\x80", 6), (struct.pack(">I", 1) + b"x", 0),
        (struct.pack(">I", 1) + b"x" + struct.pack(">I", LAST | 1) + b"y", 0),
        (struct.pack(">I", LAST | RECORD_BYTES_MAX) + bytes(99), 0),
        (struct.pack(">I", (1 << 32) - 1) + bytes(99), 0),
        (struct.pack(">I", LAST | BUFFER_BYTES - 4) + bytes(BUFFER_BYTES - 4), BUFFER_BYTES),
    ],
)  # fmt: skip
def test_ahead_is_a_record_that_is_here(stream: bytes, count: int) -> None:
    reader = RecordReader(Buffers(1))
    reader.space()[: len(stream)] = stream
    reader.received(len(stream))
    assert reader.ahead == stream[:count]


def test_nothing_is_ahead_in_the_middle_of_a_record() -> None:
    """What follows a first fragment, or a buffer's part of a large record, begins no record."""
    buffers = Buffers(1)
    reader = RecordReader(buffers)
    last = struct.pack(">I", LAST | 1) + b"y"
    stream = struct.pack(">I", 1) + b"x" + struct.pack(">I", 9)
    assert list(read(reader, buffers, stream, [1 << 16])) == []
    rest = bytes(9) + last
    assert list(read(reader, buffers, rest, [1 << 16])) == [b"x" + bytes(9) + b"y"]
    large = struct.pack(">I", LAST | BUFFER_BYTES)
    assert list(read(reader, buffers, large + bytes(BUFFER_BYTES - 4), [1 << 20])) == []
    assert not reader.ahead
    assert list(read(reader, buffers, bytes(4), [1])) == [bytes(BUFFER_BYTES)]
    assert buffers.left
