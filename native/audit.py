"""The typed door to ``audit.c``: what passes over a whole store ask of stored nodes and slots.

An ``Audit`` knows a store's constants only; its methods run on any thread and let go of the GIL
while C works.  Shared by scrub, fsck and the rebuild of the index.
"""

from typing import Any

from native import EXTENT_FANOUT, HOLE, Core
from native._core import ffi, lib
from native.cache import Buffer

BAD: int = lib.RMT_BAD
UNREADABLE: int = lib.RMT_UNREADABLE
_unset = ffi.new_allocator(should_clear_after_alloc=False)


class Window:
    """What maps say of a run of slots: which are mapped, and with which checksum."""

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.count = count
        self.addresses: Any = _unset("uint64_t[]", count)
        self.checksums: Any = _unset("uint64_t[]", count)

    def move(self, first: int, count: int) -> None:
        """Stand for other slots, no more than at first; ``clear`` it then."""
        assert count <= len(self.addresses)
        self.first, self.count = first, count

    def clear(self) -> None:
        """Call first, on a thread: it is megabytes."""
        lib.rmt_audit_clear(self.addresses, self.count)

    def mapped(self, start: int, count: int) -> list[int]:
        """Indices of the slots of a part that are mapped."""
        part = self.addresses[start : start + count]
        return [start + i for i in range(count) if part[i] != HOLE]


class Audit:
    """Checks of stored nodes and slots of one store."""

    def __init__(self, *, hash_seed: int, fanout: int, slab_slots: int) -> None:
        assert 4 <= fanout <= EXTENT_FANOUT
        self._shape = ffi.new("rmt_shape *", (hash_seed, fanout, slab_slots))
        self.fanout = fanout
        self.slab_slots = slab_slots
        self._found = ffi.new("uint32_t[]", fanout)

    def sound(self, node_id: int, node: Buffer) -> bool:
        """Whether a stored node is whole: kind, length, its own id, checksum."""
        view = ffi.from_buffer(node)
        status: int = lib.rmt_audit_node(self._shape, node_id, view, len(node))
        return status == 0

    def claim(self, leaf: Buffer, window: Window) -> None:
        """Enter the slots of a sound leaf into a window, as far as they lie in it."""
        lib.rmt_audit_claim(
            self._shape, ffi.from_buffer(leaf), window.first, window.count,
            window.addresses, window.checksums,
        )  # fmt: skip

    def find(self, leaf: Buffer, wanted: bytearray) -> list[int]:
        """Which entries of a sound leaf name a wanted slot (one bit each), or none there is."""
        count = lib.rmt_audit_find(
            self._shape, ffi.from_buffer(leaf), ffi.from_buffer(wanted), 8 * len(wanted),
            self._found,
        )  # fmt: skip
        return list(self._found[0:count])

    def tally(
        self, leaf: Buffer, *, alone: bool, mapped: bytearray, again: bytearray, owned: bytearray
    ) -> int:  # fmt: skip
        """Note the slots of a sound leaf in three bitmaps; returns how many entries are none."""
        count: int = lib.rmt_audit_tally(
            self._shape, ffi.from_buffer(leaf), alone, 8 * len(mapped), ffi.from_buffer(mapped),
            ffi.from_buffer(again), ffi.from_buffer(owned),
        )  # fmt: skip
        return count

    def verify(
        self, fd: int, addresses: Any, checksums: Any, start: int, count: int, scratch: Buffer
    ) -> tuple[int, list[tuple[int, int]]]:
        """Read and check up to ``count`` entries, all of one slab, holes skipped.

        Returns how many were checked, and (index, verdict) of each that is bad.
        """
        verdicts = ffi.new("uint8_t[]", count)
        buffer = ffi.from_buffer("uint8_t[]", scratch, require_writable=True)
        checked = lib.rmt_audit_verify(
            self._shape, fd, addresses + start, checksums + start, count, buffer,
            len(buffer) // lib.RMT_BLOCK, verdicts,
        )  # fmt: skip
        found = bytes(ffi.buffer(verdicts))
        if not any(found):
            return checked, []
        return checked, [(start + i, verdict) for i, verdict in enumerate(found) if verdict]


def pairs(entries: list[tuple[int, int]]) -> tuple[Any, Any]:
    """(addresses, checksums) as ``verify`` takes them."""
    return (
        ffi.new("uint64_t[]", [address for address, _ in entries]),
        ffi.new("uint64_t[]", [checksum for _, checksum in entries]),
    )


def index_window(core: Core, domain: int, window: Window, start: int, count: int) -> None:
    """Engine thread: enter what a window says into the fingerprint index, for a dedup domain."""
    addresses, checksums = window.addresses + start, window.checksums + start
    lib.rmt_index_claims(core.pointer, domain, addresses, checksums, count)


def set_shared(core: Core, address: int) -> None:
    """A slot may have more than one reference from now on: nobody frees it at once."""
    assert lib.rmt_set_shared(core.pointer, address) == lib.RMT_OK
