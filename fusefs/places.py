"""Which volume and which inode a request is about: by the kernel's number, or by an open file.

A file handle remembers the era of its volume: a forced restore makes it stale, even where the same
inode is there again, so that no program goes on writing into a past it has not seen.
"""

import contextlib
from collections.abc import Awaitable, Callable

import pyfuse3

from engine import Store, Volume, errors, numbers
from engine.keys import ROOT_INO
from fusefs.cold_requests import ColdRequests, OnThread
from fusefs.invalidate import Drop
from fusefs.known import Known
from fusefs.privileges import strip


class Places(pyfuse3.Operations):  # type: ignore[misc]
    """What all requests of one mount start from; the parameters are told at ``Operations``."""

    def __init__(
        self,
        store: Store,
        *,
        volume: Volume | None,
        durable: Callable[[], Awaitable[None]],
        admit: Callable[[], Awaitable[None]],
        on_thread: OnThread,
        real_blocks: bool = False,
        known: Known | None = None,
        drop_pages: Drop | None = None,
    ) -> None:
        super().__init__()
        self.store = store
        self.single = volume
        self.durable = durable
        self.admit = admit
        self.cold = ColdRequests(store, self.opened, on_thread)
        self.real_blocks = real_blocks
        self.known = known or Known()
        self.drop_pages = drop_pages
        self.writes = 0
        self.shared_ranges = 0
        self.attributes_asked = 0
        self._handles: dict[int, tuple[Volume, int, int, int]] = {}  # volume, inode, era, number
        self._next_handle = 1

    def _is_unstored(self, number: int) -> bool:
        """Whether it is a directory that no volume stores: of snapshots, or of all volumes."""
        return numbers.is_snapshots(number) or (number == numbers.ROOT and self.single is None)

    def _locate(self, number: int) -> tuple[Volume, int]:
        if number == numbers.ROOT:
            if self.single is None:
                raise errors.NotPermitted("the mount's root holds volumes; use `ramet volume`")
            return self.single, ROOT_INO
        if numbers.is_snapshots(number):
            raise errors.ReadOnly(".snapshots changes by `ramet snapshot` only")
        volume_id, ino = numbers.split(number)
        return self.store.volume_by_id(volume_id), ino

    def _hold(self, volume: Volume, ino: int) -> pyfuse3.FileInfo:
        volume.hold(ino)
        handle = self._next_handle
        self._next_handle = handle + 1
        self._handles[handle] = (volume, ino, volume.era, self._number(volume, ino))
        return pyfuse3.FileInfo(fh=handle)

    def opened(self, handle: int) -> tuple[Volume, int]:
        volume, ino, era, number = self._handles[handle]
        self.known.told(number)  # the answer to a read or write stays in the kernel's pages
        if era != volume.era:
            raise errors.Stale("the volume was restored or removed; open the file again")
        return volume, ino

    def number_of(self, handle: int) -> int:
        """The number that the kernel knows an open file by."""
        return self._handles[handle][3]

    def used(self, handle: int, offset: int, length: int) -> None:
        """Before a read or write whose bytes the kernel keeps in its pages."""
        self.known.pages.used(self._handles[handle][3], offset, length)

    def drop(self, handle: int, offset: int, length: int, request: int = 0) -> bool:
        """After a write past the kernel's pages: whether it has to drop some first (pages.py).

        Then it is being told; ``request``, if there is one, is answered when it has.
        """
        number = self._handles[handle][3]
        if self.drop_pages is None or not self.known.pages.of(number, offset, length):
            return False
        return self.drop_pages(number, offset, length, request)

    def _number(self, volume: Volume, ino: int) -> int:
        if ino == ROOT_INO and volume is self.single:
            return numbers.ROOT
        return numbers.join(volume.id, ino)

    def strip(self, volume: Volume, ino: int, uid: int) -> None:
        """A user has changed what is in a file; whoever asks for nothing but its mode would see
        what the kernel keeps.  Attributes alone can be dropped from here: it waits for no page."""
        if strip(volume, ino, uid):
            with contextlib.suppress(OSError):  # the kernel has forgotten the file
                pyfuse3.invalidate_inode(self._number(volume, ino), attr_only=True)
