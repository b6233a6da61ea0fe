"""Clones of block ranges: parts of one file's map appear in another's, or elsewhere in its own.

What is changed is a *draft*: the target's map as it will be, beside the one that is in force.  The
epoch that begins with the call makes both files' nodes shared, so the draft copies what it changes
and neither the target nor the source moves before ``publish`` puts the draft in place.  (Given up,
a draft leaves both files as they were, but for that: they copy what they next change.)  From this
follow the three promises of a call:

- all of its ranges or none, whatever fails (disk, quota, memory, a damaged node);
- each range is read from the state at the start of the call, so ranges of one file may overlap and
  depend on one another; where two name the same block of the target, the later one counts;
- a reader and a commit see the state before or the state after.

A call is one step of the engine, so its work is bounded: RANGES_MAX ranges and STEPS_MAX steps.  A
step links one subtree, or the entries of one leaf.  Ranges whose two positions differ by a multiple
of a node's span link whole subtrees, O(height) whatever their length; others take two steps for
each leaf's worth of blocks (EXTENT_FANOUT) that are mapped.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

import native
from engine import errors
from engine.block_range import BlockRange
from engine.clones import share_inode
from engine.inode import Inode
from engine.pool import now_ns
from engine.reserve import CALL_PAGES
from engine.superblock import BLOCK_BYTES
from engine.volume import Volume

COPY_BYTES_MAX = 16 << 20  # what cannot be shared is copied at most this far in one call
RANGES_MAX = 4096
STEPS_MAX = 1 << 15
NODE_PAGES = 2  # of the next commit


class Draft:
    """A file's next map.  As a context manager: what is not published is given up."""

    def __init__(self, volume: Volume, inode: Inode, epoch: int) -> None:
        self._volume = volume
        self._inode = inode
        self._epoch = epoch
        domain = volume.record.domain
        self.tree = native.Tree(inode.root, inode.height, inode.blocks, epoch, domain)
        self._published = False

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        queue = self._volume.pool.reclaim
        queue.collect()
        if not self._published and self.tree.root != self._inode.root:
            queue.add_map(self.tree.root, self.tree.height, self._epoch)

    def share(self, source: native.Tree, each: BlockRange) -> None:
        """Map the blocks that ``source`` has in a range."""
        with self._volume.sound_nodes(self._inode):
            self._volume.pool.core.share(
                self.tree, each.target_block, source, each.source_block, each.count
            )

    def write(self, offset: int, data: bytes) -> None:
        """Bytes that cannot be shared."""
        self._volume.write_tree(self._inode, self.tree, offset, memoryview(data))

    def publish(self, size: int) -> None:
        """The file has this map now, and is at least so large; QuotaExceeded."""
        volume, inode = self._volume, self._inode
        if not inode.orphan:
            volume.check_quota(self.tree.blocks - inode.blocks)
        self._published = True
        inode.tree = self.tree
        volume._take_tree(inode)
        if size > inode.size:
            volume._set_size(inode, size)
        inode.mtime_ns = inode.ctime_ns = now_ns()
        volume.touch(inode)
        volume.pool.notify(volume.id, inode.ino, "data")


def _start(source: Volume, inode: Inode, target: Volume, into: Inode) -> tuple[Draft, native.Tree]:
    """A new epoch; the target's draft, and the source's map as it is at this instant."""
    epoch = source.pool.bump_epoch()
    share_inode(source, inode, epoch)
    share_inode(target, into, epoch)
    domain = source.record.domain
    past = native.Tree(inode.root, inode.height, inode.blocks, epoch, domain)
    return Draft(target, into, epoch), past


def clone_ranges(
    source: Volume, source_ino: int, target: Volume, target_ino: int,
    ranges: Sequence[BlockRange], *, extend: bool = False,
) -> int:  # fmt: skip
    """Clone block ranges from one file to another, or within one: all or none; returns the blocks.

    Every range is read from the state at the start of the call, so they may overlap.  The target
    keeps its size unless ``extend``: then it grows to the end of the last range, or, where that is
    the end of the source, of the source's last byte.  What the source's last block has past its
    end reads as zeroes.  O(height) a range where positions are congruent modulo a node's span.

    Raises InvalidArgument (a range past an end, or more work than one step may be), ReadOnly,
    IsADirectory, NoSpace, QuotaExceeded, TooLarge, Corrupt; then nothing has changed.
    """
    target.check_writable()
    inode, into = source.file(source_ino), target.file(target_ino)
    end = checked_end(inode, into, ranges, extend=extend)
    target._check_range(0, end)
    cost = cost_of(target, into, ranges)
    if cost.steps > STEPS_MAX:
        raise errors.InvalidArgument(
            "the ranges are too much for one step; give fewer or shorter ones, or let their "
            f"positions differ by a multiple of {target.pool.superblock.fanout} blocks"
        )
    _check_room(target, cost)
    draft, past = _start(source, inode, target, into)
    with draft:
        for each in ranges:
            draft.share(past, each)
        _cut_last_block(source, inode, draft, ranges, end)
        draft.publish(end)
    return sum(each.count for each in ranges)


def checked_end(
    inode: Inode, into: Inode, ranges: Sequence[BlockRange], *, extend: bool
) -> int:  # fmt: skip
    """The target's size afterwards, in bytes."""
    if not 1 <= len(ranges) <= RANGES_MAX:
        raise errors.InvalidArgument(f"give 1 to {RANGES_MAX} ranges in one call")
    have, room = -(-inode.size // BLOCK_BYTES), -(-into.size // BLOCK_BYTES)
    end = into.size
    for first, at, count in ranges:
        said = f"range {first}:{at}:{count}"
        if first < 0 or at < 0 or count < 1:
            raise errors.InvalidArgument(f"{said}: positions are 0 or more, counts 1 or more")
        if first + count > have:
            raise errors.InvalidArgument(f"{said} is past the source's end: it has {have} blocks")
        if at + count > room and not extend:
            raise errors.InvalidArgument(
                f"{said} is past the target's end: it has {room} blocks; --extend lets it grow"
            )
        if extend:
            length = min(count * BLOCK_BYTES, inode.size - first * BLOCK_BYTES)
            end = max(end, at * BLOCK_BYTES + length)
    return end


def _cut_last_block(
    source: Volume, inode: Inode, draft: Draft, ranges: Sequence[BlockRange], end: int
) -> None:  # fmt: skip
    """Where the target ends inside a block, that block is zero past the end (filedata.py)."""
    block, length = divmod(end, BLOCK_BYTES)
    for first, at, count in reversed(ranges) if length else ():
        if at <= block < at + count:
            kept = source.read(inode.ino, (first + block - at) * BLOCK_BYTES, length)
            draft.write(block * BLOCK_BYTES, kept + bytes(BLOCK_BYTES - len(kept)))
            return


# --- what a call costs


class Cost(NamedTuple):
    """The most that a call may take: its time, and what its commit will store."""

    steps: int
    nodes: int


def cost_of(target: Volume, into: Inode, ranges: Sequence[BlockRange]) -> Cost:
    fanout = target.pool.superblock.fanout
    start = min(each.target_block for each in ranges)
    end = max(each.target_block + each.count for each in ranges)
    levels = max(into.height, 1)
    while fanout**levels < end:
        levels += 1
    costs = [_cost_of_one(fanout, levels, each) for each in ranges]
    hull = sum((end - start) // fanout ** (level + 1) + 2 for level in range(levels))
    nodes = min(sum(each.nodes for each in costs), hull) + levels
    return Cost(sum(each.steps for each in costs), nodes)


def _cost_of_one(fanout: int, levels: int, each: BlockRange) -> Cost:
    """``span``: blocks below a node; where it divides the shift, such nodes are linked whole."""
    shift, span = each.source_block - each.target_block, fanout
    steps, nodes = 4, 2 * levels
    if shift % fanout:
        steps += 2 * (each.count // fanout)
    while span <= each.count:
        inside = each.count // span
        if shift % span:
            nodes += inside
        else:
            steps += inside if shift % (span * fanout) else min(inside, 2 * fanout)
        span *= fanout
    return Cost(steps, nodes)


def _check_room(target: Volume, cost: Cost) -> None:
    target.pool.check_room(CALL_PAGES + NODE_PAGES * cost.nodes)


# --- byte ranges


def clone_range(
    source: Volume,
    source_ino: int,
    source_offset: int,
    target: Volume,
    target_ino: int,
    target_offset: int,
    length: int,
) -> int:
    """Make a byte range of one file appear in another (or the same); returns the bytes done.

    Whole blocks at congruent offsets are shared, the rest is copied.  Short at the source's end,
    after COPY_BYTES_MAX of what has to be copied, and where more would be too much for one step.
    InvalidArgument for ranges of one file that overlap (copy_file_range(2)).
    """
    target.check_writable()
    inode, into = source.file(source_ino), target.file(target_ino)
    if min(source_offset, target_offset, length) < 0:
        raise errors.InvalidArgument("negative offset or length")
    length = min(length, inode.size - source_offset)
    if length <= 0:
        return 0
    target._check_range(target_offset, length)
    if inode is into and abs(source_offset - target_offset) < length:
        raise errors.InvalidArgument("the ranges overlap")
    if (source_offset - target_offset) % BLOCK_BYTES:
        length = min(length, COPY_BYTES_MAX)
    else:
        head = min(-source_offset % BLOCK_BYTES, length)
        if length - head >= BLOCK_BYTES or _ends(inode, source_offset, into, target_offset, length):
            return _share(source, inode, source_offset, target, into, target_offset, length)
    _copy(source, inode, source_offset, target, into, target_offset, length)
    return length


def _ends(inode: Inode, source_offset: int, into: Inode, target_offset: int, length: int) -> bool:
    """Past both ends the last block is zero, so it may be shared whole."""
    return source_offset + length == inode.size and target_offset + length >= into.size


def _share(
    source: Volume, inode: Inode, source_offset: int, target: Volume, into: Inode,
    target_offset: int, length: int,
) -> int:  # fmt: skip
    """A range of which whole blocks can be shared; all of it, or nothing."""
    head = min(-source_offset % BLOCK_BYTES, length)
    blocks, tail = divmod(length - head, BLOCK_BYTES)
    if tail and _ends(inode, source_offset, into, target_offset, length):
        blocks, tail = blocks + 1, 0
    first = (source_offset + head) // BLOCK_BYTES
    body = BlockRange(first, (target_offset + head) // BLOCK_BYTES, blocks)
    while (cost := cost_of(target, into, [body])).steps > STEPS_MAX:
        body = body._replace(count=body.count // 2)
    if body.count < blocks:
        tail, length = 0, head + body.count * BLOCK_BYTES
    _check_room(target, cost)
    draft, past = _start(source, inode, target, into)
    with draft:
        if body.count:
            draft.share(past, body)
        for at, size in ((0, head), (length - tail, tail)):
            if size:
                draft.write(target_offset + at, source.read(inode.ino, source_offset + at, size))
        if not (into.size or source_offset or target_offset):  # cp begins a clone so
            into.origin_volume, into.origin_ino = source.id, inode.ino
            into.cloned_ns = now_ns()
        draft.publish(target_offset + length)
    return length


def _copy(
    source: Volume, inode: Inode, source_offset: int, target: Volume, into: Inode,
    target_offset: int, length: int,
) -> None:  # fmt: skip
    if not into.orphan:
        target.check_quota(target._growth(into, target_offset, length))
    step = 1 << 20
    for done in range(0, length, step):
        piece = source.read(inode.ino, source_offset + done, min(step, length - done))
        target.write(into.ino, target_offset + done, piece)
