"""Reads of a mount: at once where nothing is waited for, otherwise threads of C fetch what is asked
for and answer, straight to the device (engine/fetches.py).

When the loop hears that one of those has ended, the kernel has its answer already, and may have
sent what it sends after that: a RELEASE of the file, for one, so nothing here asks for the handle
again.

What other doors change meanwhile they tell the kernel as ever: it keeps the pages that it reads
locked until the answer has come, so a notice waits for them, and drops them.  Who began a read has
noted that the kernel has the file's pages (pages.py), and that is noted once more at the end.

A read that fails is answered from here.
"""

import mmap
import struct
from functools import partial

import trio

from engine import Store, Volume
from engine.fetches import Fetches
from fusefs.errnos import errno_of
from fusefs.extra import answer_error, device
from fusefs.known import Known

_HEAD = struct.Struct("=IiQ")  # fuse_out_header: length with the header, error, request
Asker = tuple[int, int]  # the request, and the inode's number when the kernel keeps what it reads


class Reads:
    """Of one mount.  What need not wait is read into ``output``."""

    def __init__(self, store: Store, known: Known, output: mmap.mmap) -> None:
        self._fetches: Fetches[Asker] = Fetches(store, output)
        self._known = known
        self._device = device()

    def read(
        self, fh: int, volume: Volume, ino: int, offset: int, size: int, asker: Asker
    ) -> int:  # fmt: skip
        """As ``Fetches.read``: how many bytes, BEGUN or REFUSED."""
        return self._fetches.read(
            fh, volume, ino, offset, size, self._device, partial(_head, asker[0]), asker
        )

    async def run(self) -> None:
        """End what has ended, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._fetches.wake_fd)
            self._fetches.woken()
            self._collect()

    def _collect(self) -> None:
        for (request, kept_by), error in self._fetches.ended():
            if error is not None:
                answer_error(request, errno_of(error))
            elif kept_by:
                self._known.told(kept_by)

    async def close(self) -> None:
        """Before the session goes: all that was begun has been answered."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._fetches.stop)
        self._collect()
        self._fetches.close()


def _head(request: int, length: int) -> bytes:
    return _HEAD.pack(_HEAD.size + length, 0, request)
