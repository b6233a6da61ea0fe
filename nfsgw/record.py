"""Record marking (RFC 5531, 11): records out of a stream of fragments, and answers into one.

A record mostly is one fragment and fits the connection's buffer; it is copied out, for the buffer
is received into again while calls still look at their arguments.  A larger one, a WRITE, gets a
buffer of its own, from then on received into directly.  A client that sends more records at once
than the buffer holds has a large one instead of it until it pauses, as long as half of them are
left for what needs them.  Invariants:
- a length allocates nothing: a large buffer is taken when a whole small one of the record is there,
  or records that filled a small one;
- the large buffers of all connections together are bounded, and those of an address (``Buffers``),
  those of records in several fragments too (a client whose such record is one too many is let go);
  and one that anything still refers to is never used again: a bytearray that is looked at refuses
  to grow.
"""

import struct
from collections.abc import Iterable

from trio.lowlevel import ParkingLot

from nfsgw.quotas import Portion, Quota
from nfsgw.xdr import Garbage, Part

RECORD_BYTES_MAX = (1 << 20) + 8192  # a megabyte of data, and the head of a call or a compound
BUFFER_BYTES = 136 << 10  # two calls with 64 KiB of data
LARGE_BUFFERS_MAX = 128
SPARE_BUFFERS_MAX = 8
FRAGMENTS_MAX = 1024
JOIN_BYTES_MAX = 16_384  # smaller parts are cheaper to copy than to hand to the kernel one by one
LAST = 1 << 31
_MARK = struct.Struct(">I")
_NOTHING = memoryview(b"")


class Buffers:
    """Large buffers, some kept for the next record.  Each is some address's (a ``Portion``), which
    has one unless that is ``full``."""

    def __init__(self, most: int = LARGE_BUFFERS_MAX) -> None:
        self._quota = Quota(most)
        self._spare: list[bytearray] = []
        self._waiting: dict[Portion, ParkingLot] = {}

    @property
    def left(self) -> int:
        """How many are nobody's."""
        return self._quota.left

    def of(self, address: bytes) -> Portion:
        """Those of an address."""
        return self._quota.of(address)

    def plenty(self, mine: Portion) -> bool:
        """Whether one can be had for what does not need it."""
        return mine.beyond((self._quota.most + 1) // 2)

    def take(self, mine: Portion) -> bytearray:
        assert not mine.full
        mine.add(1)
        if self._spare:
            return self._spare.pop()
        return bytearray(RECORD_BYTES_MAX)

    def give(self, buffer: bytearray, mine: Portion) -> None:
        """It is not needed any more, by who took it."""
        mine.add(-1)
        self.wake()
        if len(self._spare) >= SPARE_BUFFERS_MAX or len(buffer) < RECORD_BYTES_MAX:
            return
        try:
            buffer.append(0)
        except BufferError:
            return  # somebody still looks at it
        buffer.pop()
        self._spare.append(buffer)

    def reserve(self, mine: Portion) -> None:
        """``take`` for a buffer that grows elsewhere; Garbage when there is none."""
        if mine.full:
            raise Garbage("too many large records in several fragments")
        mine.add(1)

    async def given(self, mine: Portion) -> None:
        """Wait until there is one, which another may take first."""
        lot = self._waiting.setdefault(mine, ParkingLot())
        try:
            await lot.park()
        finally:
            if not lot and self._waiting.get(mine) is lot:
                del self._waiting[mine]

    def wake(self) -> None:
        """As many of each address as can have one now."""
        for mine, lot in self._waiting.items():
            lot.unpark(count=mine.room)


class Record:
    """A record; ``buffer``: the large one it is in, to be given back when its call has ended."""

    __slots__ = ("buffer", "view")

    def __init__(self, view: memoryview, buffer: bytearray | None = None) -> None:
        self.view = view
        self.buffer = buffer


class RecordReader:
    """Bytes in by ``space`` and ``received``, records out by ``next``."""

    __slots__ = (
        "_buffer", "_buffers", "_end", "_filled", "_fragments", "_large", "_length", "_pieces",
        "_small", "_start", "_stuck", "_wide", "portion",
    )  # fmt: skip

    def __init__(self, buffers: Buffers, address: bytes = b"") -> None:
        self._buffers = buffers
        self.portion = buffers.of(address)
        self._small = memoryview(bytearray(BUFFER_BYTES))
        self._wide: bytearray | None = None  # what ``_buffer`` is of, when it is not ``_small``
        self._buffer = self._small
        self._start = self._end = 0  # what is received and not read yet
        self._large: bytearray | None = (
            None  # the record being received, ``_filled`` of ``_length``
        )
        self._filled = self._length = 0
        self._stuck = False  # a large record is here that needs a buffer, and there is none
        self._pieces: bytearray | None = None  # a record of several fragments
        self._fragments = 0

    @property
    def partial(self) -> bool:
        """Whether a record has begun that has not ended."""
        return self._end > self._start or self._large is not None or self._pieces is not None

    @property
    def starved(self) -> bool:
        """Whether nothing can be received before there is a large buffer."""
        return self._stuck or (
            self._large is None and self._end - self._start == len(self._buffer)
        )  # fmt: skip

    @property
    def lacking(self) -> bool:
        """Whether a fragment has begun that is not here whole."""
        if self._large is not None:
            return self._filled < self._length
        there = self._end - self._start
        if there < 4:
            return there > 0
        (mark,) = _MARK.unpack_from(self._buffer, self._start)
        return there - 4 < mark & ~LAST  # type: ignore[no-any-return]

    @property
    def ahead(self) -> memoryview:
        """What was received and not read, from a record's mark on; valid until ``space``.  Empty
        unless that record is here whole, in one fragment."""
        start, end = self._start, self._end
        if end - start <= 4 or self._large is not None or self._pieces is not None:
            return _NOTHING
        (mark,) = _MARK.unpack_from(self._buffer, start)
        return self._buffer[start:end] if start + 4 + (mark ^ LAST) <= end else _NOTHING

    def skip(self, count: int) -> None:
        """Whole records of ``ahead`` were read."""
        self._start += count
        self._stuck = False

    def space(self) -> memoryview:
        """Where to receive into; not empty unless ``starved``."""
        if self._large is not None:
            return memoryview(self._large)[self._filled : self._length]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and self._end == len(self._buffer):
            self._make_room()
        return self._buffer[self._end :]

    def _make_room(self) -> None:
        """The beginning of a record is at the end of a buffer that had others before it."""
        there = self._buffer[self._start : self._end]
        if self._wide is None and self._buffers.plenty(self.portion):
            self._wide = self._buffers.take(self.portion)
            self._buffer = memoryview(self._wide)
        self._buffer[: len(there)] = there
        self._start, self._end = 0, len(there)

    def _narrow(self) -> bytearray:
        """Receive into the small buffer again; the large one, which there was."""
        wide = self._wide
        assert wide is not None
        self._wide, self._buffer = None, self._small
        return wide

    def rest(self) -> None:
        """Nothing will come for a while: give back what is only for much at once."""
        if self._wide is not None and self._start == self._end:
            self._start = self._end = 0
            self._buffers.give(self._narrow(), self.portion)

    def received(self, count: int) -> None:
        if self._large is not None:
            self._filled += count
        else:
            self._end += count

    def next(self) -> Record | None:
        """The next whole record; Garbage for one that is too large."""
        self._stuck = False
        if self._large is not None:
            return self._large_record()
        while self._end - self._start >= 4:
            (mark,) = _MARK.unpack_from(self._buffer, self._start)
            length, start = mark & ~LAST, self._start + 4
            pieces = self._pieces
            if length + (0 if pieces is None else len(pieces)) > RECORD_BYTES_MAX:
                raise Garbage(f"a record of more than {RECORD_BYTES_MAX} bytes")
            if mark & LAST and pieces is None:
                if self._end - start < length:
                    if length + 4 > BUFFER_BYTES:
                        self._begin_large(length)
                    return None
                if length + 4 > BUFFER_BYTES:
                    return self._large_of_wide(start, start + length)
                self._start = start + length
                return Record(memoryview(bytes(self._buffer[start : self._start])))
            if not self._piece(start, length):
                return None
            if mark & LAST:
                return self._joined()
        return None

    def _begin_large(self, length: int) -> None:
        there = self._buffer[self._start + 4 : self._end]
        if self._wide is not None:
            large = self._narrow()
        elif self.starved and not self.portion.full:
            large = self._buffers.take(self.portion)
        else:
            return
        with memoryview(large) as view:
            view[: len(there)] = there
        self._large, self._length, self._filled = large, length, len(there)
        self._start = self._end = 0

    def _large_of_wide(self, start: int, end: int) -> Record | None:
        """A large record that came whole, with what was before it: it gets the buffer, or one of
        its own where more is behind it than the small one holds."""
        behind = self._buffer[end : self._end]
        if len(behind) <= BUFFER_BYTES:
            self._small[: len(behind)] = behind
            large = self._narrow()
            self._start, self._end = 0, len(behind)
            return Record(memoryview(large)[start:end], large)
        self._stuck = self.portion.full
        if self._stuck:
            return None
        large = self._buffers.take(self.portion)
        view = memoryview(large)[: end - start]
        view[:] = self._buffer[start:end]
        self._start = end
        return Record(view, large)

    def _joined(self) -> Record:
        pieces = self._pieces
        assert pieces is not None
        large = len(pieces) > BUFFER_BYTES
        self._pieces, self._fragments = None, 0
        return Record(memoryview(pieces), pieces if large else None)

    def _large_record(self) -> Record | None:
        buffer = self._large
        assert buffer is not None
        if self._filled < self._length:
            return None
        self._large = None
        return Record(memoryview(buffer)[: self._length], buffer)

    def _piece(self, start: int, length: int) -> bool:
        """Take what is there of a fragment; whether that is all of it.  What is still to come of
        it gets a mark of its own, so that a fragment may be larger than the buffer."""
        if self._pieces is None:
            self._pieces = bytearray()
        there = min(self._end - start, length)
        if len(self._pieces) <= BUFFER_BYTES < len(self._pieces) + there:
            self._buffers.reserve(self.portion)
        self._pieces += self._buffer[start : start + there]
        self._start = start + there
        if there == length:
            self._fragments += 1
            if self._fragments > FRAGMENTS_MAX:
                raise Garbage(f"a record of more than {FRAGMENTS_MAX} fragments")
            return True
        (mark,) = _MARK.unpack_from(self._buffer, start - 4)
        self._start = 0
        _MARK.pack_into(self._buffer, 0, mark - there)
        self._end = 4
        return False

    def close(self) -> None:
        """The connection has ended."""
        self._start = self._end = 0
        if self._wide is not None:
            self._buffers.give(self._narrow(), self.portion)
        if self._large is not None:
            self._buffers.give(self._large, self.portion)
            self._large = None
        if self._pieces is not None and len(self._pieces) > BUFFER_BYTES:
            self._buffers.give(self._pieces, self.portion)
            self._pieces = None
        self._buffers.wake()  # it may have been told of one and not have taken it


def marked(parts: Iterable[Part]) -> list[Part]:
    """An answer as one fragment: small parts joined, large ones as they are."""
    found: list[Part] = []
    small: list[Part] = [b""]
    length = 0
    for part in parts:
        count = len(part)
        length += count
        if count < JOIN_BYTES_MAX:
            small.append(part)
        else:
            found.append(b"".join(small))
            found.append(part)
            small = []
    if small:
        found.append(b"".join(small))
    found[0] = _MARK.pack(LAST | length) + found[0]
    return found
