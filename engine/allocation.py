"""Allocations (fallocate(2), NFSv4.2 ALLOCATE): whether there is room for one.

Nothing is set aside by an allocation, since what is written later may be stored already, or meet a
clone; but one that there is no room for now is refused, as ZFS does it.
"""

from engine import errors
from engine.inode import FILE_BYTES_MAX
from engine.store import Store
from engine.superblock import BLOCK_BYTES
from engine.volume import Volume


def check_allocation(store: Store, volume: Volume, ino: int, offset: int, length: int) -> None:
    """TooLarge, QuotaExceeded or NoSpace when the range of a file could not be filled now."""
    inode = volume.file(ino)
    if offset + length > FILE_BYTES_MAX:
        raise errors.TooLarge(f"a file holds at most {FILE_BYTES_MAX >> 50} PiB")
    missing = -(-(offset + length) // BLOCK_BYTES) - offset // BLOCK_BYTES
    missing -= volume.mapped_blocks(inode, offset, length)
    volume.check_quota(0 if inode.orphan else missing)
    if missing * BLOCK_BYTES > store.space().free_bytes:
        raise errors.NoSpace(errors.HOST_IS_FULL)
