"""Requests that find something not in memory: what they wait for is read on a thread.

The other half of operations.py: there a request is tried without waiting, here it goes on when that
raised Cold.  What engine/cold.py yields runs on a thread, and other requests have their turn
meanwhile; so each attempt looks its handle up anew, and finds out when its volume was restored.
"""

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import ParamSpec, TypeVar

from engine import Store, Volume, cold
from engine.errors import RametError
from engine.ranges import COPY_BYTES_MAX
from engine.superblock import BLOCK_BYTES

P = ParamSpec("P")
T = TypeVar("T")
OnThread = Callable[[cold.Work], Awaitable[None]]


class ColdRequests:
    """Of one mount.  ``opened``: volume and inode of a handle, or Stale; ``on_thread`` runs what
    waits for the disk."""

    def __init__(
        self, store: Store, opened: Callable[[int], tuple[Volume, int]], on_thread: OnThread
    ) -> None:  # fmt: skip
        self._store, self._pool = store, store.pool
        self._opened = opened
        self._on_thread = on_thread

    async def _driven(self, steps: cold.Steps[T]) -> T:
        """Steps to their end, each of their waits on a thread."""
        try:
            while True:
                await self._on_thread(next(steps))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    async def found(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A call that changes nothing, cold or not."""
        known = partial(call, *args, **kwargs)
        try:
            return cold.hasty(self._pool, known)
        except cold.Cold:
            pass
        return await self._driven(cold.read_only(self._pool, known))

    async def before(self, look: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Before a change: what it needs is in memory.  What is wrong the change itself says."""
        with contextlib.suppress(RametError, OSError, ValueError):
            await self.found(look, *args, **kwargs)

    async def read(self, fh: int, offset: int, size: int) -> memoryview:
        """The answer may come long after others have had the shared buffer: it has its own."""
        buffer = memoryview(bytearray(size))

        def begin(wait: bool) -> cold.Reading:
            return cold.Reading(self._store, *self._opened(fh), offset, buffer, wait=wait)

        return await self._driven(cold.finished(self._pool, begin))

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        def attempt(wait: bool) -> int:
            volume, ino = self._opened(fh)
            return volume.write(ino, offset, data, wait=wait)

        return await self._driven(cold.until_warm(self._pool, attempt))

    async def edges(self, fh: int, *offsets: int) -> None:
        """Before a range is cut or zeroed: the blocks at its ends are patched."""

        def probe(wait: bool) -> None:
            cold.probe_edges(*self._opened(fh), *offsets, wait=wait)

        await self._driven(cold.until_warm(self._pool, probe))

    async def before_copy(
        self, fh: int, offset: int, into: int, into_offset: int, length: int
    ) -> None:  # fmt: skip
        """What will be copied, not shared, is in memory before it is."""
        await self.edges(fh, offset, offset + length)
        await self.edges(into, into_offset, into_offset + length)
        await self.before(self._look_at_maps, (fh, offset, length), (into, into_offset, length))
        if (offset - into_offset) % BLOCK_BYTES == 0:
            return

        def probe(wait: bool) -> None:
            cold.probe(*self._opened(fh), offset, min(length, COPY_BYTES_MAX), wait)

        await self._driven(cold.until_warm(self._pool, probe))

    def _look_at_maps(self, *ranges: tuple[int, int, int]) -> None:
        for fh, offset, length in ranges:
            volume, ino = self._opened(fh)
            volume.look_at_map(ino, offset, length)

    async def before_seek(self, fh: int, offset: int, whence: int) -> None:
        def look() -> None:
            volume, ino = self._opened(fh)
            volume.seek_data(ino, offset)
            volume.seek_hole(ino, offset)

        await self.before(look)

    async def before_allocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """Zeroes are written at the ends of a range that is punched."""
        await self.edges(fh, offset, offset + length)
        await self.before(self._look_at_maps, (fh, offset, length))
