"""XDR (RFC 4506): what is read from a record, and what an answer is made of.

A length that a stranger sends allocates nothing: what it counts must be there, in the record, and
is handed out as a view of it. An answer is a list of parts, so a megabyte of file data goes from
the engine to the socket without a copy.
"""

import struct
from typing import Any

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4
Part = bytes | bytearray | memoryview


class Garbage(Exception):
    """The arguments are no XDR of what was called (RFC 5531: GARBAGE_ARGS)."""


class Unpacker:
    """Reads a record from ``at`` on; Garbage when it ends too early or a value makes no sense."""

    __slots__ = ("at", "data")

    def __init__(self, data: memoryview, at: int = 0) -> None:
        self.data = data
        self.at = at

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.at

    def u32(self) -> int:
        try:
            value: int = _U32.unpack_from(self.data, self.at)[0]
        except struct.error:
            raise Garbage("a record was cut short") from None
        self.at += 4
        return value

    def u64(self) -> int:
        try:
            value: int = _U64.unpack_from(self.data, self.at)[0]
        except struct.error:
            raise Garbage("a record was cut short") from None
        self.at += 8
        return value

    def i64(self) -> int:
        try:
            value: int = _I64.unpack_from(self.data, self.at)[0]
        except struct.error:
            raise Garbage("a record was cut short") from None
        self.at += 8
        return value

    def take(self, form: struct.Struct) -> tuple[Any, ...]:
        """Several values of fixed size at once; the form's length is a multiple of four."""
        try:
            values = form.unpack_from(self.data, self.at)
        except struct.error:
            raise Garbage("a record was cut short") from None
        self.at += form.size
        return values

    def packed(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Several values at once; big-endian, and a multiple of four bytes."""
        try:
            values = layout.unpack_from(self.data, self.at)
        except struct.error:
            raise Garbage("a record was cut short") from None
        self.at += layout.size
        return values

    def boolean(self) -> bool:
        """Anything but 0 and 1 is Garbage (RFC 4506, 4.4)."""
        value = self.u32()
        if value > 1:
            raise Garbage(f"{value} is no boolean")
        return bool(value)

    def fixed(self, length: int) -> memoryview:
        """Opaque data of a known length, and its padding."""
        end = self.at + length
        padded = end + (-length & 3)
        if padded > len(self.data):
            raise Garbage("a record was cut short")
        view = self.data[self.at : end]
        self.at = padded
        return view

    def opaque(self, most: int) -> memoryview:
        """Opaque data with its length before it; Garbage when longer than ``most`` bytes."""
        length = self.u32()
        if length > most:
            raise Garbage(f"{length} bytes where {most} are the most")
        return self.fixed(length)

    def count(self, most: int) -> int:
        """The length of an array; Garbage above ``most`` or what the record can hold."""
        value = self.u32()
        if value > most or value * 4 > self.left:
            raise Garbage(f"{value} items where {most} are the most")
        return value

    def end(self) -> None:
        """Garbage when the record has more than was asked of it."""
        if self.left:
            raise Garbage(f"{self.left} bytes too many")


class Packer:
    """An answer in the making: parts, in order."""

    __slots__ = ("parts", "promised")

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.promised = 0  # bytes that may come yet, of a call that waits

    def u32(self, value: int) -> None:
        self.parts.append(_U32.pack(value))

    def u64(self, value: int) -> None:
        self.parts.append(_U64.pack(value))

    def boolean(self, value: bool) -> None:
        self.parts.append(_U32.pack(value))

    def raw(self, data: Part) -> None:
        """XDR that is made already; its length is a multiple of four."""
        self.parts.append(data)

    def fixed(self, data: Part) -> None:
        """Opaque data without a length, and its padding."""
        self.parts.append(data)
        if len(data) & 3:
            self.parts.append(_PADDING[len(data) & 3])

    def opaque(self, data: Part) -> None:
        """A length, the data, its padding."""
        self.parts.append(_U32.pack(len(data)))
        self.fixed(data)

    def later(self) -> int:
        """A place for a u32 that is known later; ``settle`` it."""
        self.parts.append(b"\0\0\0\0")
        return len(self.parts) - 1

    def settle(self, place: int, value: int) -> None:
        self.parts[place] = _U32.pack(value)

    def mark(self) -> int:
        """Where the answer is now; ``rewind`` forgets all that came after."""
        return len(self.parts)

    def rewind(self, mark: int) -> None:
        del self.parts[mark:]

    def size(self, mark: int = 0) -> int:
        """Bytes since a mark."""
        return sum(map(len, self.parts[mark:]))
