"""WRITEs that come together, and a mount whose kernel has the file's pages: none is answered before
the mount shows it; of a file that the mount does not know, they are one step."""

import os
import threading
from pathlib import Path

import pytest
from loopback import own_address
from nfs3_client import Nfs3Client
from pipelined import WRITE, call, write_arguments
from rpc_client import marked

from engine import Store
from fusefs.invalidate import Invalidator
from service import daemon
from service.client import Client

BLOCK = 4096
CALLS = 12  # less than a socket takes at once
ROUNDS = 200


class Rounds:
    """A file of the mount ``root``, written by NFS and read by the mount."""

    def __init__(self, store: Path, root: Path) -> None:
        self.store, self.root = store, root
        self.seen: list[bytes] = []
        self.wanted: list[bytes] = []

    def run(self) -> None:
        """Read by the mount, then written, again and again."""
        client, address = Client(self.store), own_address()
        try:
            client.call("volume_create", "lab", 0, False)
            client.call("share_nfs_add", "lab", address, ["127.0.0.0/8:root"])
            path = self.root / "lab" / "file"
            path.write_bytes(b"!" * BLOCK * CALLS)
            nfs = Nfs3Client((address, 2049))
            handle = nfs.lookup(nfs.mount(b"/lab"), b"file")[0]
            nfs.write(handle, 0, b"!")
            file = os.open(path, os.O_RDONLY)
            for number in range(ROUNDS):
                self._round(nfs, handle, file, bytes([number % 251 + 1]))
            os.close(file)
            nfs.close()
        finally:
            client.call("shutdown")

    def _round(self, nfs: Nfs3Client, handle: bytes, file: int, byte: bytes) -> None:
        assert len(os.pread(file, CALLS * BLOCK, 0)) == CALLS * BLOCK  # the kernel has all pages
        places = {}
        stream = b""
        for n in range(CALLS):
            arguments = write_arguments(handle, n * BLOCK, byte * BLOCK)
            sent = call(nfs.rpc, WRITE, arguments)
            places[sent.xid] = n * BLOCK
            stream += marked(sent.record)
        nfs.rpc.socket.sendall(stream)
        for _ in range(CALLS):
            answer = nfs.rpc.record()
            assert answer[24:28] == bytes(4)
            place = places.pop(int.from_bytes(answer[:4], "big"))
            self.seen.append(os.pread(file, BLOCK, place))
            self.wanted.append(byte * BLOCK)


def rounds(folder: Path) -> Rounds:
    """Those of a store that a daemon of this process serves."""
    path, root = folder / "store", folder / "mnt"
    Store.create(path)
    root.mkdir()
    made = Rounds(path, root)
    worker = threading.Thread(target=made.run)
    daemon.serve(str(path), str(root), worker.start)
    worker.join()
    return made


def test_writes_are_answered_when_the_mount_shows_them(tmp_path: Path) -> None:
    made = rounds(tmp_path)
    assert made.wanted
    assert made.seen == made.wanted


def test_a_step_that_tells_nobody_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with the fault that a step does not ask whether the mount has the file."""
    monkeypatch.setattr(Invalidator, "watches", lambda *_: False)
    made = rounds(tmp_path)
    assert made.seen != made.wanted
