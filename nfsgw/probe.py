"""A client's look at our own exports, through a socket: nothing is called up before it answered.

Blocking, for a thread that is not the server's.  What a client may see depends on where it comes
from: from here an export must answer as its rules say for this host's own address.
"""

import ipaddress
import itertools
import socket
import stat
import struct

from engine import errors
from nfsgw.exports import Export
from nfsgw.xdr import Garbage, Packer, Unpacker

PROBE_S = 10.0
ANSWER_BYTES_MAX = 1 << 16
HANDLE_BYTES_MAX = 64
MNT3ERR_ACCES, NF3DIR = 13, 2
PORTMAP, NFS, MOUNT = (100_000, 2), (100_003, 3), (100_005, 3)
_xids = itertools.count(1)


def probe(host: str, port: int, exports: list[Export]) -> dict[str, str]:
    """What is wrong with exports, by their paths.  RametError, OSError: nothing is served here."""
    at = ipaddress.ip_address(host)
    if at.is_unspecified:
        host = "127.0.0.1" if at.version == 4 else "::1"
    with socket.create_connection((host, port), PROBE_S) as connection:
        call(connection, NFS, 0, b"")
        own = ipaddress.ip_address(connection.getsockname()[0])
        found = {}
        for export in exports:
            may = export.right_of(own) is not None
            wrong = _look(connection, export, may=may)
            if wrong is not None:
                found[export.path] = wrong
    return found


def probe_portmap(
    host: str, port: int, nfs_port: int | None, timeout_s: float = PROBE_S
) -> None:  # fmt: skip
    """RametError, OSError when the port mapper does not lead to the server; None: to any."""
    with socket.create_connection((host, port), timeout_s) as connection:
        told = call(connection, PORTMAP, 3, struct.pack(">4I", *NFS, 6, 0)).u32()
    if nfs_port is not None and told != nfs_port:
        raise errors.RametError(f"the port mapper at {host} says port {told} for NFS")


def _look(connection: socket.socket, export: Export, *, may: bool) -> str | None:
    """MNT, then GETATTR of its root."""
    path = Packer()
    path.opaque(export.path.encode(errors="surrogateescape"))
    mounted = call(connection, MOUNT, 1, b"".join(path.parts))
    status = mounted.u32()
    if not may:
        return None if status == MNT3ERR_ACCES else f"MOUNT lets everybody in (status {status})"
    if status:
        return f"MOUNT refuses it with status {status}"
    handle = Packer()
    handle.opaque(bytes(mounted.opaque(HANDLE_BYTES_MAX)))
    attributes = call(connection, NFS, 1, b"".join(handle.parts))
    status = attributes.u32()
    if status:
        return f"its root cannot be read: status {status}"
    kind, mode = attributes.u32(), attributes.u32()
    if kind != NF3DIR or stat.S_IMODE(mode) != mode:
        return f"its root is no directory (type {kind})"
    return None


def call(
    connection: socket.socket, program: tuple[int, int], procedure: int, arguments: bytes
) -> Unpacker:
    """An RPC, by nobody (AUTH_NONE); RametError for anything but an answer to it."""
    xid = next(_xids)
    record = struct.pack(">10I", xid, 0, 2, *program, procedure, 0, 0, 0, 0) + arguments
    connection.sendall(struct.pack(">I", 1 << 31 | len(record)) + record)
    try:
        return _answer(connection, xid)
    except Garbage as error:
        raise errors.RametError(f"what answers is no server of ours: {error}") from None


def _answer(connection: socket.socket, xid: int) -> Unpacker:
    """The results in a record of one fragment; Garbage for anything else."""
    (mark,) = struct.unpack(">I", _exactly(connection, 4))
    length = mark & ~(1 << 31)
    if length == mark or length > ANSWER_BYTES_MAX:
        raise Garbage("no whole record")
    answer = Unpacker(memoryview(_exactly(connection, length)))
    if tuple(answer.u32() for _ in range(6)) != (xid, 1, 0, 0, 0, 0):
        raise Garbage("the call was refused")
    return answer


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise errors.RametError("the connection was ended")
        found += part
    return bytes(found)
