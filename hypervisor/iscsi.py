"""An iSCSI initiator as small as can be: log in, ask a LUN for its size and its serial, log out.

It is there to see with our own eyes that a target serves before anybody is told so.  One
connection, no recovery, no digests, one command at a time (RFC 7143).
"""

import hashlib
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from engine import errors
from hypervisor.host_daemon import Listen

TIMEOUT_S = 10.0
ATTENTIONS_MAX = 16  # unit attentions that a new session may find waiting
SEGMENT_BYTES_MAX = 1 << 20
_BHS_BYTES = 48
_LOGIN, _COMMAND, _LOGOUT = 0x43, 0x01, 0x46  # the first and last marked immediate
_LOGIN_ANSWER, _ANSWER, _DATA_IN, _NOP_IN = 0x23, 0x21, 0x25, 0x20
_SECURITY, _OPERATIONAL, _FULL = 0, 1, 3
_CHECK_CONDITION, _UNIT_ATTENTION = 2, 6


@dataclass(frozen=True, slots=True)
class Chap:
    """Credentials; the secret never shows in a message or a log."""

    user: str
    secret: str = field(repr=False)


class LoginRefused(errors.NotPermitted):
    """The target does not let us in; ``status`` is class and detail (RFC 7143, 11.13.5)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the iSCSI login was refused (status {status:#06x})")
        self.status = status


@dataclass(frozen=True, slots=True)
class Initiator:
    """Somebody who logs in."""

    name: str

    @classmethod
    def stranger(cls) -> "Initiator":
        """One that nobody has met."""
        return cls(f"iqn.2026-01.io.ramet:probe-{secrets.token_hex(16)}")

    @contextmanager
    def login(self, at: Listen, target: str, chap: Chap | None = None) -> Iterator["Session"]:
        """A session with a target.  LoginRefused, OSError."""
        with socket.create_connection(at, TIMEOUT_S) as connection:
            session = Session(connection)
            session.login(self.name, target, chap)
            yield session
            with suppress(OSError, errors.RametError):
                session.logout()


class Session:
    """A session in full feature phase, after ``login``."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._isid = b"\x80" + secrets.token_bytes(5)  # random format
        self._task = 0
        self._command = 1
        self._expected = 0

    def login(self, name: str, target: str, chap: Chap | None) -> None:
        wanted = {
            "InitiatorName": name, "TargetName": target, "SessionType": "Normal",
            "AuthMethod": "None" if chap is None else "CHAP",
        }  # fmt: skip
        if chap is None:
            self._login_step(_SECURITY, _OPERATIONAL, wanted)
        else:
            self._login_step(_SECURITY, None, wanted)
            told = self._login_step(_SECURITY, None, {"CHAP_A": "5"})
            self._login_step(_SECURITY, _OPERATIONAL, _chap_answer(chap, told))
        self._login_step(_OPERATIONAL, _FULL, {
            "HeaderDigest": "None", "DataDigest": "None", "MaxRecvDataSegmentLength": "65536",
        })  # fmt: skip

    def _login_step(
        self, stage: int, following: int | None, keys: dict[str, str]
    ) -> dict[str, str]:
        """One request and its answer; ``following``: the stage that we want to go on to."""
        flags = stage << 2 if following is None else 0x80 | stage << 2 | following
        text = "".join(f"{key}={value}\0" for key, value in keys.items()).encode()
        head = struct.pack(
            ">BBBB4s6sHIHHII16x", _LOGIN, flags, 0, 0, _length(text), self._isid, 0, self._task,
            0, 0, self._command, self._expected,
        )  # fmt: skip
        self._send(head, text)
        head, text = self._receive()
        if head[0] != _LOGIN_ANSWER:
            raise errors.RametError(f"no iSCSI login answer but {head[0]:#x}; is it an iSCSI port?")
        if status := int.from_bytes(head[36:38], "big"):
            raise LoginRefused(status)
        pairs = (part.partition("=") for part in text.decode(errors="replace").split("\0"))
        return {key: value for key, _, value in pairs}

    def capacity_bytes(self, lun: int) -> int:
        """READ CAPACITY (16), SBC-3 5.16."""
        data = self._ask(lun, bytes([0x9E, 0x10]) + bytes(8) + (32).to_bytes(4, "big") + bytes(2))
        last, block = struct.unpack(">QI", data[:12])
        return int(last + 1) * int(block)

    def serial(self, lun: int) -> str:
        """The unit serial number page, SPC-4 7.8.15."""
        data = self._ask(lun, bytes([0x12, 1, 0x80, 0, 252]) + bytes(11))
        return data[4 : 4 + data[3]].decode(errors="replace").strip()

    def _ask(self, lun: int, cdb: bytes) -> bytes:
        """A command that reads up to 252 bytes; unit attentions are acknowledged."""
        for _ in range(ATTENTIONS_MAX):
            status, sense, data = self._execute(lun, cdb)
            if status == 0:
                return data
            if status != _CHECK_CONDITION or sense != _UNIT_ATTENTION:
                break
        raise errors.RametError(f"LUN {lun} does not answer (status {status}, sense {sense})")

    def _execute(self, lun: int, cdb: bytes) -> tuple[int, int, bytes]:
        """(status, sense key, data)."""
        self._task += 1
        head = struct.pack(
            ">BBH4sQIIII16s", _COMMAND, 0x80 | 0x40 | 1, 0, bytes(4), lun << 48, self._task, 252,
            self._command, self._expected, cdb,
        )  # fmt: skip
        self._command += 1
        self._send(head, b"")
        data = b""
        while True:
            head, segment = self._receive()
            if head[0] == _DATA_IN:
                data += segment
                if head[1] & 1:
                    return head[3], 0, data
            elif head[0] == _ANSWER:
                return head[3], segment[4] & 15 if len(segment) > 4 else 0, data
            elif head[0] != _NOP_IN:
                raise errors.RametError(f"an iSCSI answer of kind {head[0]:#x}")

    def logout(self) -> None:
        self._task += 1
        self._send(struct.pack(
            ">BBH4s8xIHHII16x", _LOGOUT, 0x80, 0, bytes(4), self._task, 0, 0, self._command,
            self._expected,
        ), b"")  # fmt: skip
        self._receive()

    def _send(self, head: bytes, data: bytes) -> None:
        assert len(head) == _BHS_BYTES
        self._connection.sendall(head + data + bytes(-len(data) % 4))

    def _receive(self) -> tuple[bytes, bytes]:
        head = self._exactly(_BHS_BYTES)
        length = int.from_bytes(head[5:8], "big")
        if head[4] or length > SEGMENT_BYTES_MAX:
            raise errors.RametError("an iSCSI answer that no target gives; is it an iSCSI port?")
        data = self._exactly(length + -length % 4)[:length]
        self._expected = int.from_bytes(head[24:28], "big") + 1
        return head, data

    def _exactly(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = self._connection.recv(count - len(parts))
            if not part:
                raise errors.RametError("the iSCSI target closed the connection")
            parts += part
        return parts


def _length(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big")


def _chap_answer(chap: Chap, told: dict[str, str]) -> dict[str, str]:
    """RFC 1994 with MD5, which is what iSCSI's CHAP_A=5 means."""
    try:
        identifier = int(told["CHAP_I"]) & 0xFF
        challenge = bytes.fromhex(told["CHAP_C"].removeprefix("0x"))
    except (KeyError, ValueError):
        raise errors.RametError("the target's CHAP challenge makes no sense") from None
    text = bytes([identifier]) + chap.secret.encode() + challenge
    digest = hashlib.md5(text, usedforsecurity=False).hexdigest()
    return {"CHAP_N": chap.user, "CHAP_R": f"0x{digest}"}
