"""Tell the kernel what others have changed under a mount.

The kernel may ask the loop for a page while it invalidates it, so the notices are sent from a
thread of their own, never from the loop.  Who made the change waits with ``settled`` before it
answers: then what one door changes, the mount shows.  Changes that the mount's own requests make
are known to the kernel; ``foreign`` marks the others.

The thread has ended before the session closes (``close``): a notice to a closed session would be
written to whatever file has the number of its descriptor by then.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

import pyfuse3
import trio

from engine import Change, Store, numbers
from engine.keys import ROOT_INO

CLOSE_S = 5.0


class Invalidator:
    """One mount's notices: a queue and the thread that empties it."""

    def __init__(self, store: Store, number_of: Callable[[int, int], int]) -> None:
        self._number_of = number_of
        self._foreign = False
        self._closed = False
        self._limiter = trio.CapacityLimiter(8)  # not behind what other threads wait for
        self._queue: queue.Queue[Change | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="invalidate", daemon=True)
        self._store = store
        store.listeners.append(self._changed)
        self._thread.start()

    @contextlib.contextmanager
    def foreign(self) -> Iterator[None]:
        """What is changed inside did not come through the mount."""
        self._foreign = True
        try:
            yield
        finally:
            self._foreign = False

    def unsettled(self) -> bool:
        """Whether ``settled`` would wait."""
        return self._queue.unfinished_tasks > 0

    async def settled(self) -> None:
        """Return when the kernel has been told all that was changed before."""
        await trio.to_thread.run_sync(self._queue.join, limiter=self._limiter)

    def close(self) -> None:
        """Send no more; returns when the thread has ended.  A second call does nothing.

        Off the loop while the mount answers, for which a notice may wait.  When the mount's loop
        has failed, nobody answers: then not for ever.
        """
        if not self._closed:
            self._closed = True
            self._store.listeners.remove(self._changed)
            self._queue.put(None)
        self._thread.join(CLOSE_S)

    def _changed(self, change: Change) -> None:
        if self._foreign and change.what != "mark":  # a mount does not show marks
            self._queue.put(change)

    def _work(self) -> None:
        while True:
            change = self._queue.get()
            try:
                if change is None:
                    return
                if not self._closed:
                    self._tell(change)
            finally:
                self._queue.task_done()

    def _tell(self, change: Change) -> None:
        # The kernel answers ENOENT for what it does not know: then there is nothing to forget.
        with contextlib.suppress(OSError):
            if change.what == "volumes":
                pyfuse3.invalidate_inode(self._number_of(change.volume_id, ROOT_INO))
                if change.name is not None:  # all names below it go with it
                    pyfuse3.invalidate_entry(numbers.ROOT, change.name)
            elif change.what == "entry" and change.name is not None:
                parent = self._number_of(change.volume_id, change.parent)
                pyfuse3.invalidate_entry(parent, change.name)
                pyfuse3.invalidate_inode(parent)
            else:
                pyfuse3.invalidate_inode(self._number_of(change.volume_id, change.ino))


def all_volumes(volume_id: int, ino: int) -> int:
    """The inode numbers of a mount that shows all volumes."""
    return numbers.join(volume_id, ino)
