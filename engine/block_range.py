"""What a clone of blocks is asked for: apart from the code that does it (engine/ranges.py)."""

from typing import NamedTuple


class BlockRange(NamedTuple):
    """``count`` blocks of 4 KiB from ``source_block`` of one file to ``target_block`` of another.

    MISSION.md B1: block-based objects, the target range chosen by the caller.
    """

    source_block: int
    target_block: int
    count: int  # type: ignore[assignment]
