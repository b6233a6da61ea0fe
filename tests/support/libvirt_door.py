"""A way to libvirtd that closes in the middle."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

LIBVIRTD = "/var/run/libvirt/libvirt-sock"
LENGTH = struct.Struct(">I")


class Door:
    """A way to libvirtd that closes, for everybody and for good, when it has let so many messages
    with ``word`` through; the answer to the last one is lost.

    ``before`` is called as each of them comes, with how many more may come."""

    def __init__(
        self, path: Path, word: bytes, let_through: int,
        before: Callable[[int], object] = lambda _left: None,
    ) -> None:  # fmt: skip
        self._word = word
        self._left = let_through
        self._before = before
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(LIBVIRTD)
                for here, there, counts in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._forward, args=(here, there, counts), daemon=True
                    ).start()

    def _forward(self, here: socket.socket, there: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError), here, there:
            while head := _receive(here, LENGTH.size):
                body = _receive(here, LENGTH.unpack(head)[0] - LENGTH.size)
                last = counts and self._word in body and self._is_last()
                if last:
                    self.close()
                    here.shutdown(socket.SHUT_RDWR)  # so that no answer gets back
                there.sendall(head + body)
                if last:
                    _receive(there, LENGTH.size)  # libvirtd has done it
                    return
            there.shutdown(socket.SHUT_RDWR)

    def _is_last(self) -> bool:
        self._left -= 1
        self._before(self._left)
        return self._left == 0

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _receive(here: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count and (part := here.recv(count - len(parts))):
        parts += part
    return bytes(parts)
