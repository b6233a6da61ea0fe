"""Requests between the command and the daemon: frames on a unix socket.

A frame is a u32 big-endian length and that many bytes of msgpack.  One request, one answer, and
answers with a job's progress before it if the request wants them; the connection ends after it.
Errors travel as the name of the engine's class and the message, and come out as the same class.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine import errors

FRAME_BYTES_MAX = 16 << 20
SOCKET = Path("run") / "ramet.sock"
TIMEOUT_S = 5.0
_LENGTH = struct.Struct(">I")
T = TypeVar("T", "Request", "Answer")
OS_ERRORS: dict[int, type[errors.RametError]] = {
    errno.ENOSPC: errors.NoSpace,
    errno.EEXIST: errors.AlreadyExists,
    errno.ENOENT: errors.NotFound,
}
"""What a host's errors are to a command, with a daemon and without."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A method of service.operations (or of the daemon) and its arguments after the store.

    For what is a job: ``wait`` for its end or be told its id, the jobs it runs ``after``, and
    whether answers with its ``progress`` may come before the last one.
    """

    method: str
    arguments: list[Any]
    wait: bool = True
    after: list[int] = []
    progress: bool = False


class Answer(msgspec.Struct):
    """``kind`` is the error's class, empty when it went well; ``more``: it is not the last."""

    result: Any = None
    kind: str = ""
    message: str = ""
    more: bool = False


def pack(message: Request | Answer) -> bytes:
    """The frame.  Names that are no UTF-8 travel with their odd bytes written out."""
    try:
        body = msgspec.msgpack.encode(message)
    except UnicodeEncodeError:
        body = msgspec.msgpack.encode(_printable(msgspec.to_builtins(message)))
    return _LENGTH.pack(len(body)) + body


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_printable(each) for each in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(each) for key, each in value.items()}
    return value


@contextlib.contextmanager
def door(store: Path) -> Iterator[str]:
    """The socket's path, short however long the store's is (an address has 107 bytes)."""
    fd = os.open((store / SOCKET).parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET.name}"
    finally:
        os.close(fd)


def decode_request(body: bytes) -> Request:
    """InvalidArgument for what is no request, whatever else it is."""
    return _decode(body, Request)


def decode_answer(body: bytes) -> Answer:
    return _decode(body, Answer)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise errors.InvalidArgument(f"not a {kind.__name__.lower()}: {error}") from None


def body_length(head: bytes) -> int:
    """The length a frame announces; InvalidArgument when it is past the limit."""
    length: int = _LENGTH.unpack(head)[0]
    if length > FRAME_BYTES_MAX:
        raise errors.InvalidArgument(f"frame of {length} bytes; the limit is {FRAME_BYTES_MAX}")
    return length


def error_class(kind: str) -> type[errors.RametError]:
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, errors.RametError):
        return found
    return errors.RametError


class Client:
    """The command's side.  ``connect`` answers None when no daemon runs."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @classmethod
    def connect(cls, store: Path) -> "Client | None":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(TIMEOUT_S)
            with door(store) as path:
                connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        except OSError:
            connection.close()
            raise
        connection.settimeout(None)
        return cls(connection)

    def close(self) -> None:
        self._connection.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Run a method in the daemon; raises what it raised."""
        return self.ask(Request(method, list(arguments)))

    def ask(self, request: Request, progress: Callable[[Any], object] | None = None) -> Any:
        """The same, with all that a request can say; ``progress`` is called with what a job says
        of itself on the way."""
        with self._connection as connection:
            connection.sendall(pack(request))
            answer = self._answer()
            while answer.more:
                if progress is not None:
                    progress(answer.result)
                answer = self._answer()
        if answer.kind:
            raise error_class(answer.kind)(answer.message)
        return answer.result

    def _answer(self) -> Answer:
        return decode_answer(self._receive(body_length(self._receive(4))))

    def _receive(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = self._connection.recv(min(count - len(parts), 1 << 16))
            if not part:
                raise errors.RametError("the daemon went away; see its output, then try again")
            parts += part
        return parts
