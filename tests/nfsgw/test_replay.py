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
from nfsgw.replay import Checksum, Crc32, Key, ReplayCache
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
    each = [
        cache.key(call(xid), memoryview(record)) for xid, record in zip(xids, records, strict=True)
    ]
    places = memoryview(told).cast("I")
    assert cache.keys(ADDRESS.packed, xids, WHAT, received, places) == each
    for number, xid in enumerate(xids):
        alone = places[4 * number :]
        assert cache.keys(ADDRESS.packed, [xid], WHAT, received, alone) == each[number : number + 1]


def keys(*xids: int, address: bytes = ADDRESS.packed) -> list[Key]:
    return [struct.pack("=IIIIIQ", xid, *WHAT, 0, 0) + address for xid in xids]


def test_calls_up_to_the_first_duplicate_are_new() -> None:
    cache = ReplayCache()
    assert cache.new(keys(1, 2, 3)) == 3
    assert cache.new(keys(1, 2, 1, 3)) == 2
    cache.done(keys(2), [b"answer"])
    assert cache.new(keys(1, 2, 3)) == 1
    assert cache.new(keys(2, address=b"other")) == 1
    entry = cache.begin(*keys(1), None)
    assert cache.new(keys(1, 3)) == 0
    cache.forget(entry)
    assert cache.new(keys(1, 3)) == 2


def test_a_duplicate_gets_the_same_answer() -> None:
    cache = ReplayCache()
    cache.done(keys(1, 2), [b"one", b"two"])
    entry = cache.begin(*keys(3), "asker")
    assert cache.find(*keys(3)) is entry
    cache.finish(entry, [b"thr", memoryview(b"ee")])
    found = [cache.find(key) for key in keys(1, 2, 3, 4)]
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
        count = cache.new(keys(*step))
        assert count == next((n for n, call in enumerate(step) if call in known), len(step))
        answers = [b"%d" % call * (number + 1) for call in step[:count]]
        if number % 3 and count:
            cache.done(keys(*step[:count]), answers)
        else:
            for call, answer in zip(step[:count], answers, strict=True):
                cache.finish(cache.begin(*keys(call), None), [answer])
        kept += zip(step[:count], answers, strict=True)
        while len(kept) > entries_max or sum(len(answer) for _, answer in kept) > bytes_max:
            del kept[0]
        for call in range(41):
            entry = cache.find(*keys(call))
            assert (entry and entry.answer) == ([dict(kept)[call]] if call in dict(kept) else None)


# --- several addresses

HOSTS = [b"one", b"two", b"three", b"four"]


class Asked:
    """What addresses have asked, each call another, and what is left of that in a cache."""

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self.each = max(bytes_max // entries_max, 1)
        self.cache = ReplayCache(entries_max=entries_max, bytes_max=bytes_max)
        self.sizes: dict[bytes, list[int]] = {host: [] for host in HOSTS}

    def ask(self, host: bytes, sizes: list[int]) -> None:
        asked = self.sizes[host]
        new = keys(*range(len(asked), len(asked) + len(sizes)), address=host)
        self.cache.done(new, [bytes(size) for size in sizes])
        asked += sizes

    def left(self, host: bytes) -> list[int]:
        """The sizes of those that are left, which are the latest."""
        asked = self.sizes[host]
        there = [self.cache.find(key) is not None for key in keys(*range(len(asked)), address=host)]
        assert there == sorted(there)
        return asked[len(asked) - sum(there) :]

    def worth(self, host: bytes) -> int:
        return sum(size + self.each for size in self.left(host))


@given(
    st.lists(
        st.tuples(st.sampled_from(HOSTS), st.lists(st.integers(0, 40), min_size=1, max_size=9)),
        max_size=40,
    ),
    st.integers(1, 20), st.integers(10, 300),
)  # fmt: skip
def test_nobody_loses_an_answer_to_who_has_more(
    steps: list[tuple[bytes, list[int]]], entries_max: int, bytes_max: int
) -> None:
    asked = Asked(entries_max, bytes_max)
    for who, sizes in steps:
        before = {host: asked.left(host) for host in HOSTS}
        asked.ask(who, sizes)
        after = {host: asked.left(host) for host in HOSTS}
        assert sum(map(len, after.values())) <= entries_max
        assert sum(map(sum, after.values())) <= bytes_max
        for host in HOSTS:
            lost = before[host][: len(before[host]) - len(after[host])]
            if host != who and lost:
                assert asked.worth(host) + lost[-1] + asked.each >= asked.worth(who)


def test_a_busy_host_does_not_push_out_what_others_have() -> None:
    asked = Asked(30, 3000)
    asked.ask(b"one", [10] * 5)
    for _ in range(100):
        asked.ask(b"two", [10] * 7)
    assert [len(asked.left(host)) for host in HOSTS] == [5, 25, 0, 0]
    for _ in range(100):
        asked.ask(b"three", [90] * 7)  # these are large: few of them are as much
    assert len(asked.left(b"one")) == 5
    assert abs(asked.worth(b"two") - asked.worth(b"three")) <= 7 * 190


def test_who_has_most_gives_though_he_is_silent() -> None:
    asked = Asked(12, 12_000)
    for _ in range(6):
        asked.ask(b"one", [10])
        asked.ask(b"two", [10])
    for _ in range(6):
        asked.ask(b"three", [10])
    assert [len(asked.left(host)) for host in HOSTS] == [4, 4, 4, 0]
    for _ in range(9):
        asked.ask(b"four", [10])
    assert [len(asked.left(host)) for host in HOSTS] == [3, 3, 3, 3]
    assert set(asked.cache._finished) == set(HOSTS)


def test_of_an_address_whose_answers_are_gone_nothing_is_left() -> None:
    cache = ReplayCache(entries_max=9)
    for number in range(200):
        cache.done(keys(1, address=b"%d" % number), [b"answer"])
        cache.settle()
    assert len(cache._finished) == 9
    assert not cache._ended
