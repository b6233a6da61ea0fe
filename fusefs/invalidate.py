"""Tell the kernel what others have changed under a mount.

The kernel may ask the loop for a page while it invalidates it, so the notices are sent from a
thread of their own, never from the loop.  Who made the change waits with ``settled`` before it
answers: then what one door changes, the mount shows.  Changes that the mount's own requests make
are known to the kernel; ``foreign`` marks the others.  What the kernel cannot know it is not told
(known.py): then there is nothing to wait for.

A direct write beside pages of the file is answered from here (``drop``; pages.py tells why): held
until the kernel has dropped these pages, or until it may be unable to (``_let_go``).

The thread has ended before the session closes (``close``): a notice to a closed session would be
written to whatever file has the number of its descriptor by then.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import pyfuse3
import trio

from engine import Change, Store, Volume, numbers
from engine.keys import ROOT_INO
from fusefs.extra import drop_pages
from fusefs.known import Known
from fusefs.pages import STRETCH_BITS

CLOSE_S = 5.0
HELD_MAX = 8  # of the 12 asynchronous requests that the kernel sends before it has answers
STUCK_S = 0.002
Notice = partial[None]
Drop = Callable[[int, int, int, int], bool]  # as Invalidator.drop


class Foreign:
    """What is changed inside did not come through the mount.  It may be entered again inside."""

    def __init__(self) -> None:
        self.depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


class Invalidator:
    """One mount's notices: a queue and the thread that empties it.  Made on the loop."""

    def __init__(self, store: Store, number_of: Callable[[int, int], int]) -> None:
        self.foreign = Foreign()
        self.known = Known()
        self._number_of = number_of
        self._closed = False
        self._closing = threading.Lock()  # nothing is put behind the end of the queue
        self._queue: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._sent = 0  # into the queue
        self._done = 0  # by the thread; the difference is what the kernel does not know yet
        self._waiters: deque[tuple[int, trio.Event]] = deque()  # (until so many are done, ...)
        self._held: dict[int, int] = {}  # direct writes without an answer: how much was written
        self._watched = False  # by _let_go
        self._loop = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._work, name="invalidate", daemon=True)
        self._store = store
        store.listeners.append(self._changed)
        self._thread.start()

    def unsettled(self) -> bool:
        """Whether ``settled`` would wait."""
        return self._done < self._sent

    def watches(self, volume_id: int, ino: int) -> bool:
        """Whether a change of an inode's contents or attributes would have to be told."""
        return self.known.is_told(self._number_of(volume_id, ino))

    async def settled(self) -> None:
        """Return when the kernel has been told all that was changed before."""
        if self.unsettled():
            told = trio.Event()
            self._waiters.append((self._sent, told))
            self._wake()  # the thread looks for waiters after it has counted: one of us sees it
            await told.wait()

    def _wake(self) -> None:
        while self._waiters and self._waiters[0][0] <= self._done:
            self._waiters.popleft()[1].set()

    def close(self) -> None:
        """Send no more; returns when the thread has ended.  A second call does nothing.

        Off the loop while the mount answers, for which a notice may wait.  When the mount's loop
        has failed, nobody answers: then not for ever.
        """
        with self._closing:
            if not self._closed:
                self._closed = True
                self._store.listeners.remove(self._changed)
                self._queue.put(None)
        self._answer_held()
        self._thread.join(CLOSE_S)

    # --- from changes to notices, on the loop

    def _changed(self, change: Change) -> None:
        if not self.foreign.depth:
            return
        if change.what == "volumes":
            self._volumes_changed(change)
            return
        number = self._number_of(change.volume_id, change.ino)
        if change.what == "entry" and change.name is not None:
            parent = self._number_of(change.volume_id, change.parent)
            if parent == numbers.ROOT:
                self.known.names_at_root.discard(change.name)
            if parent in self.known and number in self.known:
                self._send(partial(pyfuse3.invalidate_entry, parent, change.name))
            if self.known.outdated(parent):  # its times; pages of directories are not kept
                self._send(partial(pyfuse3.invalidate_inode, parent, attr_only=True))
            if self.known.is_told(number):  # how many names it has; its pages stay, so it is told
                self._send(partial(pyfuse3.invalidate_inode, number, attr_only=True))
        elif self.known.outdated(number):
            self._send(partial(pyfuse3.invalidate_inode, number))

    def _volumes_changed(self, change: Change) -> None:
        root = self._number_of(change.volume_id, ROOT_INO)
        self._send(partial(pyfuse3.invalidate_inode, root))
        gone = {change.name} if change.name is not None else set()
        if root == numbers.ROOT:  # of a mount of one volume
            gone, self.known.names_at_root = self.known.names_at_root, set()
        for name in gone:  # all names below it go with it
            self._send(partial(pyfuse3.invalidate_entry, numbers.ROOT, name))

    def _send(self, notice: Notice) -> bool:
        with self._closing:
            if self._closed:
                return False
            self._sent += 1
            self._queue.put(notice)
            return True

    def drop(self, number: int, offset: int, length: int, request: int) -> bool:
        """Have the kernel drop what it has of a range, and then answer ``request`` (0: none), a
        write of ``length`` bytes.  False: nobody will, the mount ends."""
        pages = self.known.pages.of(number, offset, length)
        if request:
            self._held[request] = length
        if not self._send(partial(self._drop, number, pages, request)):
            return bool(request) and self._held.pop(request, None) is None  # close has, or nobody
        if len(self._held) >= HELD_MAX and not self._watched:
            self._watched = True
            trio.lowlevel.spawn_system_task(self._let_go)
        return True

    async def _let_go(self) -> None:
        """Answer what is held when the kernel does not get on with a notice.

        It may be waiting for a page that is being read, or written back, by a request that it does
        not send before it has answers: to those that are held.  Their pages go a little later.
        """
        while len(self._held) >= HELD_MAX and not self._closed:
            done = self._done
            await trio.sleep(STUCK_S)
            if done == self._done and not self._closed:
                self._answer_held()
        self._watched = False

    def _answer_held(self) -> None:
        for request in list(self._held):
            self._answer(request)

    def _answer(self, request: int) -> None:
        """The loop and the thread both do this, and one of them finds it."""
        done = self._held.pop(request, None)
        if done is not None:
            drop_pages(0, 0, 0, request, done)

    # --- on the thread

    def _drop(self, number: int, pages: dict[int, int], request: int) -> None:
        begin, end = min(pages) << STRETCH_BITS, max(pages) + 1 << STRETCH_BITS
        if not self._closed:
            drop_pages(number, begin, end - begin, 0, 0)
        self._answer(request)
        with contextlib.suppress(trio.RunFinishedError):
            self._loop.run_sync_soon(self.known.pages.dropped, number, pages)

    def _work(self) -> None:
        while (notice := self._queue.get()) is not None:
            if not self._closed or notice.func == self._drop:  # who has written waits for it
                # The kernel answers ENOENT for what it does not know: then there is nothing to
                # forget.
                with contextlib.suppress(OSError):
                    notice()
            self._done += 1
            if self._waiters:
                with contextlib.suppress(trio.RunFinishedError):
                    self._loop.run_sync_soon(self._wake, idempotent=True)


def all_volumes(volume_id: int, ino: int) -> int:
    """The inode numbers of a mount that shows all volumes."""
    return numbers.join(volume_id, ino)


def one_volume(volume: Volume) -> Callable[[int, int], int]:
    """Those of a mount that shows one."""

    def number(volume_id: int, ino: int) -> int:
        at_root = ino == ROOT_INO and volume_id == volume.id
        return numbers.ROOT if at_root else numbers.join(volume_id, ino)

    return number
