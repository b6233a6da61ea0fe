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

import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from nfsgw.rpc import Call
from nfsgw.xdr import Part

ENTRIES_MAX = 16_384
BYTES_MAX = 4 << 20


@dataclass(slots=True)
class Entry:
    """A call; ``answer`` None: in progress.  ``asker``: the connection that asked last."""

    key: Hashable
    asker: Any
    answer: list[Part] | None = None
    size: int = 0


class ReplayCache:
    """The calls of all connections of a server."""

    def __init__(
        self, checksum: Callable[[memoryview], int] = zlib.crc32,
        entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX,
    ) -> None:  # fmt: skip
        self._checksum = checksum
        self._entries_max, self._bytes_max = entries_max, bytes_max
        self._bytes = 0
        self._running: dict[Hashable, Entry] = {}
        self._finished: OrderedDict[Hashable, Entry] = OrderedDict()

    def key(self, call: Call, record: memoryview) -> Hashable:
        what = call.program, call.version, call.procedure
        return self.key_of(call.peer.address.packed, call.xid, what, record)

    def key_of(
        self, address: bytes, xid: int, what: tuple[int, int, int], record: memoryview
    ) -> Hashable:  # fmt: skip
        """Of a call of (program, version, procedure)."""
        return address, xid, what, len(record), self._checksum(record)

    def find(self, key: Hashable) -> Entry | None:
        """The entry of an equal call, in progress or finished."""
        return self._running.get(key) or self._finished.get(key)

    def begin(self, key: Hashable, asker: Any) -> Entry:
        entry = self._running[key] = Entry(key, asker)
        return entry

    def finish(self, entry: Entry, answer: list[Part]) -> None:
        """The call has ended with this answer, an own copy of which is kept."""
        del self._running[entry.key]
        entry.answer = [b"".join(answer)]
        entry.size = len(entry.answer[0])
        self._keep(entry)

    def done(self, key: Hashable, answer: list[Part], size: int) -> None:
        """A call that was carried out at once; the answer is kept as it is."""
        self._keep(Entry(key, None, answer, size))

    def _keep(self, entry: Entry) -> None:
        self._finished[entry.key] = entry
        self._bytes += entry.size
        while len(self._finished) > self._entries_max or self._bytes > self._bytes_max:
            _, oldest = self._finished.popitem(last=False)
            self._bytes -= oldest.size

    def forget(self, entry: Entry) -> None:
        """The call was not carried out: sent again, it begins anew."""
        del self._running[entry.key]
