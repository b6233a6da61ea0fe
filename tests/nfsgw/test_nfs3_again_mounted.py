"""WRITEs in steps, and a mount whose kernel has the file's pages: none is answered before the mount
shows it."""

import os
import threading
from pathlib import Path

import pytest
from loopback import own_address
from nfs3_client import Nfs3Client
from pipelined import WRITE, call, write_arguments
from rpc_client import marked

from engine import Store
from nfsgw.dispatch import Dispatcher
from nfsgw.rpc import Answered, Peer
from service import daemon
from service.client import Client

BLOCK = 4096
CALLS = 12  # less than a socket takes at once
ROUNDS_MIN, ROUNDS_MAX = 20, 2000


class Rounds:
    """A file of the mount ``root``, written by NFS and read by the mount."""

    def __init__(self, store: Path, root: Path, waited: list[int]) -> None:
        self.store, self.root, self.waited = store, root, waited
        self.seen: list[bytes] = []
        self.wanted: list[bytes] = []

    def run(self) -> None:
        """Until there were steps that had to wait."""
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
            for number in range(ROUNDS_MAX):
                self._round(nfs, handle, file, bytes([number % 251 + 1]))
                if number > ROUNDS_MIN and max(self.waited, default=0) > 1:
                    break
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


def test_a_step_is_answered_when_the_mount_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root, waited = tmp_path / "store", tmp_path / "mnt", []
    again = Dispatcher.again

    def noted(to: Dispatcher, received: memoryview, peer: Peer) -> Answered | None:
        found = again(to, received, peer)
        if found is not None and found.wait is not None:
            waited.append(found.calls)
        return found

    monkeypatch.setattr(Dispatcher, "again", noted)
    Store.create(path)
    root.mkdir()
    rounds = Rounds(path, root, waited)
    worker = threading.Thread(target=rounds.run)
    daemon.serve(str(path), str(root), worker.start)
    worker.join()
    assert max(waited, default=0) > 1
    assert rounds.wanted
    assert rounds.seen == rounds.wanted


def test_a_wait_left_out_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with the fault that answers do not wait."""
    again = Dispatcher.again

    def hasty(to: Dispatcher, received: memoryview, peer: Peer) -> Answered | None:
        found = again(to, received, peer)
        return found and found._replace(wait=None)

    monkeypatch.setattr(Dispatcher, "again", hasty)
    path, root = tmp_path / "store", tmp_path / "mnt"
    Store.create(path)
    root.mkdir()
    rounds = Rounds(path, root, [])
    worker = threading.Thread(target=rounds.run)
    daemon.serve(str(path), str(root), worker.start)
    worker.join()
    assert rounds.seen != rounds.wanted
