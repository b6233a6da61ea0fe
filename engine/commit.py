"""Commit: capture on the engine thread, write on any thread, finish on the engine thread.

Order of ``write``: fdatasync of the slabs written to, then one LMDB transaction (itself durable),
and only then may anyone be told that the data is safe.  A crash before the transaction leaves the
previous commit whole: its slots are not reused until a later commit has freed them durably.
A failed sync is never retried: the store takes no more writes (fsyncgate).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine import errors
from engine.meta import STATE_KEY, chunk_key, disk_error
from engine.nodes import encode
from engine.pool import METADATA_ERRORS

if TYPE_CHECKING:
    from engine.pool import Pool


class Commit:
    """One captured state of the store.  ``Store.capture`` makes it."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        pages = pool.dirty_pages
        self.generation = pool.generation
        pool.generation += 1
        self.sealed = pool.core.seal()
        self._nodes, self._dead = pool.nodes.seal()
        self._puts, pool.puts = pool.puts, {}
        self._deletes, pool.deletes = pool.deletes, set()
        pool.reserve.begin(pages)
        pool.state.next_node = pool.core.next_node_id
        pool.state.commits += 1
        self._state = pool.state.pack()
        self.durable = False

    def write(self) -> None:
        """Make it durable.  OSError or lmdb.Error: call ``Store.fail``; nothing is acknowledged."""
        pool = self._pool
        pool.slabs.sync(self.sealed.slabs)
        pool.reserve.lend()
        pool.meta.write(self._all_nodes(), self._dead, self._all_puts(), self._deletes)
        self.durable = True

    def _all_nodes(self) -> Iterator[tuple[int, "bytes | memoryview"]]:
        seed = self._pool.superblock.hash_seed
        for node_id, node in self._nodes.items():
            yield node_id, encode(node, seed)
        yield from self.sealed.nodes()

    def _all_puts(self) -> Iterator[tuple[str, bytes, bytes]]:
        for (table, key), value in self._puts.items():
            yield table, key, value
        for slab, chunk, bits in self.sealed.chunks():
            yield "slots", chunk_key(slab, chunk), bits
        yield "super", STATE_KEY, self._state


def write_or_fail(commit: Commit, pool: "Pool") -> None:
    """``commit.write`` for a caller on the engine thread; what ``failure`` says if it fails."""
    try:
        commit.write()
    except METADATA_ERRORS as error:
        raise failure(error, pool) from error


def failure(error: Exception, pool: "Pool") -> errors.RametError:
    """A commit could not be written: the store takes no more, and who waited is told this."""
    pool.fail(f"writing to its disk failed ({error})")
    return disk_error(error, "reopen the store")
