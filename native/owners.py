"""Owners of slots: the accounting pass (native/owners.c).  Part of the typed door."""

import array
from typing import Any

from native._core import ffi, lib
from native.errors import CorruptNode
from native.marks import VISIT_NODES_MAX

_FANOUT_MAX: int = lib.RMT_FANOUT_MAX
STORE = 1  # the owner above all others


class Owners:
    """The tree of owners, and which of them each slot belongs to.  All methods: one thread."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self.c = lib.rmt_owners_new(core)
        if self.c == ffi.NULL:
            raise MemoryError("no memory for the accounting pass")
        self._children = ffi.new("uint64_t[]", VISIT_NODES_MAX * _FANOUT_MAX)
        self._number = ffi.new("uint64_t *")
        self._failed = ffi.new("uint64_t *")
        self._owner = ffi.new("uint32_t *")
        try:
            self.add(0)
        except MemoryError:
            self.close()
            raise

    def close(self) -> None:
        if self.c is not None:
            lib.rmt_owners_free(self.c)
            self.c = None

    def add_ids(self, ids: bytes) -> None:
        """u64s in native order, ascending over all calls: the nodes that there are."""
        if lib.rmt_owners_add_ids(self.c, ffi.from_buffer("uint64_t[]", ids), len(ids) // 8):
            raise MemoryError("no memory for the accounting pass, or node ids out of order")

    def add(self, parent: int) -> int:
        """A new owner below ``parent``; returns its number."""
        if lib.rmt_owners_add(self.c, parent, self._owner):
            raise MemoryError("no memory for the accounting pass")
        return self._owner[0]  # type: ignore[no-any-return]

    def common(self, a: int, b: int) -> int:
        """The lowest owner that both lie below, or are."""
        status = lib.rmt_owners_common(self.c, a, b, self._owner)
        assert not status
        return self._owner[0]  # type: ignore[no-any-return]

    def enter(self, node_id: int, owner: int) -> bool:
        """The owner reaches the node: whether what is below has to be visited for it.  KeyError
        when there is no such node."""
        status = lib.rmt_owners_enter(self.c, node_id, owner)
        if status == lib.RMT_UNKNOWN:
            raise KeyError(node_id)
        if status == lib.RMT_NOMEM:
            raise MemoryError("no memory for the accounting pass")
        return bool(status == lib.RMT_OK)

    def visit(self, owner: int, nodes: list[tuple[int, memoryview]]) -> list[int]:
        """What stored nodes map is ``owner``'s too; returns the children to visit for it."""
        assert len(nodes) <= VISIT_NODES_MAX
        views = [ffi.from_buffer("uint8_t[]", raw) for _, raw in nodes]
        status = lib.rmt_owners_visit(
            self._core, self.c, owner, [node_id for node_id, _ in nodes], views,
            [len(view) for view in views], len(nodes), self._children, self._number, self._failed,
        )  # fmt: skip
        if status:
            raise CorruptNode(self._failed[0])
        return list(self._children[0 : self._number[0]])

    @property
    def deduped(self) -> int:
        """Blocks that files wrote and that are in a slot which another such block is in as well."""
        return lib.rmt_owners_deduped(self.c)  # type: ignore[no-any-return]

    def sums(self) -> "array.array[int]":
        """By owner: slots that are its own or an owner's below it, and nobody else's."""
        sums = array.array("Q", bytes(8 * (lib.rmt_owners_count(self.c) + 1)))
        view = ffi.from_buffer("uint64_t[]", sums, require_writable=True)
        lib.rmt_owners_sums(self._core, self.c, view)
        return sums
