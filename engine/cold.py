"""What has to wait for the disk waits on a thread, so that one slow read stops nobody else.

The engine thread does not know beforehand what is in memory; it tries.  Told not to wait, a call
that needs a slot which is not in the page cache (RWF_NOWAIT), or a node which is not in the node
cache, raises Cold and has changed nothing.  Then:

- a read is planned: its slots are pinned as of this instant, and a thread fetches and checks them
  (``Reading``).  What becomes of the file meanwhile is no matter: the answer is what it had when
  the read began, which nobody can tell from a read that was quick.  There is no second attempt, so
  a page cache that is too small costs nothing more than the disk.
- anything else is begun again, checks and all, once a thread has had read what was cold
  (``until_warm``).  No slot is pinned for that: what the thread reads nobody looks at.  A call that
  finds cold what was waited for already is not sent round in circles; it waits on the spot.

A node that is not in the node cache counts as cold, though its page may be in memory.  There is no
cheap way to ask: LMDB walks its own tree to find the page, and the walk is what waits.  A thread
costs some 50 us and is needed once for each node, which maps 1 MiB; then it stays until the cache
is full.  The thread only has the pages read.  The node is loaded from them on the engine thread,
which may have loaded, changed, stored and evicted it since.

Who only reads may have namespace nodes counted as cold, too (``read_only``).  An operation that
changes names or attributes never does: it would be left half done.  What it reads can be looked at
before (``look_at_name`` and its like), so that it mostly finds all in memory.

A front end that has a descriptor to answer by may have threads of C do all of a read that found no
node missing (fetches.py).

Nothing here starts a thread: the generators yield what any thread has to run, and go on with the
engine thread afterwards.  Between two steps others have their turn.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import native
from engine import errors
from engine.superblock import BLOCK_BYTES
from native import Cold

if TYPE_CHECKING:
    from engine.pool import Pool
    from engine.store import Store
    from engine.volume import Volume

T = TypeVar("T")
Work = Callable[[], None]  # for any thread; raises nothing
Steps = Generator[Work, None, T]

ATTEMPTS_MAX = 64
WARMED_MAX = 4096  # nodes that were read for calls which have not come again
PROBE_BYTES = 1 << 20

__all__ = [
    "Cold", "Reading", "Steps", "Work", "finished", "hasty", "probe", "probe_edges", "read_only",
    "until_warm",
]  # fmt: skip


class Reading:
    """A read that a thread finishes.  ``end`` must be called, whatever happens."""

    def __init__(
        self, store: "Store", volume: "Volume", ino: int, offset: int, buffer: memoryview, *,
        wait: bool,
    ) -> None:  # fmt: skip
        """Fix what will be read, now.  Stale, IsADirectory, Corrupt; Cold without ``wait``."""
        if offset < 0:
            raise errors.InvalidArgument("negative offset")
        self._store, self._volume, self._offset = store, volume, offset
        self._inode = inode = volume.file(ino)
        self.buffer = buffer[: max(min(len(buffer), inode.size - offset), 0)]
        first, last = offset // BLOCK_BYTES, -(-(offset + len(self.buffer)) // BLOCK_BYTES)
        tree, core = volume.data_tree(inode), store.pool.core
        with volume.sound_nodes(inode):
            self._plan = core.plan_read(tree, first, max(last - first, 0), wait=wait)
        self._error: native.CorruptBlock | OSError | None = None
        self._pin = store.pool.pin()

    def fetch(self) -> None:
        """Read and check it; any thread."""
        try:
            if self.buffer:
                self._store.pool.core.run_read(self._plan, self._offset, self.buffer)
        except (native.CorruptBlock, OSError) as error:
            self._error = error

    def end(self) -> None:
        """The thread has ended, or will not begin: the slots may go."""
        self._store.pool.unpin(self._pin)
        self._store.release_freed()

    def result(self) -> memoryview:
        """What was read; Corrupt, OSError."""
        if self._error is not None:
            raise self._volume.read_error(self._inode, self._offset, self._error)
        return self.buffer


def finished(pool: "Pool", begin: Callable[[bool], Reading]) -> Steps[memoryview]:
    """A read from its beginning, which is tried again until its nodes are there."""
    reading = yield from until_warm(pool, begin)
    try:
        yield reading.fetch
    finally:
        reading.end()
    return reading.result()


def until_warm(pool: "Pool", call: Callable[[bool], T]) -> Steps[T]:
    """``call(wait)`` until nothing that it needs is cold."""
    slots: set[int] = set()
    nodes: set[int] = set()
    for _ in range(ATTEMPTS_MAX):
        try:
            return call(False)
        except Cold as cold:
            new = [slot for slot in cold.slots if slot not in slots]
            node = cold.node if cold.node not in nodes else 0
        if not (new or node):
            break
        slots.update(new)
        nodes.add(node)
        yield from _warm_node(pool, node) if node else _warm_slots(pool, new)
    return call(True)


def _warm_slots(pool: "Pool", slots: list[int]) -> Steps[None]:
    yield partial(pool.core.warm, slots)


def _warm_node(pool: "Pool", node: int) -> Steps[None]:
    pool.meta.readers += 1  # what is being read must not be closed
    try:
        yield partial(pool.meta.warm_node, node)
    finally:
        pool.meta.drop_reader()
    if len(pool.core.warmed) >= WARMED_MAX:
        pool.core.warmed.clear()
    pool.core.warmed.add(node)


def read_only(pool: "Pool", call: Callable[[], T]) -> Steps[T]:
    """A call that changes nothing, tried again until the nodes it needs are there."""
    return until_warm(pool, partial(hasty, pool, call))


def hasty(pool: "Pool", call: Callable[[], T], wait: bool = False) -> T:
    """A call that changes nothing; Cold, without ``wait``, for any node that is not in memory."""
    pool.nodes.waits = pool.core.waits = wait
    try:
        return call()
    finally:
        pool.nodes.waits = pool.core.waits = True


def probe(volume: "Volume", ino: int, offset: int, length: int, wait: bool) -> None:
    """Cold when a range would have to be waited for; other errors come from who reads it."""
    scratch = memoryview(bytearray(min(length, PROBE_BYTES)))
    try:
        for at in range(offset, offset + length, PROBE_BYTES):
            volume.read_into(ino, at, scratch[: offset + length - at], wait=wait)
    except (errors.RametError, OSError):
        return


def probe_edges(volume: "Volume", ino: int, *offsets: int, wait: bool) -> None:
    """``probe`` of the blocks in whose middle a range begins or ends: they will be patched."""
    for offset in offsets:
        if offset % BLOCK_BYTES:
            probe(volume, ino, offset - offset % BLOCK_BYTES, BLOCK_BYTES, wait)
