"""The reclaim queue: what was deleted, and is given back a little at a time.

Deleting or truncating cuts a subtree off and queues its root, whatever its size; ``step`` then
frees it node by node.  The queue is a table of the store, so what is left of it after a crash goes
on: taking a node off, queueing its children and freeing its slots are one change of the engine and
so in one commit.

A node is freed here iff it was born after its tree was last shared (``epoch``): then no other tree
has it, nor the slots that it maps OWNED and that no dedup has shared.  What is below a shared node
may be garbage or not; gc finds out.  gc takes the queue for a root, so the two never free the same.

Invariant: a node is in the queue at most once, unless it is shared (then its place only says so).
"""

import struct
import time
from collections.abc import Callable
from typing import NamedTuple

import native
from engine import errors
from engine.inode import Inode
from engine.nodes import NodeCache

EXTENT, NAMESPACE = 1, 2
TABLE = "reclaim"
_ENTRY = struct.Struct("<BBxxxxxxQ")  # kind, level, epoch


class Entry(NamedTuple):
    """A root in the queue."""

    node_id: int
    kind: int
    level: int
    epoch: int

    def pack(self) -> bytes:
        return _ENTRY.pack(self.kind, self.level, self.epoch)

    @classmethod
    def unpack(cls, key: bytes, raw: bytes) -> "Entry":
        if len(key) != 8 or len(raw) != _ENTRY.size:
            raise errors.Corrupt("an entry of the reclaim queue is damaged; run `ramet fsck`")
        return cls(int.from_bytes(key, "big"), *_ENTRY.unpack(raw))


class ReclaimQueue:
    """One store's queue.  The newest entry is taken first, so its length stays short."""

    def __init__(
        self, core: native.Core, nodes: NodeCache,
        put: Callable[[str, bytes, bytes], None], delete: Callable[[str, bytes], None],
    ) -> None:  # fmt: skip
        self._core = core
        self._nodes = nodes
        self._put = put
        self._delete = delete
        self._entries: dict[int, Entry] = {}
        self._freed: set[int] = set()  # since the last capture
        self._freed_before: set[int] = set()  # and before it: until then a node can be loaded
        self._captured: object = nodes.dead

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, key: bytes, raw: bytes) -> None:
        """An entry as it was stored."""
        entry = Entry.unpack(key, raw)
        self._entries[entry.node_id] = entry

    def _add(self, entry: Entry) -> None:
        self._entries[entry.node_id] = entry
        self._put(TABLE, entry.node_id.to_bytes(8, "big"), entry.pack())

    def add_map(self, root: int, height: int, epoch: int) -> None:
        """A file is gone; its map was last shared in ``epoch``."""
        if root:
            self._add(Entry(root, EXTENT, height - 1, epoch))

    def add_namespace(self, root: int, epoch: int) -> None:
        """A volume's tree is gone, or replaced by a restore."""
        if root:
            self._add(Entry(root, NAMESPACE, 0, epoch))

    def collect(self) -> None:
        """Queue the subtrees that the last changes of maps cut off."""
        for cut in self._core.take_cuts():
            self._add(Entry(cut.node_id, EXTENT, cut.level, cut.epoch))

    def step(self, limit_s: float) -> int:
        """Free nodes for about so long; returns how many were taken off the queue."""
        deadline = time.perf_counter() + limit_s
        taken = 0
        while self._entries:
            node_id, entry = self._entries.popitem()
            self._delete(TABLE, node_id.to_bytes(8, "big"))
            if self._is_freed(node_id):
                continue
            # What is damaged is left alone, with all below it; fsck names it.
            try:
                self._reclaim(entry)
            except (native.CorruptNode, errors.Corrupt):
                pass
            except BaseException:  # no memory, a read that failed: it stays in the queue
                self._add(entry)
                raise
            taken += 1
            if time.perf_counter() > deadline:
                break
        return taken

    def _is_freed(self, node_id: int) -> bool:
        """Whether the node came up before.  In a tree that is sound none does; where nodes lead to
        one another in a net, each would come up once for every path to it."""
        if self._captured is not self._nodes.dead:
            self._captured = self._nodes.dead
            self._freed_before, self._freed = self._freed, set()
        return node_id in self._freed or node_id in self._freed_before

    def _reclaim(self, entry: Entry) -> None:
        if entry.kind == NAMESPACE:
            self._reclaim_namespace(entry)
            return
        dead, children = self._core.reclaim(native.Cut(entry.node_id, entry.level, entry.epoch))
        for child in children:
            self._add(Entry(child.node_id, EXTENT, child.level, child.epoch))
        if dead:
            self._freed.add(entry.node_id)
            self._nodes.dead.append(entry.node_id)

    def _reclaim_namespace(self, entry: Entry) -> None:
        node = self._nodes.get(entry.node_id)
        if node.birth <= entry.epoch:
            return
        for key, value in zip(node.keys, node.vals, strict=True):
            if node.level:
                self.add_namespace(value, entry.epoch)  # type: ignore[arg-type]
            elif key[:1] == b"I":
                inode = Inode.unpack(0, value)  # type: ignore[arg-type]
                self.add_map(inode.root, inode.height, max(inode.shared_epoch, entry.epoch))
        self._freed.add(entry.node_id)
        self._nodes.discard(node, entry.epoch)
