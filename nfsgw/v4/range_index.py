"""Which of very many ranges meets another: those of all lock-owners of a file, by where they start.

A file may be locked by thousands, and one LOCK must not look at each.  Ranges overlap (shared
ones), so order alone does not answer.  They stand in blocks in order of their starts, and a block
knows how far its ranges reach, and how far those of anybody else but the one who reaches farthest:
so whether it has one that meets a range, and is not the asker's own, is seen without looking into
it.  A look at n ranges takes n / BLOCK_RANGES steps and one block's.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

BLOCK_RANGES = 256
FEW = 16

H = TypeVar("H", bound=Any)  # holders have an order, and are equal or not


class Bytes(Protocol):
    """From ``start`` to ``end``, both included."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...


class Held(NamedTuple, Generic[H]):
    """Bytes ``start`` to ``end``, both included, and whose they are."""

    start: int
    end: int
    holder: H


class Block(Generic[H]):
    """Some ranges, in order; ``reach`` is known when it was asked for."""

    __slots__ = ("_far", "_near", "_owner", "_sound", "ranges")

    def __init__(self, ranges: list[Held[H]]) -> None:
        self.ranges = ranges
        self._sound = False
        self._far = self._near = -1
        self._owner: H | None = None

    def changed(self) -> None:
        self._sound = False

    def reach(self, but: H) -> int:
        """The last byte that anybody but this one has; -1: nobody has any."""
        if not self._sound:
            self._measure()
        return self._near if self._owner == but else self._far

    def _measure(self) -> None:
        farthest = max(self.ranges, key=lambda each: each.end)
        self._far, self._owner = farthest.end, farthest.holder
        self._near = max(
            (each.end for each in self.ranges if each.holder != farthest.holder), default=-1
        )
        self._sound = True


class RangeIndex(Generic[H]):
    """Ranges of holders; of one holder they do not overlap."""

    __slots__ = ("_blocks", "_most")

    def __init__(self, most: int = BLOCK_RANGES) -> None:
        self._most = most
        self._blocks: list[Block[H]] = []

    def add(self, start: int, end: int, holder: H) -> None:
        held = Held(start, end, holder)
        if not self._blocks:
            self._blocks.append(Block([held]))
            return
        at = self._block_of(held)
        block = self._blocks[at]
        ranges = block.ranges
        insort(ranges, held)
        block.changed()
        if len(ranges) > self._most:
            self._blocks.insert(at + 1, Block(ranges[self._most // 2 :]))
            del ranges[self._most // 2 :]

    def remove(self, start: int, end: int, holder: H) -> None:
        """One that is there."""
        held = Held(start, end, holder)
        at = self._block_of(held)
        block = self._blocks[at]
        place = bisect_left(block.ranges, held)
        assert block.ranges[place] == held
        del block.ranges[place]
        block.changed()
        if not block.ranges:
            del self._blocks[at]

    def _block_of(self, held: Held[H]) -> int:
        """Where it is, or belongs."""
        return max(bisect_right(self._blocks, held, key=_first) - 1, 0)

    def forget(self, holder: H, ranges: Sequence[Bytes]) -> None:
        """These of a holder's, in order: all that it has from the first to the last of them."""
        if len(ranges) <= FEW:
            for each in ranges:
                self.remove(each.start, each.end, holder)
            return
        first, last = ranges[0].start, ranges[-1].start
        for block in self._blocks:
            if block.ranges[0].start > last or block.ranges[-1].start < first:
                continue
            kept = [
                each for each in block.ranges
                if not first <= each.start <= last or each.holder != holder
            ]  # fmt: skip
            if len(kept) < len(block.ranges):
                block.ranges = kept
                block.changed()
        self._blocks = [block for block in self._blocks if block.ranges]

    def meeting(self, start: int, end: int, but: H) -> Held[H] | None:
        """A range of anybody but ``but`` that has a byte from ``start`` to ``end``."""
        for block in self._blocks:
            if block.ranges[0].start > end:
                return None
            if block.reach(but) < start:
                continue
            for each in block.ranges:
                if each.start > end:
                    return None
                if each.end >= start and each.holder != but:
                    return each
        return None


def _first(block: Block[H]) -> Held[H]:
    return block.ranges[0]
