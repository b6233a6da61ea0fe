"""Byte-range locks of one file, as POSIX has them (fcntl): an owner has one lock on a byte at most.

For each owner, ranges that do not overlap, in order; neighbours of one kind are one range. So a new
lock of the same owner replaces what it covers: it splits, merges, upgrades and downgrades. Of two
owners, one may hold what the other holds only when both hold it shared.
"""

from bisect import bisect_left
from typing import NamedTuple

from nfsgw.v4.range_index import RangeIndex

END_MAX = (1 << 64) - 1  # the last byte there can be: a lock to there grows with the file
Holder = tuple[int, bytes]  # a client's id, and one of its lock-owners


class Range(NamedTuple):
    """Bytes ``start`` to ``end``, both included."""

    start: int
    end: int
    exclusive: bool


class Ranges:
    """The locks of a file.  ``_all`` and ``_exclusive`` have every owner's ranges, and those that
    stand against shared ones too, to find what is in the way without asking each owner."""

    __slots__ = ("_all", "_exclusive", "_of")

    def __init__(self) -> None:
        self._of: dict[Holder, list[Range]] = {}
        self._all: RangeIndex[Holder] = RangeIndex()
        self._exclusive: RangeIndex[Holder] = RangeIndex()

    def __bool__(self) -> bool:
        return bool(self._of)

    def held(self, owner: Holder) -> list[Range]:
        """What an owner holds, in order."""
        return self._of.get(owner, [])

    def conflict(self, owner: Holder, wanted: Range) -> tuple[Holder, Range] | None:
        """A lock of somebody else that stands against ``wanted``, and whose it is."""
        index = self._all if wanted.exclusive else self._exclusive
        found = index.meeting(wanted.start, wanted.end, owner)
        if found is None:
            return None
        ranges = self._of[found.holder]
        return found.holder, ranges[_first(ranges, found.end)]

    def put(self, owner: Holder, new: Range) -> int:
        """Lock; the caller has looked for conflicts.  How many more ranges the owner has now."""
        ranges = self._of.setdefault(owner, [])
        first, last, left, right = _cut(ranges, new.start, new.end)
        start, end, exclusive = new
        if not left and first and ranges[first - 1].end == start - 1:
            first -= 1
            left = [ranges[first]]
        if not right and last < len(ranges) and ranges[last].start == end + 1:
            right = [ranges[last]]
            last += 1
        if left and left[0].exclusive == exclusive:
            start, left = left[0].start, []
        if right and right[0].exclusive == exclusive:
            end, right = right[0].end, []
        return self._replace(owner, first, last, [*left, Range(start, end, exclusive), *right])

    def clear(self, owner: Holder, start: int, end: int) -> int:
        """Unlock; how many more ranges the owner has now (fewer: below zero)."""
        ranges = self._of.get(owner)
        if ranges is None:
            return 0
        first, last, left, right = _cut(ranges, start, end)
        more = self._replace(owner, first, last, left + right)
        if not ranges:
            del self._of[owner]
        return more

    def splits(self, owner: Holder, start: int, end: int) -> bool:
        """Whether ``clear`` would make two ranges of one."""
        ranges = self.held(owner)
        at = _first(ranges, start)
        return at < len(ranges) and ranges[at].start < start and end < ranges[at].end

    def shorten(self, owner: Holder, most: int) -> int:
        """Unlock so many of an owner's ranges, the last ones, or all; how many that were."""
        count = len(self.held(owner))
        if count <= most:
            return self.forget(owner)
        return -self._replace(owner, count - most, count, [])

    def forget(self, owner: Holder) -> int:
        """Unlock all that an owner has; how many ranges that were."""
        ranges = self._of.pop(owner, [])
        self._unlist(owner, ranges)
        return len(ranges)

    def _unlist(self, owner: Holder, ranges: list[Range]) -> None:
        """Out of the indexes: some that follow each other."""
        self._all.forget(owner, ranges)
        self._exclusive.forget(owner, [each for each in ranges if each.exclusive])

    def _replace(self, owner: Holder, first: int, last: int, new: list[Range]) -> int:
        """Some of an owner's ranges by others, in the indexes too; how many more."""
        ranges = self._of[owner]
        self._unlist(owner, ranges[first:last])
        for each in new:
            self._all.add(each.start, each.end, owner)
            if each.exclusive:
                self._exclusive.add(each.start, each.end, owner)
        ranges[first:last] = new
        return len(new) - (last - first)


def _first(ranges: list[Range], byte: int) -> int:
    """The place of the first range that ends at ``byte`` or after."""
    return bisect_left(ranges, byte, key=lambda each: each.end)


def _cut(ranges: list[Range], start: int, end: int) -> tuple[int, int, list[Range], list[Range]]:
    """Which ranges have one of these bytes (from, to), and what is left and right of the bytes."""
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
    return first, last, left, right
