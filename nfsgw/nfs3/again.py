"""READ and WRITE, the second time: what a client says again and again is looked up, not read.

All of such a call but its last words - who calls, the procedure, the credential, the handle - is
the same each time a client reads or writes a file.  So those bytes are known, once a call was read
and carried out as every call is, as the place that they mean.  Of what a connection has received,
the calls that begin so, one after the other, are carried out in one step: READs, and WRITEs that
are UNSTABLE, of which those of bytes that follow each other are one write (again.c takes out their
numbers, and puts their answers together).

Nothing that may change is remembered: the exports, the volume, the inode, and whether the mode
still gives the right are looked at each time, and whatever is not as it was goes the long way
(nfs3/contents.py), which also says what is wrong.
"""

import struct
from collections.abc import Iterable, Iterator

from engine.cold import Cold
from engine.superblock import BLOCK_BYTES
from native import Pieces
from nfsgw._again import ffi, lib
from nfsgw.buffers import BUFFER_BYTES
from nfsgw.files import READ_BYTES_MAX, Files, Place
from nfsgw.nfs3.attributes import POST_OP_BYTES, PRE_OP_BYTES, post_op, pre_op
from nfsgw.nfs3.protocol import FAILURES, IO_BYTES_MAX, PROGRAM, VERSION, Procedure
from nfsgw.replay import ReplayCache
from nfsgw.rpc import AUTH_BYTES_MAX, Answered, Call, Peer
from nfsgw.verifier import VERIFIER_BYTES

KNOWN_MAX = 64  # files of a connection
CALLS_MAX = 64  # in one step
READ_STEP_BYTES_MAX = BUFFER_BYTES  # of answers
WRITE_STEP_BYTES_MAX = 1 << 20  # of data
GATHERED_MAX = 256 << 10  # bytes of WRITEs that are copied together, where blocks are cut
_FIRST = 8  # of a record that is compared; the mark and the xid are before it
_CREDENTIAL = struct.Struct(">I")  # how long it is,
_CREDENTIAL_AT = 32  # which is said there
_BARE_BYTES = 96  # up to the arguments that differ, but for the credential's body: our handle
_READ_BYTES = 12  # offset, count
_ALONE = ((0, 1),)
_WRITE = PROGRAM, VERSION, int(Procedure.WRITE)
_FAILURES = (Cold, *FAILURES)  # the long way tells them, or waits until there is room

assert (lib.NFS_POST_OP, lib.NFS_PRE_OP, lib.NFS_VERIFIER) == (
    POST_OP_BYTES, PRE_OP_BYTES, VERIFIER_BYTES,
)  # fmt: skip


class Known:
    """What the beginning of a call means, as long as the exports are these."""

    __slots__ = ("_attributes", "_now", "changed_ns", "place")

    def __init__(self, changed_ns: int, place: Place) -> None:
        self.changed_ns = changed_ns
        self.place = place
        self._now: tuple[int, ...] = ()
        self._attributes = b""

    def attributes(self) -> bytes:
        """post_op_attr of a file; it is put together again when something of it has changed."""
        inode = self.place.inode
        now = (
            inode.size, inode.mtime_ns, inode.ctime_ns, inode.atime_ns, inode.blocks, inode.mode,
            inode.nlink, inode.uid, inode.gid,
        )  # fmt: skip
        if now != self._now:
            self._now, self._attributes = now, post_op(self.place)
        return self._attributes


def remember(files: Files, call: Call, beginning: memoryview, place: Place) -> None:
    """A READ or WRITE that was carried out: its record up to the end of the handle."""
    memo = call.peer.memo
    if len(memo) >= KNOWN_MAX:
        memo.clear()
    memo[bytes(beginning[_FIRST - 4 :])] = Known(files.exports.changed_ns, place)


class ShortWays:
    """Those of a store's exports."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._xids = ffi.new("uint32_t[]", CALLS_MAX)
        self._pieces = ffi.new("nfs_piece[]", CALLS_MAX)
        self._told = memoryview(ffi.buffer(self._pieces))
        self._offsets, self._words = self._told.cast("Q"), self._told.cast("I")
        self._records = ffi.new("nfs_piece[]", CALLS_MAX)
        self._of_records = memoryview(ffi.buffer(self._records)).cast("I")
        self._total = ffi.new("uint32_t *")
        self._answers = ffi.new("uint8_t[]", CALLS_MAX * lib.NFS_WRITE_ANSWER)
        self._gathered = bytearray(GATHERED_MAX)

    def read(self, received: memoryview, peer: Peer, replay: ReplayCache) -> Answered | None:
        """An Again."""
        end = self._end(received)
        known = self._known(received[_FIRST:end], peer)
        if known is None:
            return None
        place = known.place
        inode, volume = place.inode, place.volume
        xids, pieces, total = self._xids, self._pieces, self._total
        try:
            self._files.check_read(place)
            size = inode.size
            count = lib.nfs_reads(
                ffi.from_buffer("uint8_t[]", received), len(received), end, size, READ_BYTES_MAX,
                READ_STEP_BYTES_MAX, CALLS_MAX, xids, pieces, total,
            )  # fmt: skip
            if not count:
                return None
            out = self._files.buffers.take(total[0])
            count = volume.read_pieces(inode.ino, self._told, count, out)
        except _FAILURES:
            return None
        if not count:
            return None
        length = lib.nfs_read_answers(
            xids, pieces, count, known.attributes(), size,
            ffi.from_buffer("uint8_t[]", out, require_writable=True),
        )  # fmt: skip
        return Answered(count * (end + _READ_BYTES), count, out[:length])

    def write(self, received: memoryview, peer: Peer, replay: ReplayCache) -> Answered | None:
        """An Again."""
        end = self._end(received)
        known = self._known(received[_FIRST:end], peer)
        if known is None:
            return None
        place, gate = known.place, self._files.gate
        if gate.crowded() or gate.unsettled() or not self._may_write(place):
            return None
        xids, records = self._xids, self._records
        count = lib.nfs_writes(
            ffi.from_buffer("uint8_t[]", received), len(received), end, IO_BYTES_MAX,
            WRITE_STEP_BYTES_MAX, CALLS_MAX, xids, self._pieces, records, self._total,
        )  # fmt: skip
        if not count:
            return None
        keys = replay.keys(
            peer.address.packed, ffi.unpack(xids, count), _WRITE, received, self._of_records
        )  # fmt: skip
        before = pre_op(place.inode)
        count = self._write_runs(place, received, replay.new(keys))
        if not count:
            return None
        answers = self._written(place, count, before)
        size = lib.NFS_WRITE_ANSWER
        replay.done(
            keys[:count], [answers[at + 4 : at + size] for at in range(0, len(answers), size)]
        )
        last = records[count - 1]
        return Answered(last.at + last.size, count, answers)

    def _may_write(self, place: Place) -> bool:
        """And nobody has to be told of it before it is answered."""
        if self._files.gate.watched(place.volume.id, place.inode.ino):
            return False
        try:
            self._files.check_write(place)
        except _FAILURES:
            return False
        return True

    def _write_runs(self, place: Place, received: memoryview, count: int) -> int:
        """Write the data of WRITEs, those that follow each other at once; how many were, until one
        has to go the long way."""
        done = 0
        try:
            for first, end in self._runs(place, count):
                data = self._data(received, first, end)
                self._files.write(place, self._offsets[2 * first], data, wait=False)
                done = end
        except _FAILURES:
            pass
        return done

    def _runs(self, place: Place, count: int) -> Iterable[tuple[int, int]]:
        """WRITEs that are one write: from the first to before the next.

        Their bytes follow each other in the file.  Whole blocks, as many in each, are taken from
        where they are; others are few enough to be copied.
        """
        return _ALONE if count == 1 else self._runs_of_many(place, count)

    def _runs_of_many(self, place: Place, count: int) -> Iterator[tuple[int, int]]:
        offsets = self._offsets[: 2 * count : 2].tolist()
        sizes = self._words[2 : 4 * count : 4].tolist()
        pieces_max = place.volume.pool.core.call_bytes
        first = 0
        while first < count:
            size = length = sizes[first]
            whole = not (offsets[first] | size) % BLOCK_BYTES
            end = first + 1
            while (
                end < count
                and offsets[end] == offsets[first] + length
                and length + sizes[end] <= (pieces_max if whole else GATHERED_MAX)
                and (not whole or sizes[end] == size)
            ):
                length += sizes[end]
                end += 1
            yield first, end
            first = end

    def _data(self, received: memoryview, first: int, end: int) -> memoryview | Pieces:
        """What the WRITEs of a run write."""
        size, at = self._words[4 * first + 2 : 4 * first + 4]
        if end == first + 1:
            return received[at : at + size]
        if not (self._offsets[2 * first] | size) % BLOCK_BYTES:
            stride = self._words[4 * first + 7] - at
            return Pieces(received[at:], size, stride, end - first)
        lib.nfs_gather(
            ffi.from_buffer("uint8_t[]", received), self._pieces + first, end - first,
            ffi.from_buffer("uint8_t[]", self._gathered),
        )  # fmt: skip
        last = 2 * (end - 1)
        length = self._offsets[last] + self._words[2 * last + 2] - self._offsets[2 * first]
        return memoryview(self._gathered)[:length]

    def _written(self, place: Place, count: int, before: bytes) -> bytes:
        """The answers to WRITEs of one step; each but the first met what is now there."""
        between = pre_op(place.inode) if count > 1 else before
        lib.nfs_write_answers(
            self._xids, self._pieces, count, before, between, post_op(place),
            self._files.verifier.current(), self._answers,
        )  # fmt: skip
        return ffi.buffer(self._answers, count * lib.NFS_WRITE_ANSWER)[:]  # type: ignore[no-any-return]

    @staticmethod
    def _end(received: memoryview) -> int:
        """Where the beginning of a call ends, if it is one of ours; otherwise anywhere."""
        try:
            length: int = _CREDENTIAL.unpack_from(received, _CREDENTIAL_AT)[0]
        except struct.error:
            return 0
        return _BARE_BYTES + length if length <= AUTH_BYTES_MAX else 0

    def _known(self, beginning: memoryview, peer: Peer) -> Known | None:
        """What is known of a call that begins so, if it still is so."""
        known: Known | None = peer.memo.get(bytes(beginning))
        if known is None or known.changed_ns != self._files.exports.changed_ns:
            return None
        place = known.place
        volume = place.volume
        try:
            if volume.removed or volume.inode(place.inode.ino) is not place.inode:
                return None
        except _FAILURES:
            return None
        return known
