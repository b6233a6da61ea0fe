"""libvirt goes away in the middle of a clone: nothing is left that cannot be finished."""

import contextlib
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Lab

LIBVIRTD = "/var/run/libvirt/libvirt-sock"
LENGTH = struct.Struct(">I")


class Door:
    """A way to libvirtd that closes, for everybody and for good, when it has let so many messages
    with ``word`` through; the answer to the last one is lost."""

    def __init__(self, path: Path, word: bytes, let_through: int) -> None:
        self._word = word
        self._left = let_through
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


@pytest.mark.parametrize(
    ("word", "let_through", "defined"),
    [(b"<domain", 2, ["web-1", "web-2"]), (b"<pool", 1, ["web-1", "web-2", "web-3"])],
)
def test_no_domain_is_left_without_its_files(
    lab: "Lab", tmp_path: Path, word: bytes, let_through: int, defined: list[str]
) -> None:
    path = tmp_path / "door"
    lost = f"qemu+unix:///system?socket={path}"
    door = Door(path, word, let_through)
    failed = lab.ramet.run(
        "vm", "clone", "lab:/golden", "lab:/web-{n}", "--count", 3, "--register", "-c", lost, code=3
    )
    assert "vm rm" in failed.stderr
    assert lab.domains() == defined
    assert lab.names() == ["golden", "web-1", "web-2", "web-3"]
    for name in ("web-1", "web-2", "web-3"):
        assert (lab.mount / "lab" / name / "golden.raw").read_bytes() == lab.disk
        assert lab.ramet.run("vm", "rm", f"lab:/{name}", code=1)  # not while nobody answers

    path.unlink()
    door = Door(path, word, 100)
    for name in ("web-1", "web-2", "web-3"):
        lab.ramet.run("vm", "rm", f"lab:/{name}")
    door.close()
    assert (lab.names(), lab.domains()) == (["golden"], [])
