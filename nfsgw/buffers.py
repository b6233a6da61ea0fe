"""Buffers for what is read: large ones are used again.

The kernel takes longer to give a process a fresh megabyte, page by page, than we to fill it. A
buffer may be used again when nothing looks at it any more, and that is known without being told:
whoever holds a view of it - an answer in the making, or one waiting for its socket - holds a
reference to it, and CPython counts these.
"""

import sys

LARGE_BYTES = 1 << 15
BUFFER_BYTES = (1 << 20) + (16 << 10)  # the largest read, or many, with the heads of their answers
BUFFERS_MAX = 16
_FREE = 3  # references: the list's, the loop variable's, getrefcount's own


class Buffers:
    """Views of READ_BYTES_MAX at most; what is in them before they are filled is anything."""

    def __init__(self) -> None:
        self._buffers: list[bytearray] = []

    def take(self, size: int) -> memoryview:
        """A view of ``size`` bytes, all its own for as long as anybody has it."""
        if not LARGE_BYTES <= size <= BUFFER_BYTES:
            return memoryview(bytearray(size))
        for buffer in self._buffers:
            if sys.getrefcount(buffer) == _FREE:
                return memoryview(buffer)[:size]
        if len(self._buffers) >= BUFFERS_MAX:
            return memoryview(bytearray(size))  # no more than is counted while it waits to be sent
        buffer = bytearray(BUFFER_BYTES)
        self._buffers.append(buffer)
        return memoryview(buffer)[:size]
