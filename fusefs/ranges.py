"""Requests for ranges of files that pyfuse3 does not bind (extra.py): copy, allocate, seek.

Each is one step of the engine and waits for nothing: extra.py has waited before, for room and for
what was not in memory (cold_requests.py).  A seek is tried first.
"""

from collections.abc import Callable
from functools import partial

from engine import errors
from engine.allocation import check_allocation
from engine.cold import Cold, hasty
from fusefs.errnos import plain
from fusefs.extra import LATER
from fusefs.places import Places

FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
FALLOC_MODES = (
    0, FALLOC_KEEP_SIZE, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE, FALLOC_KEEP_SIZE | FALLOC_ZERO_RANGE,
)  # fmt: skip
SEEK_DATA, SEEK_HOLE = 3, 4
Call = Callable[..., int]


class Ranges(Places):
    """copy_file_range, fallocate and lseek."""

    def callbacks(self) -> tuple[Call, Call, Call, Call]:
        """copy, allocate, seek, and seek that is LATER instead of waiting."""
        return plain(self.copy_range), plain(self.allocate), plain(self.seek), plain(self.seek_now)

    def copy_range(
        self, fh: int, offset: int, into: int, into_offset: int, length: int, uid: int
    ) -> int:  # fmt: skip
        """copy_file_range(2) is a range clone."""
        source, source_ino = self.opened(fh)
        target, target_ino = self.opened(into)
        self.shared_ranges += 1
        self.strip(target, target_ino, uid)
        return self.store.clone_range(
            source, source_ino, offset, target, target_ino, into_offset, length
        )

    def allocate(self, fh: int, mode: int, offset: int, length: int, uid: int) -> int:
        """fallocate(2).  Punching and zeroing make holes."""
        volume, ino = self.opened(fh)
        if mode not in FALLOC_MODES:
            raise errors.Unsupported("ranges are neither collapsed nor inserted nor unshared")
        volume.check_writable()
        self.strip(volume, ino, uid)
        if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
            volume.punch(ino, offset, length)
        else:
            check_allocation(self.store, volume, ino, offset, length)
        if not mode & FALLOC_KEEP_SIZE and offset + length > volume.file(ino).size:
            volume.setattr(ino, size=offset + length)
        return 0

    def seek_now(self, fh: int, offset: int, whence: int) -> int:
        try:
            return hasty(self.store.pool, partial(self.seek, fh, offset, whence))
        except Cold:
            return LATER

    def seek(self, fh: int, offset: int, whence: int) -> int:
        volume, ino = self.opened(fh)
        if whence not in (SEEK_DATA, SEEK_HOLE):
            raise errors.InvalidArgument(f"whence {whence}")
        call = volume.seek_data if whence == SEEK_DATA else volume.seek_hole
        found = call(ino, offset)
        if found is None:
            raise OSError(6, "no data after the offset")  # ENXIO
        return found
