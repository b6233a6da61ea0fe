"""gc's marks: which nodes and slots a run has seen.  Part of the typed door."""

from collections.abc import Iterator
from typing import Any

from native._core import ffi, lib
from native.errors import CorruptNode

VISIT_NODES_MAX = 256
_FANOUT_MAX: int = lib.RMT_FANOUT_MAX


class Marks:
    """What one gc run has seen of nodes and slots.  All methods: the marking thread.

    Takes 65 bits a node and a bit a slot.
    """

    def __init__(self, core: Any) -> None:
        self._core = core
        self.c = lib.rmt_marks_new(core)
        if self.c == ffi.NULL:
            raise MemoryError("no memory for gc's marks")
        self._children = ffi.new("uint64_t[]", VISIT_NODES_MAX * _FANOUT_MAX)
        self._number = ffi.new("uint64_t *")
        self._from = ffi.new("uint64_t *")

    def close(self) -> None:
        if self.c is not None:
            lib.rmt_marks_free(self.c)
            self.c = None

    def add_ids(self, ids: bytes | bytearray | memoryview) -> None:
        """u64s in native order, ascending over all calls: the nodes that there are."""
        if lib.rmt_gc_add_ids(self.c, ffi.from_buffer("uint64_t[]", ids), len(ids) // 8):
            raise MemoryError("no memory for gc's marks, or node ids out of order")

    def see(self, node_id: int) -> bool:
        """Whether it is seen for the first time; KeyError when there is no such node."""
        status = lib.rmt_gc_see(self.c, node_id)
        if status == lib.RMT_UNKNOWN:
            raise KeyError(node_id)
        return bool(status == lib.RMT_OK)

    def visit(self, nodes: list[tuple[int, memoryview]]) -> list[int]:
        """Mark what stored extent nodes reach; returns their children not seen before."""
        assert len(nodes) <= VISIT_NODES_MAX
        views = [ffi.from_buffer("uint8_t[]", raw) for _, raw in nodes]
        status = lib.rmt_gc_visit(
            self._core, self.c, [node_id for node_id, _ in nodes], views,
            [len(view) for view in views], len(nodes), self._children, self._number, self._from,
        )  # fmt: skip
        if status:
            raise CorruptNode(self._from[0])
        return list(self._children[0 : self._number[0]])

    @property
    def entries(self) -> int:
        """Entries of the extent nodes visited."""
        return lib.rmt_gc_entries(self.c)  # type: ignore[no-any-return]

    def unseen(self) -> Iterator[list[int]]:
        """The nodes that were not seen, in portions."""
        self._from[0] = 0
        capacity = VISIT_NODES_MAX
        while count := lib.rmt_gc_unseen(self.c, self._from, self._children, capacity):
            yield list(self._children[0:count])
