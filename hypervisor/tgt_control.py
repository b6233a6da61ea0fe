"""The management protocol of tgtd, spoken by ourselves.

``tgtadm`` takes CHAP secrets as an argument, where every user of the host can read them.  The
protocol below it is one request and one answer on a unix socket (tgt's usr/tgtadm.h and
usr/mgmt.c): a fixed header, then a text of ``name=value`` pairs.  The text has no escapes, so no
value that a stranger chose may come near it: names are checked, paths are links with names of ours.
"""

import os
import re
import socket
import struct
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from engine import errors

SOCKET = "control"
TIMEOUT_S = 20.0
_REQUEST = struct.Struct("=II64sIiQQIIIIII")
_ANSWER = struct.Struct("=II")
_ANSWER_BYTES_MAX = 64 << 20
_CONNECTION = re.compile(
    r"^Session: (\d+)\n +Connection: (\d+)\n +Initiator: (\S+)\n +IP Address: (\S+)$", re.MULTILINE
)
_FAILURES = (
    "success", "unknown error", "out of memory", "no driver", "no such target", "no such LUN",
    "no such session", "no such connection", "no such binding", "the target exists",
    "the LUN exists", "the binding exists", "the rule exists", "no such rule",
    "the account exists", "no such account", "too many accounts", "invalid request",
    "the target has an outgoing account", "the target is in use", "the LUN is in use",
    "the driver is in use", "not supported", "unknown parameter", "removal is prevented",
)  # fmt: skip
LUN_ACTIVE = 20
NO_CONNECTION = (6, 7)


class Op(IntEnum):
    NEW, DELETE, SHOW, BIND, UNBIND, UPDATE = range(6)


class Mode(IntEnum):
    SYSTEM, TARGET, DEVICE, PORTAL, LLD, SESSION, CONNECTION, ACCOUNT = range(8)


class Refused(errors.RametError):
    """tgtd answered with an error; ``code`` is its number (usr/tgtadm_error.h)."""

    def __init__(self, what: str, code: int) -> None:
        reason = _FAILURES[code] if code < len(_FAILURES) else f"error {code}"
        super().__init__(f"tgtd refused to {what}: {reason}; see its log")
        self.code = code


class Connection(NamedTuple):
    """An initiator that is logged in: its name, its address, and its connection's numbers."""

    initiator: str
    address: str
    session: int
    number: int


class Control:
    """Requests to one tgtd, which runs in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def call(
        self, mode: Mode, op: Op, *, tid: int = -1, lun: int = 0, sid: int = 0, cid: int = 0,
        force: bool = False, text: str = "",
    ) -> str:  # fmt: skip
        """One request; returns what it answers.  Refused, OSError when nobody listens."""
        body = text.encode() + b"\0" if text else b""
        head = _REQUEST.pack(
            mode, op, b"iscsi", _REQUEST.size + len(body), tid, sid, lun, cid, 0, 0, 0, 0, force
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(TIMEOUT_S)
            self._connect(door)
            door.sendall(head + body)
            code, length = _ANSWER.unpack(_receive(door, _ANSWER.size))
            if code:
                raise Refused(f"{op.name.lower()} a {mode.name.lower()}", code)
            if not _ANSWER.size <= length <= _ANSWER_BYTES_MAX:
                raise errors.RametError(f"tgtd announces an answer of {length} bytes")
            rest = _receive(door, length - _ANSWER.size)
        return rest.rstrip(b"\0").decode(errors="replace")

    def _connect(self, door: socket.socket) -> None:
        """By a short name, however long the directory's is (an address has 107 bytes)."""
        fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            door.connect(f"/proc/self/fd/{fd}/{SOCKET}.0")
        finally:
            os.close(fd)

    def portals(self) -> list[str]:
        """Where it listens, as ADDRESS:PORT."""
        told = self.call(Mode.PORTAL, Op.SHOW)
        return re.findall(r"^Portal: (\S+),\d+$", told, re.MULTILINE)

    def connections(self, tid: int) -> list[Connection]:
        """Who is logged in to a target."""
        told = self.call(Mode.CONNECTION, Op.SHOW, tid=tid)
        return [
            Connection(initiator, address, int(session), int(number))
            for session, number, initiator, address in _CONNECTION.findall(told)
        ]

    def disconnect(self, tid: int) -> None:
        """Close every connection of a target; the initiators log in again, if they may."""
        for each in self.connections(tid):
            try:
                self.call(Mode.CONNECTION, Op.DELETE, tid=tid, sid=each.session, cid=each.number)
            except Refused as error:
                if error.code not in NO_CONNECTION:  # gone by itself is as good
                    raise


def _receive(door: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = door.recv(min(count - len(parts), 1 << 16))
        if not part:
            raise errors.RametError("tgtd went away in the middle of an answer")
        parts += part
    return parts
