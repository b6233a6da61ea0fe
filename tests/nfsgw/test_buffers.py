"""Buffers that are used again, and never while anybody looks at them."""

from nfsgw.buffers import BUFFER_BYTES, BUFFERS_MAX, LARGE_BYTES, Buffers


def same(one: memoryview, other: memoryview) -> bool:
    return one.obj is other.obj


def test_a_buffer_that_nobody_has_is_used_again() -> None:
    buffers = Buffers()
    first = buffers.take(LARGE_BYTES)
    memory = id(first.obj)
    first.release()
    assert id(buffers.take(BUFFER_BYTES).obj) == memory


def test_a_view_keeps_its_buffer_whoever_has_it() -> None:
    buffers = Buffers()
    first = buffers.take(BUFFER_BYTES)
    part = memoryview(first)[10:20]
    first.release()
    kept = [buffers.take(BUFFER_BYTES) for _ in range(2)]
    for each in kept:
        assert not same(part, each)
        each[:] = b"x" * BUFFER_BYTES
    assert bytes(part) == bytes(10)
    memory = id(part.obj)
    del part
    assert id(buffers.take(BUFFER_BYTES).obj) == memory


def test_there_is_always_one_and_few_are_kept() -> None:
    buffers = Buffers()
    held = [buffers.take(BUFFER_BYTES) for _ in range(BUFFERS_MAX + 5)]
    assert len({id(each.obj) for each in held}) == len(held)
    memories = [each.obj for each in held]
    held.clear()
    again = [buffers.take(BUFFER_BYTES) for _ in range(3)]
    assert not {id(each.obj) for each in again} & {id(each) for each in memories}
    memories.clear()
    assert len(buffers.take(10)) == 10
    assert len(buffers.take(0)) == 0


def test_sizes_are_what_was_asked_for() -> None:
    buffers = Buffers()
    for size in (0, 1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, BUFFER_BYTES):
        assert len(buffers.take(size)) == size


def test_past_those_that_are_kept_none_is_larger_than_it_has_to_be() -> None:
    buffers = Buffers()
    held = [buffers.take(LARGE_BYTES) for _ in range(BUFFERS_MAX)]
    more = buffers.take(LARGE_BYTES)
    assert len(memoryview(more.obj)) == LARGE_BYTES
    assert len({id(each.obj) for each in held}) == BUFFERS_MAX
