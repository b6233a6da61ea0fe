"""What NFSv4.2 does to contents besides reading and writing: holes, clones, copies.

As in files.py nothing is known of XDR here. What may take longer than a step of a few milliseconds
gives others their turn in between: a clone of a range at incongruent positions, which is still all
or nothing, and a copy, which is not.  After each turn ``again`` looks at what was looked at before
the first one: files may have gone, a volume been restored, rights been taken away.
"""

from collections.abc import Callable
from contextlib import closing
from time import perf_counter

import trio

from engine import errors
from engine.allocation import check_allocation
from engine.long_clones import blocks_of
from engine.ranges import COPY_BYTES_MAX
from engine.superblock import BLOCK_BYTES
from nfsgw.access import check_writes
from nfsgw.files import Files, Place
from nfsgw.gate import Waits

SHARED_PIECE_BYTES = 512 << 20  # of a copy, where blocks are shared: 4 ms
COPIED_PIECE_BYTES = 4 << 20  # where they cannot be
COPY_CALL_S = 5.0
COPY_CALL_BYTES_MAX = 16 * COPY_BYTES_MAX  # a client has a timeout; it goes on from where we ended


async def turn() -> None:
    """Others have theirs."""
    await trio.lowlevel.checkpoint()


def seek(place: Place, offset: int, *, data: bool) -> int | None:
    """The first byte of data, or of a hole, from ``offset`` on, which is in the file; None: none.

    The end of the file is a hole.
    """
    find = place.volume.seek_data if data else place.volume.seek_hole
    return find(place.inode.ino, offset)


def allocate(files: Files, place: Place, offset: int, length: int) -> None:
    """posix_fallocate(3): the file is at least so large, and there is room to fill the range now
    (RFC 7862, 15.1, wants it set aside; engine/allocation.py says why it is not)."""
    end = offset + length
    check_writes(place.who)
    with files.gate.foreign():
        place.volume.check_writable()
        check_allocation(files.store, place.volume, place.inode.ino, offset, length)
        files.drop_privilege(place)  # in a file that is large enough already, too
        if end > place.inode.size:
            place.volume.setattr(place.inode.ino, size=end)


def deallocate(files: Files, place: Place, offset: int, length: int) -> None:
    """A range becomes a hole; the size stays, what is past it is no matter."""
    check_writes(place.who)
    with files.gate.foreign():
        place.volume.check_writable()
        length = min(length, place.inode.size - offset)
        if length > 0:
            files.drop_privilege(place)
            place.volume.punch(place.inode.ino, offset, length)


def check_apart(source: Place, offset: int, target: Place, target_offset: int, length: int) -> None:
    """InvalidArgument for ranges of one file that overlap."""
    one = source.volume is target.volume and source.inode.ino == target.inode.ino
    if one and abs(offset - target_offset) < length:
        raise errors.InvalidArgument("the ranges overlap")


def check_clone(source: Place, offset: int, target: Place, target_offset: int, length: int) -> None:
    """InvalidArgument for what is no clone but a copy.

    Whole blocks; the last may be cut by the end of the source, where the target, too, ends there
    or before: what it has behind would have to be copied (as Linux' FICLONERANGE has it).
    """
    check_apart(source, offset, target, target_offset, length)
    if offset % BLOCK_BYTES or target_offset % BLOCK_BYTES:
        raise errors.InvalidArgument(f"clones start at multiples of {BLOCK_BYTES} bytes")
    if length % BLOCK_BYTES and (
        offset + length != source.inode.size or target_offset + length < target.inode.size
    ):
        raise errors.InvalidArgument("a clone ends at whole blocks, or where both files end")


def clone(
    files: Files, source: Place, offset: int, target: Place, target_offset: int, length: int,
    again: Callable[[], object],
) -> Waits:  # fmt: skip
    """The range appears in the target, as it is now: all of it or nothing."""
    check_clone(source, offset, target, target_offset, length)
    check_writes(target.who)
    blocks = blocks_of(offset, target_offset, length)
    steps = files.store.clone_in_steps(
        source.volume, source.inode.ino, target.volume, target.inode.ino, blocks
    )
    with closing(steps):
        while True:
            with files.gate.foreign():
                if next(steps, True):
                    files.drop_privilege(target)
                    return
            yield from files.gate.room()
            yield turn
            again()


def copy(
    files: Files, source: Place, offset: int, target: Place, target_offset: int, length: int,
    again: Callable[[], object],
) -> "Copying":  # fmt: skip
    """The bytes appear in the target; blocks are shared where they can be."""
    check_apart(source, offset, target, target_offset, length)
    check_writes(target.who)
    return Copying(files, source, offset, target, target_offset, length, again)


class Copying:
    """A copy in pieces; ``done`` bytes of it so far."""

    def __init__(
        self, files: Files, source: Place, offset: int, target: Place, target_offset: int,
        length: int, again: Callable[[], object],
    ) -> None:  # fmt: skip
        self.done = 0
        self._files, self._again = files, again
        self._source, self._offset = source, offset
        self._target, self._target_offset = target, target_offset
        self._length = length
        shares = (offset - target_offset) % BLOCK_BYTES == 0
        self._piece = SHARED_PIECE_BYTES if shares else COPIED_PIECE_BYTES

    def run(self) -> Waits:
        """Until all is done, the source ends, or a call has copied COPY_CALL_BYTES_MAX or taken
        COPY_CALL_S: the client asks for the rest."""
        copied, end = 0, perf_counter() + COPY_CALL_S
        while self.done < self._length and copied < COPY_CALL_BYTES_MAX:
            if self.done and perf_counter() > end:
                return
            done = self._step()
            if not done:
                return
            self.done += done
            copied += done if self._piece == COPIED_PIECE_BYTES else 0
            if self.done < self._length:
                yield from self._files.gate.room()
                yield turn
                self._again()

    def _step(self) -> int:
        files, source, target = self._files, self._source, self._target
        piece = self._piece - (self._offset + self.done) % BLOCK_BYTES
        with files.gate.foreign():
            files.drop_privilege(target)
            return files.store.clone_range(
                source.volume, source.inode.ino, self._offset + self.done,
                target.volume, target.inode.ino, self._target_offset + self.done,
                min(piece, self._length - self.done),
            )  # fmt: skip
