"""Byte-range locks of one file, as POSIX has them (fcntl): an owner has one lock on a byte at most.

For each owner, ranges that do not overlap, in order; neighbours of one kind are one range. So a new
lock of the same owner replaces what it covers: it splits, merges, upgrades and downgrades. Of two
owners, one may hold what the other holds only when both hold it shared.
"""

from bisect import bisect_left
from typing import NamedTuple

END_MAX = (1 << 64) - 1  # the last byte there can be: a lock to there grows with the file
Holder = tuple[int, bytes]  # a client's id, and one of its lock-owners


class Range(NamedTuple):
    """Bytes ``start`` to ``end``, both included."""

    start: int
    end: int
    exclusive: bool


class Ranges:
    """The locks of a file."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[Holder, list[Range]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def held(self, owner: Holder) -> list[Range]:
        """What an owner holds, in order."""
        return self._of.get(owner, [])

    def conflict(self, owner: Holder, wanted: Range) -> tuple[Holder, Range] | None:
        """A lock of somebody else that stands against ``wanted``, and whose it is."""
        for other, ranges in self._of.items():
            if other == owner:
                continue
            at = _first(ranges, wanted.start)
            while at < len(ranges) and ranges[at].start <= wanted.end:
                if wanted.exclusive or ranges[at].exclusive:
                    return other, ranges[at]
                at += 1
        return None

    def put(self, owner: Holder, new: Range) -> int:
        """Lock; the caller has looked for conflicts.  How many more ranges the owner has now."""
        ranges = self._of.setdefault(owner, [])
        before = len(ranges)
        at = _cut(ranges, new.start, new.end)
        start, end, exclusive = new
        if at < len(ranges) and ranges[at].exclusive == exclusive and ranges[at].start == end + 1:
            end = ranges.pop(at).end
        if at and ranges[at - 1].exclusive == exclusive and ranges[at - 1].end == start - 1:
            at -= 1
            start = ranges.pop(at).start
        ranges.insert(at, Range(start, end, exclusive))
        return len(ranges) - before

    def clear(self, owner: Holder, start: int, end: int) -> int:
        """Unlock; how many more ranges the owner has now (fewer: below zero)."""
        ranges = self._of.get(owner)
        if ranges is None:
            return 0
        before = len(ranges)
        _cut(ranges, start, end)
        if not ranges:
            del self._of[owner]
        return len(ranges) - before

    def splits(self, owner: Holder, start: int, end: int) -> bool:
        """Whether ``clear`` would make two ranges of one."""
        ranges = self.held(owner)
        at = _first(ranges, start)
        return at < len(ranges) and ranges[at].start < start and end < ranges[at].end

    def forget(self, owner: Holder) -> int:
        """Unlock all that an owner has; how many ranges that were."""
        return len(self._of.pop(owner, ()))


def _first(ranges: list[Range], byte: int) -> int:
    """The place of the first range that ends at ``byte`` or after."""
    return bisect_left(ranges, byte, key=lambda each: each.end)


def _cut(ranges: list[Range], start: int, end: int) -> int:
    """Take bytes out; the place where a range of them belongs."""
    first = last = _first(ranges, start)
    left: list[Range] = []
    right: list[Range] = []
    while last < len(ranges) and ranges[last].start <= end:
        each = ranges[last]
        if each.start < start:
            left = [Range(each.start, start - 1, each.exclusive)]
        if each.end > end:
            right = [Range(end + 1, each.end, each.exclusive)]
        last += 1
    ranges[first:last] = left + right
    return first + len(left)
