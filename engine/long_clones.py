"""Clones of ranges too long for one step: many short ones into a file that nobody sees, then one.

Where two positions differ by a multiple of a large enough span, a range of any length is a few
links (engine/ranges.py), and one step.  Elsewhere it takes a link for each leaf, 64 GiB some
100,000, and others have to have their turn between.  So the source, as it is at the start, is
shared with a staged file (O(height)), from which a second staged file is made piece by piece with
everything where the target will have it; what is left is a range at *equal* positions, and that is
one short step whatever its length.  So it is still all or nothing, as of the start, and a crash,
an error or a stop leaves staged files, which the next open, or the end of the steps, takes away.
"""

from collections.abc import Generator

from engine import errors
from engine.block_range import BlockRange
from engine.inode import Inode
from engine.ranges import checked_end, clone_ranges, cost_of
from engine.superblock import BLOCK_BYTES
from engine.volume import Volume

STEP_COST = 2048  # 3 to 8 ms; equal positions always take less


def clone_in_steps(
    source: Volume, source_ino: int, target: Volume, target_ino: int, blocks: BlockRange, *,
    step_cost: int | None = None,
) -> Generator[None, None, None]:  # fmt: skip
    """``clone_ranges`` of one range, the target growing as far as needed, in steps of a few ms.

    Between them both files may change: the source is copied as it was at the first step, in the
    target the range changes at the last.  Raises what ``clone_ranges`` does, and Stale when the
    target's volume is restored or removed meanwhile; then nothing has changed.
    """
    step_cost = step_cost or STEP_COST
    inode, into = source.file(source_ino), target.file(target_ino)
    target.check_writable()
    target._check_range(0, checked_end(inode, into, [blocks], extend=True))
    if cost_of(target, into, [blocks]).steps <= step_cost:
        clone_ranges(source, source_ino, target, target_ino, [blocks], extend=True)
        return
    first, at, count = blocks
    era = target.era
    staged: list[Inode] = []
    try:
        past, draft = (_staged(target, staged) for _ in range(2))
        whole = BlockRange(first, first, count)
        clone_ranges(source, source_ino, target, past.ino, [whole], extend=True)
        done = 0
        while done < count:
            yield
            _check_era(target, era)
            piece = BlockRange(first + done, at + done, count - done)
            while piece.count > 1 and cost_of(target, draft, [piece]).steps > step_cost:
                piece = piece._replace(count=piece.count // 2)
            clone_ranges(target, past.ino, target, draft.ino, [piece], extend=True)
            done += piece.count
        yield
        _check_era(target, era)
        clone_ranges(
            target, draft.ino, target, target_ino, [BlockRange(at, at, count)], extend=True
        )  # fmt: skip
    finally:
        for each in staged:
            target.release_of(era, each.ino)


def _staged(volume: Volume, made: list[Inode]) -> Inode:
    inode = volume.create_staged(0o600, 0, 0)
    made.append(inode)
    return inode


def _check_era(volume: Volume, era: int) -> None:
    if volume.removed or volume.era != era:
        raise errors.Stale("the volume was restored or removed meanwhile; nothing was cloned")


def blocks_of(offset: int, target_offset: int, length: int) -> BlockRange:
    """The blocks of a byte range; its positions are multiples of BLOCK_BYTES."""
    assert (offset | target_offset) % BLOCK_BYTES == 0
    return BlockRange(
        offset // BLOCK_BYTES, target_offset // BLOCK_BYTES, -(-length // BLOCK_BYTES)
    )  # fmt: skip
