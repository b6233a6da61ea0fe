"""An ONC RPC client: one connection, one thread; what the clients of MOUNT and NFS stand on.

``call`` is a call and its results; ``send`` and ``receive`` take them apart, for calls in flight
together.  Results are an Unpacker at their first word.
"""

import itertools
import socket
import struct
from collections.abc import Iterable
from types import TracebackType

from nfsgw.xdr import Packer, Unpacker

DEADLINE_S = 30
LAST_FRAGMENT = 1 << 31
_xids = itertools.count(0x5EED)


class RpcError(Exception):
    """The call was not carried out: ``kind`` is "denied" or "accepted", ``status`` its status;
    ``detail`` the words after it (versions, or an auth_stat)."""

    def __init__(self, kind: str, status: int, detail: tuple[int, ...]) -> None:
        super().__init__(f"{kind} {status} {detail}")
        self.kind, self.status, self.detail = kind, status, detail


def auth_sys(uid: int, gid: int, gids: Iterable[int] = (), machine: bytes = b"test") -> bytes:
    """A credential: flavor, length, body (RFC 5531, appendix A)."""
    body = Packer()
    body.u32(0)
    body.opaque(machine)
    body.u32(uid)
    body.u32(gid)
    groups = tuple(gids)
    body.u32(len(groups))
    for each in groups:
        body.u32(each)
    credential = Packer()
    credential.u32(1)
    credential.opaque(b"".join(body.parts))
    return b"".join(credential.parts)


AUTH_NONE = bytes(8)


def call_record(
    xid: int, program: int, version: int, procedure: int, arguments: bytes = b"",
    credential: bytes = AUTH_NONE,
) -> bytes:  # fmt: skip
    """The bytes of a call, without a record mark."""
    head = struct.pack(">6I", xid, 0, 2, program, version, procedure)
    return head + credential + bytes(8) + arguments


def marked(record: bytes) -> bytes:
    """A record in one fragment."""
    return struct.pack(">I", LAST_FRAGMENT | len(record)) + record


def results(record: bytes, xid: int | None = None) -> Unpacker:
    """What an accepted call has returned; RpcError for what was refused."""
    reply = Unpacker(memoryview(record))
    answered = reply.u32()
    assert xid in (None, answered), "the answer to another call"
    assert reply.u32() == 1, "no reply"
    if reply.u32():
        status = reply.u32()
        raise RpcError("denied", status, tuple(reply.u32() for _ in range(reply.left // 4)))
    reply.u32()
    reply.opaque(400)
    status = reply.u32()
    if status:
        raise RpcError("accepted", status, tuple(reply.u32() for _ in range(reply.left // 4)))
    return reply


class RpcClient:
    """A connection to ``address``.  ``uid`` None: AUTH_NONE; ``source``: from this address."""

    def __init__(
        self, address: tuple[str, int], *, uid: int | None = 0, gid: int = 0,
        gids: Iterable[int] = (), source: str | None = None,
    ) -> None:  # fmt: skip
        bound = None if source is None else (source, 0)
        self.socket = socket.create_connection(address, DEADLINE_S, bound)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.credential = AUTH_NONE if uid is None else auth_sys(uid, gid, gids)
        self._kept: dict[int, bytes] = {}  # answers to others of our calls

    def __enter__(self) -> "RpcClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        self.socket.close()

    def call(
        self, program: int, version: int, procedure: int, arguments: Packer | bytes = b""
    ) -> Unpacker:
        """Call and wait; RpcError when it was refused."""
        return self.receive(self.send(program, version, procedure, arguments))

    def send(
        self, program: int, version: int, procedure: int, arguments: Packer | bytes = b"",
        xid: int | None = None,
    ) -> int:  # fmt: skip
        """Send a call; its xid."""
        xid = next(_xids) if xid is None else xid
        body = b"".join(arguments.parts) if isinstance(arguments, Packer) else arguments
        self.socket.sendall(
            marked(call_record(xid, program, version, procedure, body, self.credential))
        )
        return xid

    def receive(self, xid: int) -> Unpacker:
        """The results of a call that was sent, in whatever order answers come."""
        while xid not in self._kept:
            record = self.record()
            self._kept[int.from_bytes(record[:4], "big")] = record
        return results(self._kept.pop(xid), xid)

    def record(self) -> bytes:
        """The next record, of whatever it is; ConnectionError when the other side has ended."""
        parts, last = [], False
        while not last:
            (mark,) = struct.unpack(">I", self._exactly(4))
            last = bool(mark & LAST_FRAGMENT)
            parts.append(self._exactly(mark & ~LAST_FRAGMENT))
        return b"".join(parts)

    def _exactly(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            part = self.socket.recv(count - len(found))
            if not part:
                raise ConnectionError("the server has ended the connection")
            found += part
        return bytes(found)

    def ended(self) -> bool:
        """Wait until the server ends the connection; False when it answers instead."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True
