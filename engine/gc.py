"""Garbage collection: trace what is reachable, free what is not.

There are no reference counts, so nothing on the clone path pays for them.  One run:

1. ``start`` (engine thread): arm *touched* - from now on every slot allocated or shared by dedup is
   remembered - and, in the same instant, capture a commit; wait until it is durable.
2. ``mark`` (any thread): from every root of that commit or a later one - volumes, snapshots,
   orphans - visit each node once and note the slots that its leaves map.
3. ``sweep`` (engine thread, in steps): free the slots that are allocated now, not reached, not
   touched; delete the stored nodes that were not visited.

Why it is right: a node or slot that is unreachable in a commit can be reached again in two ways
only, by a new allocation of its slot or by a dedup hit, and both are in *touched*.  A freed slot
goes the way of all freed slots: unusable until the commit that frees it is durable.  A crash loses
only the work done.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import native
from engine import errors
from engine.inode import Inode
from engine.meta import Reader
from engine.nodes import decode, is_namespace
from engine.pool import Pool
from engine.volume_record import VolumeRecord

DEAD_NODES_STEP = 10_000


@dataclass
class GcResult:
    """What one run did."""

    nodes_visited: int = 0
    nodes_freed: int = 0
    slots_freed: int = 0


class Gc:
    """One run over one store.  ``Store.gc`` drives it; a daemon drives it in steps."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.result = GcResult()
        self._reader: Reader | None = None
        self._seen: set[int] = set()
        self._pending: list[int] = []
        self._sweep: Iterator[None] | None = None
        pool.check_writable()
        pool.core.gc_arm()

    def open(self) -> None:
        """The commit captured at ``start`` is durable: read its roots."""
        reader = self._reader = self._pool.reader()
        for _, raw in reader.items("volumes"):
            self._push(VolumeRecord.unpack(raw).root)
        for _, raw in reader.items("orphans"):
            self._push(Inode.unpack(0, raw).root)

    def mark(self, nodes_max: int = 1 << 62) -> bool:
        """Visit at most so many nodes; True when all are visited.  Corrupt stops the run."""
        reader = self._reader
        assert reader is not None
        while self._pending and nodes_max > 0:
            nodes_max -= 1
            node_id = self._pending.pop()
            try:
                self._visit(node_id, reader.node(node_id))
            except KeyError:
                raise errors.Corrupt(f"node {node_id} is missing; run `ramet fsck`") from None
            except native.CorruptNode as error:
                raise errors.Corrupt(f"{error}; nothing was freed; run `ramet fsck`") from error
        return not self._pending

    def _push(self, node_id: int) -> None:
        if node_id and node_id not in self._seen:
            self._seen.add(node_id)
            self._pending.append(node_id)

    def _visit(self, node_id: int, raw: memoryview) -> None:
        self.result.nodes_visited += 1
        if not is_namespace(raw):
            for child in self._pool.core.gc_mark(raw)[1]:
                self._push(child)
            return
        node = decode(node_id, raw, self._pool.superblock.hash_seed)
        if node.level:
            for child_id in node.vals:
                self._push(child_id)  # type: ignore[arg-type]
            return
        for key, value in zip(node.keys, node.vals, strict=True):
            if key[:1] == b"I":
                self._push(Inode.unpack(0, value).root)  # type: ignore[arg-type]

    def sweep(self) -> bool:
        """One step: a slab, or some thousand nodes; True when all is done."""
        if self._sweep is None:
            self._sweep = self._sweep_steps()
        return next(self._sweep, self) is self

    def _sweep_steps(self) -> Iterator[None]:
        pool, reader = self._pool, self._reader
        assert reader is not None
        assert not self._pending
        for slab in range(pool.state.slabs):
            self.result.slots_freed += pool.core.gc_sweep(slab)
            yield
        pool.core.gc_disarm()
        dead: list[int] = []
        for node_id in reader.node_ids():
            if node_id not in self._seen:
                dead.append(node_id)
                if len(dead) == DEAD_NODES_STEP:
                    self._bury(dead)
                    dead = []
                    yield
        self._bury(dead)
        self.close()

    def _bury(self, dead: list[int]) -> None:
        self.result.nodes_freed += len(dead)
        for node_id in dead:
            self._pool.core.drop_node(node_id)
        self._pool.nodes.forget_dead(dead)

    def close(self) -> None:
        """End the run, complete or not; harmless at any point."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._seen.clear()
        self._pool.core.gc_disarm()
