"""READ, the second time: what a client says again and again is looked up instead of read.

All of a READ but its last twelve bytes - who calls, the procedure, the credential, the handle - is
the same each time a client reads a file.  So those bytes are known, once a READ was read and
carried out as every call is, as the place that they mean; another that begins so needs no more than
its offset and count.  Nothing that may change is remembered: the exports, the volume, the inode,
and whether the mode still gives the right are looked at for each call, and whatever is not as it
was goes the long way (nfs3/contents.py), which also says what is wrong.
"""

import struct
from typing import NamedTuple

from engine import errors
from engine.cold import Cold
from nfsgw.buffers import LARGE_BYTES
from nfsgw.files import Files, Place
from nfsgw.nfs3.attributes import POST_OP_BYTES, post_op
from nfsgw.record import LAST, Marked
from nfsgw.rpc import ACCEPTED, AUTH_NONE, REPLY, SUCCESS, Call, Peer
from nfsgw.xdr import Part

KNOWN_MAX = 64  # files of a connection
_ARGUMENTS = struct.Struct(">QI")  # offset, count
_ANSWER = struct.Struct(f">8I{POST_OP_BYTES}s3I")  # mark, RPC, status; attributes; count, end, size
_FIRST = 4  # the xid is before it


class Known(NamedTuple):
    """What the beginning of a READ means, as long as the exports are these."""

    changed_ns: int
    place: Place


def remember(files: Files, call: Call, record: memoryview, place: Place) -> None:
    """A READ that was carried out, whose arguments were all of the record."""
    memo = call.peer.memo
    if len(memo) >= KNOWN_MAX:
        memo.clear()
    head = bytes(record[_FIRST : len(record) - _ARGUMENTS.size])
    memo[head] = Known(files.exports.changed_ns, place)


def read_again(files: Files, record: memoryview, peer: Peer) -> list[Part] | None:
    """The answer; None: it has to go the long way."""
    end = len(record) - _ARGUMENTS.size
    known = peer.memo.get(bytes(record[_FIRST:end]))
    if known is None or known.changed_ns != files.exports.changed_ns:
        return None
    place = known.place
    volume, inode = place.volume, place.inode
    offset, count = _ARGUMENTS.unpack_from(record, end)
    try:
        if volume.removed or volume.inode(inode.ino) is not inode:
            return None
        files.check_read(place)
        size = files.readable(place, offset, count)
        if size >= LARGE_BYTES:
            return None
        answer = bytearray(_ANSWER.size + size + (-size & 3))
        if size:
            whole = memoryview(answer)
            files.read_into(place, offset, whole[_ANSWER.size : _ANSWER.size + size], wait=False)
    except (Cold, errors.RametError, OSError):
        return None
    _ANSWER.pack_into(
        answer, 0, LAST | len(answer) - 4, int.from_bytes(record[:_FIRST], "big"), REPLY, ACCEPTED,
        AUTH_NONE, 0, SUCCESS, 0, post_op(place), size, offset + size >= inode.size, size,
    )  # fmt: skip
    return Marked((answer,))
