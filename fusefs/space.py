"""statfs: what a store, or the volume that is asked about, has room for.

Blocks are those that files have on disk: equal ones count once, clones not at all, so what is used
and what is free are of one sort, and ``df`` adds up.  A volume with a quota has that many, and uses
what its files refer to, as the quota counts.  (Logical sizes are told by ``ramet df`` and ``du``.)

Free inodes are the numbers that are left, which are never used twice, or fewer where there is no
room for so many.
"""

import pyfuse3

from engine import Space, Volume, numbers
from engine.keys import NAME_MAX
from engine.superblock import BLOCK_BYTES
from fusefs.errnos import mapped
from fusefs.extra import statfs_inode
from fusefs.places import Places

INODE_BYTES = 512  # metadata of one file: its record, its name twice
INODES_MAX = 1 << 40  # numbers.py


class Statfs(Places):
    """The one request for space."""

    @mapped
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        space = self.store.space()
        volume = self._volume_of(statfs_inode())
        total, free = self._room(space, volume)
        left = INODES_MAX - self.store.pool.state.next_ino
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        data.f_blocks, data.f_bfree = total // BLOCK_BYTES, free // BLOCK_BYTES
        data.f_bavail = data.f_bfree
        data.f_ffree = data.f_favail = max(min(left, free // INODE_BYTES), 0)
        data.f_files = data.f_ffree + (space.files if volume is None else volume.files)
        data.f_namemax = NAME_MAX
        return data

    def _volume_of(self, number: int) -> Volume | None:
        """The volume that an inode is in, a snapshot's for what is in that; None: the store."""
        if number == numbers.ROOT:
            return self.single
        if numbers.is_snapshots(number):
            return self.store.volume_by_id(numbers.volume_of_snapshots(number))
        volume = self.store.volume_by_id(numbers.split(number)[0])
        return volume.parent or volume

    @staticmethod
    def _room(space: Space, volume: Volume | None) -> tuple[int, int]:
        """Bytes in all, and those that are free."""
        if volume is None or not volume.quota_bytes:
            return space.physical_bytes + space.free_bytes, space.free_bytes
        left = max(volume.quota_bytes - volume.referenced_bytes, 0)
        return volume.quota_bytes, min(left, space.free_bytes)
