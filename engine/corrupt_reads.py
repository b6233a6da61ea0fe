"""Reads that met a bad block: counted, and the latest of them named, for `status` and the log.

Nothing of this is stored: what is damaged is damaged still at the next start, and scrub finds it.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

LATEST = 16


class CorruptRead(NamedTuple):
    """Whose block, which of the file's, and the slot it lies in."""

    where: str
    block: int
    address: int


@dataclass
class CorruptReads:
    """Since the store was opened.  Written on the engine thread."""

    count: int = 0
    latest: deque[CorruptRead] = field(default_factory=lambda: deque(maxlen=LATEST))

    def note(self, where: str, block: int, address: int) -> None:
        self.count += 1
        self.latest.append(CorruptRead(where, block, address))
