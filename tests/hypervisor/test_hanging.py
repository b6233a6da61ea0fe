"""A libvirtd that takes connections, or requests, and never answers."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from libvirt_door import LIBVIRTD

from engine import errors
from hypervisor import connection
from hypervisor.driver import connect
from service import libvirt_calls


class Mute:
    """A way to libvirtd that passes everything until it is told to be silent; it closes nothing."""

    def __init__(self, path: Path) -> None:
        self.uri = f"qemu+unix:///system?socket={path}"
        self._silent = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def be_silent(self) -> None:
        self._silent.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self._sockets += [client, server]
                server.connect(LIBVIRTD)
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(1 << 16):
                if not self._silent.is_set():
                    there.sendall(data)

    def close(self) -> None:
        self._listener.close()
        for each in self._sockets:
            each.close()


@pytest.fixture()
def way(tmp_path: Path, uri: str) -> Iterator[Mute]:
    made = Mute(tmp_path / "socket")
    yield made
    made.close()


def test_a_connection_that_nobody_answers_is_given_up(
    way: Mute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "OPEN_S", 1.0)
    way.be_silent()
    with pytest.raises(errors.RametError, match="gives no answer in 1 s"):
        connect(way.uri)


def test_a_call_that_nobody_answers_ends(
    way: Mute, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(libvirt_calls, "SILENT_S", 1.0)
    driver = connect(way.uri)
    assert libvirt_calls.LibvirtCall(driver.names_and_macs)()
    way.be_silent()
    with pytest.raises(errors.RametError, match="no answer in 1 s"):
        libvirt_calls.LibvirtCall(driver.names_and_macs)()
