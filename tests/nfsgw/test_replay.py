"""The duplicate-request cache: who is whose duplicate, what it answers, and its bounds."""

import ipaddress
import os
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import native
from nfsgw.replay import Checksum, Crc32, ReplayCache
from nfsgw.rpc import Call

ADDRESS = ipaddress.ip_address("127.0.0.7")
WHAT = 100_003, 3, 7


@pytest.fixture(params=["crc32", "core"])
def checksum(request: pytest.FixtureRequest) -> Checksum:
    if request.param == "crc32":
        return Crc32()
    return native.Core(hash_seed=9, load_node={}.__getitem__)


def call(xid: int) -> Call:
    peer: Any = SimpleNamespace(address=ADDRESS)
    return Call(xid, *WHAT, None, peer)


def test_records_of_a_step_are_known_as_single_ones_are(checksum: Checksum) -> None:
    cache = ReplayCache(checksum)
    records = [os.urandom(size) for size in (1, 4, 300, 70_000, 0)]
    received = memoryview(b"mark".join([b"", *records]))
    at, told = 0, b""
    for record in records:
        at += 4
        told += struct.pack("=QII", 1 << 60, len(record), at)
        at += len(record)
    xids = list(range(7, 7 + len(records)))
    told += bytes(32)  # room that was not needed
    assert cache.keys(ADDRESS.packed, xids, WHAT, received, memoryview(told)) == [
        cache.key(call(xid), memoryview(record)) for xid, record in zip(xids, records, strict=True)
    ]


def test_calls_up_to_the_first_duplicate_are_new() -> None:
    cache = ReplayCache()
    assert cache.new([]) == 0
    assert cache.new(["a", "b", "c"]) == 3
    assert cache.new(["a", "b", "a", "c"]) == 2
    cache.done(["b"], [b"answer"])
    assert cache.new(["a", "b", "c"]) == 1
    entry = cache.begin("a", None)
    assert cache.new(["a", "c"]) == 0
    cache.forget(entry)
    assert cache.new(["a", "c"]) == 2


def test_a_duplicate_gets_the_same_answer() -> None:
    cache = ReplayCache()
    cache.done(["a", "b"], [b"one", b"two"])
    entry = cache.begin("c", "asker")
    assert cache.find("c") is entry
    cache.finish(entry, [b"thr", memoryview(b"ee")])
    found = [cache.find(key) for key in "abcd"]
    assert [each and each.answer for each in found] == [[b"one"], [b"two"], [b"three"], None]


STEPS = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=9, unique=True), max_size=30)


@given(STEPS, st.integers(1, 12), st.integers(10, 300))
def test_the_latest_that_fit_are_kept(
    steps: list[list[int]], entries_max: int, bytes_max: int
) -> None:
    """A list of (call, answer), the oldest first, is the model."""
    cache = ReplayCache(entries_max=entries_max, bytes_max=bytes_max)
    kept: list[tuple[int, bytes]] = []
    for number, step in enumerate(steps):
        known = [call for call, _ in kept]
        count = cache.new(step)
        assert count == next((n for n, call in enumerate(step) if call in known), len(step))
        answers = [b"%d" % call * (number + 1) for call in step[:count]]
        if number % 3 or not count:
            cache.done(step[:count], answers)
        else:
            for call, answer in zip(step[:count], answers, strict=True):
                cache.finish(cache.begin(call, None), [answer])
        kept += zip(step[:count], answers, strict=True)
        while len(kept) > entries_max or sum(len(answer) for _, answer in kept) > bytes_max:
            del kept[0]
        for call in range(41):
            entry = cache.find(call)
            assert (entry and entry.answer) == ([dict(kept)[call]] if call in dict(kept) else None)
