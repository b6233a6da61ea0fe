"""The first exchange of SMB2, to see that a server answers."""

import socket
import struct

from hypervisor.host_daemon import Listen

PROBE_S = 5.0
_MESSAGE_BYTES_MAX = 1 << 16


def negotiate(listen: Listen) -> int:
    """SMB2 NEGOTIATE (MS-SMB2 2.2.3); returns the dialect.  OSError when nobody answers it."""
    head = struct.pack(
        "<4sHHIHHIIQIIQ16s", b"\xfeSMB", 64, 0, 0, 0, 31, 0, 0, 0, 0, 0, 0, bytes(16)
    )
    dialects = (0x0210, 0x0300)
    body = struct.pack("<HHHHI16sQ", 36, len(dialects), 1, 0, 0, bytes(16), 0)
    message = head + body + struct.pack("<2H", *dialects)
    with socket.create_connection(listen, PROBE_S) as connection:
        connection.sendall(struct.pack(">I", len(message)) + message)
        length = struct.unpack(">I", _exactly(connection, 4))[0]
        if not 70 <= length <= _MESSAGE_BYTES_MAX:
            raise ConnectionError("no SMB server")
        answer = _exactly(connection, length)
    protocol, status, dialect = answer[:4], answer[8:12], answer[68:70]
    if protocol != b"\xfeSMB" or any(status):
        raise ConnectionError("no SMB2 server")
    return int.from_bytes(dialect, "little")


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise ConnectionError("the SMB server closed the connection")
        parts += part
    return parts
