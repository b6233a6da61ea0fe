"""The duplicate-request cache: a call that is sent twice is carried out once.

A client whose connection was lost sends its calls again, over another one; a CREATE or REMOVE that
is carried out twice fails the second time.  So programs name calls that have an entry here from
before they begin: a duplicate of one in progress is answered when that ends, on the connection
that asked last; one of a finished call gets the same answer again.  (Juszczak, "Improving the
Performance and Correctness of an NFS Server", USENIX 1989.)

An entry is known by who calls (an address: ports change), xid, procedure, and length and checksum
of the whole record, since clients behind one address do not agree on xids: two WRITEs that differ
in their last byte are two.  Bounded by count and bytes; the oldest finished entries go first.
"""

import struct
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from nfsgw.rpc import Call
from nfsgw.xdr import Part

ENTRIES_MAX = 16_384
BYTES_MAX = 4 << 20


class Checksum(Protocol):
    """What records are known by (native.Core has one)."""

    def hash(self, data: memoryview) -> int: ...

    def hash_pieces(self, data: memoryview, pieces: memoryview, count: int) -> list[int]:
        """Of parts of ``data``: an array of offset (u64, not looked at), size and place (u32)."""
        ...


class Crc32:
    """A Checksum for whom a client may find two records that are one."""

    @staticmethod
    def hash(data: memoryview) -> int:
        return zlib.crc32(data)

    @staticmethod
    def hash_pieces(data: memoryview, pieces: memoryview, count: int) -> list[int]:
        told = islice(struct.iter_unpack("=QII", pieces), count)
        return [zlib.crc32(data[at : at + size]) for _, size, at in told]


@dataclass(slots=True)
class Entry:
    """A call; ``answer`` None: in progress.  ``asker``: the connection that asked last."""

    key: Hashable
    asker: Any
    answer: list[Part] | None = None


class ReplayCache:
    """The calls of all connections of a server."""

    def __init__(
        self, checksum: Checksum | None = None,
        entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX,
    ) -> None:  # fmt: skip
        self._checksum = checksum or Crc32()
        self._entries_max, self._bytes_max = entries_max, bytes_max
        self._bytes = 0
        self._running: dict[Hashable, Entry] = {}
        self._finished: OrderedDict[Hashable, bytes] = OrderedDict()

    def key(self, call: Call, record: memoryview) -> Hashable:
        what = call.program, call.version, call.procedure
        checksum = self._checksum.hash(record)
        return call.peer.address.packed, call.xid, what, len(record), checksum

    def keys(
        self, address: bytes, xids: Sequence[int], what: tuple[int, int, int],
        received: memoryview, records: memoryview,
    ) -> list[Hashable]:  # fmt: skip
        """Of calls of (program, version, procedure); ``records`` as ``hash_pieces`` has them."""
        count = len(xids)
        sizes = records.cast("I")[2 : 4 * count : 4].tolist()
        sums = self._checksum.hash_pieces(received, records, count)
        return [
            (address, xid, what, size, checksum)
            for xid, size, checksum in zip(xids, sizes, sums, strict=True)
        ]

    def new(self, keys: Sequence[Hashable]) -> int:
        """How many calls, from the first on, are nobody's duplicates."""
        met: set[Hashable] = set()
        for number, key in enumerate(keys):
            if key in self._finished or key in self._running or key in met:
                return number
            met.add(key)
        return len(keys)

    def find(self, key: Hashable) -> Entry | None:
        """The entry of an equal call, in progress or finished."""
        entry = self._running.get(key)
        if entry is None and (answer := self._finished.get(key)) is not None:
            return Entry(key, None, [answer])
        return entry

    def begin(self, key: Hashable, asker: Any) -> Entry:
        entry = self._running[key] = Entry(key, asker)
        return entry

    def finish(self, entry: Entry, answer: list[Part]) -> None:
        """The call has ended with this answer, an own copy of which is kept."""
        del self._running[entry.key]
        kept = b"".join(answer)
        entry.answer = [kept]
        self._finished[entry.key] = kept
        self._bytes += len(kept)
        self._shrink()

    def done(self, keys: Sequence[Hashable], answers: Sequence[bytes]) -> None:
        """Calls that were carried out at once, and their answers, without marks."""
        self._finished.update(zip(keys, answers, strict=True))
        self._bytes += sum(map(len, answers))
        self._shrink()

    def _shrink(self) -> None:
        while len(self._finished) > self._entries_max or self._bytes > self._bytes_max:
            _, oldest = self._finished.popitem(last=False)
            self._bytes -= len(oldest)

    def forget(self, entry: Entry) -> None:
        """The call was not carried out: sent again, it begins anew."""
        del self._running[entry.key]
