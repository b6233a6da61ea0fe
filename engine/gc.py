"""Garbage collection: trace what is reachable, free what is not.

There are no reference counts, so nothing on the clone path pays for them.  One run:

1. start (engine thread): arm *touched* - from now on every slot allocated or shared by dedup is
   remembered - and, in the same instant, capture a commit; wait until it is durable.
2. ``mark`` (any one thread): from every root of that commit - volumes, snapshots, orphans, the
   reclaim queue - visit each node once and note the slots that its leaves map.
3. ``sweep`` (engine thread, in steps): free the slots that are allocated now, not reached, not
   touched; delete the stored nodes that were not visited.

Why it is right: a node or slot that is unreachable in a commit can be reached again in two ways
only, by a new allocation of its slot or by a dedup hit, and both are in *touched*.  A freed slot
goes the way of all freed slots: unusable until the commit that frees it is durable.  A crash loses
only the work done.  One run at a time: a second would forget what was touched since the first.

Memory: two bits a slot, 65 bits a stored node, 8 bytes a node that is found dead, about 100 a
namespace node above the leaves.  The reader
is open during the mark only, which bounds by how much LMDB's file grows meanwhile.
"""

import array
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import native
from engine import errors
from engine.inode import Inode
from engine.meta import Reader
from engine.nodes import decode, is_namespace
from engine.pool import Pool
from engine.reclaim import TABLE, Entry
from engine.volume_record import VolumeRecord

NODE_IDS_STEP = 4_096
DEAD_NODES_STEP = 500
SLOTS_STEP = 16_384
LEVEL_BYTE = 5  # of a stored node


@dataclass
class GcResult:
    """What one run did, and while it runs, how far it is."""

    nodes_stored: int = 0
    nodes_visited: int = 0
    entries_visited: int = 0
    nodes_freed: int = 0
    slots_freed: int = 0
    punched_bytes: int = 0  # given back to the host's file system afterwards


class Gc:
    """One run over one store.  ``Store.start_gc`` makes it; who drives it decides on the threads.

    ``open`` once the commit is durable, ``mark`` until it says True, ``sweep`` until it says True.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.result = GcResult()
        self.debt_blocks = pool.core.debt_blocks  # what this run settles
        self._reader: Reader | None = None
        self._namespaces: list[int] = []
        self._levels: dict[int, int] = {}  # of namespace nodes above the leaves, about 1 in 30
        self._extents: list[int] = []
        self._dead = array.array("Q")
        self._mark: Iterator[None] | None = None
        self._sweep: Iterator[None] | None = None
        pool.check_writable()
        if pool.collecting:
            raise errors.Busy("a gc is running; wait for its end")
        pool.core.gc_arm()
        self._slabs = pool.state.slabs
        self._marks = pool.core.gc_marks()
        pool.collecting = self._running = True

    def open(self) -> None:
        """The commit captured at the start is durable: read it."""
        self._reader = self._pool.reader()
        self._mark = self._mark_steps(self._reader)

    def mark(self, steps_max: int = 1 << 62) -> bool:
        """Go on with the mark, at most so many steps of some hundred nodes; True when it is done.

        Corrupt stops the run, and nothing is freed.
        """
        assert self._mark is not None
        try:
            for _ in itertools.islice(self._mark, steps_max):
                pass
            return next(self._mark, self) is self
        except KeyError as error:
            raise errors.Corrupt(f"node {error.args[0]} is missing; run `ramet fsck`") from None
        except native.CorruptNode as error:
            raise errors.Corrupt(f"{error}; nothing was freed; run `ramet fsck`") from error

    def _mark_steps(self, reader: Reader) -> Iterator[None]:
        ids = reader.node_ids()
        while portion := list(itertools.islice(ids, NODE_IDS_STEP)):
            self._marks.add_ids(array.array("Q", portion).tobytes())
            self.result.nodes_stored += len(portion)
            yield
        self._see_roots(reader)
        while self._extents or self._namespaces:
            if self._extents:
                self._visit_extents(reader)
            else:
                self._visit_namespace(reader, self._namespaces.pop())
            yield
        self.result.entries_visited = self._marks.entries
        for found in self._marks.unseen():
            self._dead.extend(found)
            yield
        reader.close()
        self._reader = None

    def _see_roots(self, reader: Reader) -> None:
        for _, raw in reader.items("volumes"):
            self._see_namespace(reader, VolumeRecord.unpack(raw).root)
        for _, raw in reader.items("orphans"):
            self._see(self._extents, Inode.unpack(0, raw).root)
        for key, raw in reader.items(TABLE):
            node_id = Entry.unpack(key, raw).node_id
            if is_namespace(reader.node(node_id)):
                self._see_namespace(reader, node_id)
            else:
                self._see(self._extents, node_id)

    def _see_namespace(self, reader: Reader, root: int) -> None:
        """A root, at the level that it says it has."""
        if root:
            self._see_at(root, reader.node(root)[LEVEL_BYTE])

    def _see_at(self, node_id: int, level: int) -> None:
        """Each way to a node finds it at one level, so none is below itself: Corrupt, or the nodes
        below the one whose place it has would be freed."""
        if self._marks.see(node_id):
            if level:
                self._levels[node_id] = level
            self._namespaces.append(node_id)
        elif self._levels.get(node_id, 0) != level:
            raise errors.Corrupt(f"namespace node {node_id}: wrong level; run `ramet fsck`")

    def _see(self, pending: list[int], node_id: int) -> None:
        if node_id and self._marks.see(node_id):
            pending.append(node_id)

    def _visit_extents(self, reader: Reader) -> None:
        portion = self._extents[-native.VISIT_NODES_MAX :]
        del self._extents[-native.VISIT_NODES_MAX :]
        self.result.nodes_visited += len(portion)
        nodes = [(node_id, reader.node(node_id)) for node_id in portion]
        self._extents += self._marks.visit(nodes)

    def _visit_namespace(self, reader: Reader, node_id: int) -> None:
        self.result.nodes_visited += 1
        node = decode(node_id, reader.node(node_id), self._pool.superblock.hash_seed)
        if node.level != self._levels.get(node_id, 0):
            raise errors.Corrupt(f"namespace node {node_id}: wrong level; run `ramet fsck`")
        for key, value in zip(node.keys, node.vals, strict=True):
            if node.level:
                self._see_at(value, node.level - 1)  # type: ignore[arg-type]
            elif key[:1] == b"I":
                self._see(self._extents, Inode.unpack(0, value).root)  # type: ignore[arg-type]

    def sweep(self) -> bool:
        """One step, of some thousand slots or some hundred nodes; True when all is done."""
        if self._sweep is None:
            self._sweep = self._sweep_steps()
        return next(self._sweep, self) is self

    def _sweep_steps(self) -> Iterator[None]:
        assert self._mark is not None
        assert self._reader is None, "the mark is not done"
        core = self._pool.core
        for slab in range(self._slabs):
            word: int | None = 0
            while word is not None:
                freed, word = core.gc_sweep(self._marks, slab, word, SLOTS_STEP)
                self.result.slots_freed += freed
                yield
        core.gc_disarm()
        for start in range(0, len(self._dead), DEAD_NODES_STEP):
            self._bury(self._dead[start : start + DEAD_NODES_STEP].tolist())
            yield
        self.close()

    def _bury(self, dead: list[int]) -> None:
        self.result.nodes_freed += len(dead)
        for node_id in dead:
            self._pool.core.drop_node(node_id)
        self._pool.nodes.forget_dead(dead)

    def close(self) -> None:
        """End the run, complete or not; harmless at any point, also again."""
        if not self._running:
            return
        self._running = self._pool.collecting = False
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._marks.close()
        self._pool.core.gc_disarm()
