"""Room for what the intent log has: free slots that take space on the host, held for a crash.

What is synced by the log alone is written again when the store is opened after a crash, into free
slots.  By then somebody else may have filled the host's file system; so while there is a log, as
many slots as its records can have blocks are held.  They are free in every commit, in use for
everything that looks for a free one, and their space was allocated before the first record was
acknowledged.  After a crash they are free like any other; a write on a full disk finds them
(native/backed.c).

Invariant: the slots held, and their slabs, are part of the commit before the first record.
"""

import errno
import os

import native
from engine import errors
from engine.intent_log import NoLog
from engine.pool import Pool
from engine.superblock import BLOCK_BYTES
from engine.trim import Run

PIECE_SLOTS = 16  # of btrfs, which frees an extent when no part of it is in use any more


class ReplayRoom:
    """Of one store.  ``allocate`` runs on any thread, all else on the engine's."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._runs: list[Run] = []

    def take(self, blocks: int) -> None:
        """Hold slots for so many.  NoLog, with none held, when the store cannot have as many slabs
        as that needs."""
        slab, slots = self._pool.state.slabs, blocks + 2 * PIECE_SLOTS
        try:
            while slots and slab:
                slab -= 1
                slots -= self._take_of(slab, slots)
            while slots:
                self._pool.add_slab()
                slots -= self._take_of(self._pool.state.slabs - 1, slots)
        except (errors.NoSpace, OSError, MemoryError) as error:
            self.give_back(punched=False)
            raise NoLog from error

    def _take_of(self, slab: int, slots: int) -> int:
        taken = slot = 0
        while taken < slots:
            address, count, slot = self._pool.core.hold(slab, slot, slots - taken)
            if not count:
                break
            self._runs.append(Run(address, count))
            taken += count
        return taken

    def allocate(self) -> None:
        """See that they take space on the host, durably.  NoLog when it has none left.

        Space of their own, not written yet: what was written on btrfs, or shared with a copy of the
        store by XFS, takes more when it is written again.

        By descriptors of its own: an error of a write, which the next sync by the slab's own one
        has to tell to a commit, stays there to be told.
        """
        slabs: dict[int, list[Run]] = {}
        for run in self._runs:
            slabs.setdefault(run.address // self._pool.superblock.slab_slots, []).append(run)
        try:
            for slab, runs in slabs.items():
                self._allocate_in(slab, runs)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise NoLog from error

    def _allocate_in(self, slab: int, runs: list[Run]) -> None:
        fd = os.open(self._pool.slabs.file(slab), os.O_RDWR | os.O_CLOEXEC)
        try:
            in_place = native.overwrites_in_place(fd)
            for address, slots in runs:
                first = address % self._pool.superblock.slab_slots
                step = slots if in_place else PIECE_SLOTS
                self._pool.core.trim_punch(address, slots)
                for at in range(first, first + slots, step):
                    count = min(step, first + slots - at)
                    native.allocate(fd, at * BLOCK_BYTES, count * BLOCK_BYTES)
            os.fsync(fd)
        finally:
            os.close(fd)

    def give_back(self, *, punched: bool) -> None:
        """Anybody may have them.  ``punched``: they may take no space on the host."""
        for address, slots in self._runs:
            self._pool.core.trim_give(address, slots, punched=punched)
        self._runs.clear()

    def punch_free(self) -> None:
        """The space of all free slots is the host's again.  NoSpace when it has none for that.

        For one that writes again elsewhere, where slots that were written and not committed, by a
        start before this one, take space and cannot be written without more.
        """
        try:
            for slab in range(self._pool.state.slabs):
                self._take_of(slab, self._pool.superblock.slab_slots)
            for run in self._runs:
                self._pool.core.trim_punch(run.address, run.slots)
        except OSError as error:
            raise errors.NoSpace(errors.HOST_IS_FULL) from error
        finally:
            self.give_back(punched=True)
