"""What the hot path reports, besides OSError, MemoryError and ValueError."""

from collections.abc import Sequence


class NativeError(Exception):
    """Base of what the hot path reports, besides OSError and MemoryError."""


class CorruptNode(NativeError):
    """A stored node is missing or fails its check."""

    def __init__(self, node_id: int) -> None:
        super().__init__(f"node {node_id} is missing or fails its check")
        self.node_id = node_id


class CorruptBlock(NativeError):
    """A block's content does not have the checksum its map says."""

    def __init__(self, block: int, address: int) -> None:
        super().__init__(f"block {block} in slot {address} fails its check")
        self.block = block
        self.address = address


class NeedSlab(NativeError):
    """Too few free slots: add a slab and call again.  Nothing was changed."""


class Cold(Exception):
    """What a call needs is not in memory, and it was told not to wait.  Nothing was changed.

    Have a thread wait for it (``Core.warm`` for slots, LMDB for a node), then call again.  No
    NativeError: it says nothing about the store, and who does not expect it must not handle it.
    """

    def __init__(self, slots: Sequence[int] = (), node: int = 0) -> None:
        super().__init__(f"cold: node {node}" if node else f"cold: {len(slots)} slots")
        self.slots = slots
        self.node = node
