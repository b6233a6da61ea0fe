"""The duplicate-request cache: a call that is sent twice is carried out once.

A client whose connection was lost sends its calls again, over another one; a CREATE or REMOVE that
is carried out twice fails the second time.  So programs name calls that have an entry here from
before they begin: a duplicate of one in progress is answered when that ends, on the connection
that asked last; one of a finished call gets the same answer again.  (Juszczak, "Improving the
Performance and Correctness of an NFS Server", USENIX 1989.)

An entry is known by who calls (an address: ports change), xid, procedure, and length and checksum
of the whole record, since clients behind one address do not agree on xids: two WRITEs that differ
in their last byte are two.

Bounded by count and bytes.  Room is made by the address that has most (an entry is worth as many
bytes as there are for each), of whose entries the oldest goes, so nobody loses one to an address
that has more than he.  Who has most is looked for when an address gets more, and one other is
looked at each time: that takes no time, and finds who has it before long (quasi-pushout: Lin and
Shung, IEEE Communications Letters 1, 1997).
"""

import struct
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from nfsgw.rpc import Call
from nfsgw.xdr import Part

ENTRIES_MAX = 16_384
BYTES_MAX = 4 << 20

Key = bytes
"""xid, program, version, procedure, length, checksum; address."""
_CALL = struct.Struct("=IIIIIQ")
_NONE: Mapping[Key, bytes] = {}


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
        told = islice(struct.iter_unpack("=QII", pieces.cast("B")), count)
        return [zlib.crc32(data[at : at + size]) for _, size, at in told]


@dataclass(slots=True)
class Entry:
    """A call; ``answer`` None: in progress.  ``asker``: the connection that asked last."""

    key: Key
    asker: Any
    answer: list[Part] | None = None


class Finished:
    """The calls of an address that have ended, the oldest first; ``worth`` is in bytes."""

    __slots__ = ("address", "answers", "worth")

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.answers: OrderedDict[Key, bytes] = OrderedDict()
        self.worth = 0


class ReplayCache:
    """The calls of all connections of a server."""

    def __init__(
        self, checksum: Checksum | None = None,
        entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX,
    ) -> None:  # fmt: skip
        self._checksum = checksum or Crc32()
        self._entries_max, self._bytes_max = entries_max, bytes_max
        self._entry_bytes = max(bytes_max // entries_max, 1)
        self._entries = self._bytes = 0
        self._running: dict[Key, Entry] = {}
        self._ended: list[tuple[Sequence[Key], Sequence[bytes]]] = []  # see ``done``
        self._finished: OrderedDict[bytes, Finished] = OrderedDict()  # in the order of looks
        self._most = Finished(b"")  # has most, as far as was looked

    def key(self, call: Call, record: memoryview) -> Key:
        what = call.program, call.version, call.procedure
        checksum = self._checksum.hash(record)
        return _CALL.pack(call.xid, *what, len(record), checksum) + call.peer.address.packed

    def keys(
        self, address: bytes, xids: Sequence[int], what: tuple[int, int, int],
        received: memoryview, records: memoryview,
    ) -> list[Key]:  # fmt: skip
        """Of calls of (program, version, procedure); ``records``: as ``hash_pieces`` has them, of
        32-bit words."""
        count = len(xids)
        if count == 1:
            size, at = records[2], records[3]
            checksum = self._checksum.hash(received[at : at + size])
            return [_CALL.pack(xids[0], *what, size, checksum) + address]
        sizes = records[2 : 4 * count : 4].tolist()
        sums = self._checksum.hash_pieces(received, records, count)
        return [
            _CALL.pack(xid, *what, size, checksum) + address
            for xid, size, checksum in zip(xids, sizes, sums, strict=True)
        ]

    def new(self, keys: Sequence[Key]) -> int:
        """How many calls of an address, of which there is one, are nobody's duplicates from the
        first on."""
        self.settle()
        running, finished = self._running, self._answers(keys[0])
        if len(keys) == 1:
            return int(keys[0] not in finished and keys[0] not in running)
        met: set[Key] = set()
        for number, key in enumerate(keys):
            if key in finished or key in running or key in met:
                return number
            met.add(key)
        return len(keys)

    def _answers(self, key: Key) -> Mapping[Key, bytes]:
        """Those of the calls of its address that have ended."""
        found = self._finished.get(key[_CALL.size :])
        return _NONE if found is None else found.answers

    def find(self, key: Key) -> Entry | None:
        """The entry of an equal call, in progress or finished."""
        self.settle()
        entry = self._running.get(key)
        if entry is None and (answer := self._answers(key).get(key)) is not None:
            return Entry(key, None, [answer])
        return entry

    def begin(self, key: Key, asker: Any) -> Entry:
        entry = self._running[key] = Entry(key, asker)
        return entry

    def finish(self, entry: Entry, answer: list[Part]) -> None:
        """The call has ended with this answer, an own copy of which is kept."""
        self.settle()
        del self._running[entry.key]
        kept = b"".join(answer)
        entry.answer = [kept]
        mine = self._of(entry.key)
        mine.answers[entry.key] = kept
        self._more(mine, 1, len(kept))

    def done(self, keys: Sequence[Key], answers: Sequence[bytes]) -> None:
        """Calls of an address, one at least, that were carried out at once, and their answers,
        without marks.  They get their entries before anything is looked up, at ``settle`` at the
        latest."""
        self._ended.append((keys, answers))

    def settle(self) -> None:
        """What ``done`` has left to do: while the client reads its answers, this takes no time."""
        while self._ended:
            keys, answers = self._ended.pop(0)
            mine = self._of(keys[0])
            mine.answers.update(zip(keys, answers, strict=True))
            self._more(mine, len(keys), sum(map(len, answers)))

    def _of(self, key: Key) -> Finished:
        address = key[_CALL.size :]
        found = self._finished.get(address)
        if found is None:
            found = self._finished[address] = Finished(address)
        return found

    def _more(self, mine: Finished, entries: int, size: int) -> None:
        """An address has got more: room is made for it."""
        mine.worth += size + self._entry_bytes * entries
        entries += self._entries
        size += self._bytes
        most = self._richer(mine) if len(self._finished) > 1 else mine
        entries_max, bytes_max, each = self._entries_max, self._bytes_max, self._entry_bytes
        while entries > entries_max or size > bytes_max:
            if most.worth < mine.worth:
                most = mine
            least = 1 if most is mine else mine.worth
            worth, oldest = most.worth, most.answers.popitem
            while worth >= least and (entries > entries_max or size > bytes_max):
                gone = len(oldest(last=False)[1])
                entries -= 1
                size -= gone
                worth -= each + gone
            most.worth = worth
            if not most.answers:
                del self._finished[most.address]
        self._most, self._entries, self._bytes = most, entries, size

    def _richer(self, mine: Finished) -> Finished:
        """The one that had most, one that has got more, or the one whose turn it is to be looked
        at."""
        address, other = next(iter(self._finished.items()))
        self._finished.move_to_end(address)
        most = self._most if self._most.worth > mine.worth else mine
        return other if other.worth > most.worth else most

    def forget(self, entry: Entry) -> None:
        """The call was not carried out: sent again, it begins anew."""
        del self._running[entry.key]
