"""kill -9 of the daemon while clients write and commit: what was acknowledged as stable is there.

Clients keep, as RFC 1813 asks of them, what they wrote UNSTABLE until a COMMIT answers with the
verifier that the WRITE had, and write it again when it has another. After each kill every block is
compared with what must be there; handles are those of the first start.
"""

import os
import random
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import own_address
from nfs3_client import FILE_SYNC, UNSTABLE, Nfs3Client
from served import Served, serving

BLOCK = 4096
FILE_BLOCKS = 64
KILLS = 4
COMMITS = 6  # of each writer between two kills, at least
DEADLINE_S = 120


class Writer(threading.Thread):
    """Writes until the server dies; remembers what it was promised."""

    def __init__(self, address: str, handle: bytes, stored: dict[int, bytes], seed: int) -> None:
        super().__init__()
        self.stored = stored  # block: what is on disk for sure
        self.pending: dict[int, list[bytes]] = {}  # written since, in order; may be there or not
        self.verifiers: set[bytes] = set()
        self.commits = 0
        self.moved = threading.Condition()
        self.failure: BaseException | None = None
        self._client = Nfs3Client((address, 2049), uid=0)
        self._handle = handle
        self._chance = random.Random(seed)
        self.start()

    def run(self) -> None:
        try:
            while True:
                self._write_some_and_commit()
        except OSError:
            pass  # killed
        except BaseException as error:
            self.failure = error
        finally:
            self._client.close()

    def _write_some_and_commit(self) -> None:
        chance, seen = self._chance, set()
        for _ in range(chance.randint(1, 8)):
            block, data = chance.randrange(FILE_BLOCKS), chance.randbytes(BLOCK)
            stable = chance.choice((UNSTABLE, UNSTABLE, FILE_SYNC))
            self.pending.setdefault(block, []).append(data)
            written = self._client.write(self._handle, block * BLOCK, data, stable)
            seen.add(written.verifier)
            if stable == FILE_SYNC:
                self._is_stored(block)
        _, verifier = self._client.commit(self._handle)
        assert seen <= {verifier}, "the verifier changed while the server ran"
        self.verifiers.add(verifier)
        for block in list(self.pending):
            self._is_stored(block)
        with self.moved:
            self.commits += 1
            self.moved.notify_all()

    def _is_stored(self, block: int) -> None:
        self.stored[block] = self.pending.pop(block)[-1]

    def wait_for_commits(self) -> None:
        with self.moved:
            done = self.moved.wait_for(
                lambda: self.commits >= COMMITS or self.failure is not None, DEADLINE_S
            )
        assert done
        assert self.failure is None

    def check(self, client: Nfs3Client) -> None:
        """Each block is what is stored, or anything written to it after that."""
        assert self.failure is None, self.failure
        for block in range(FILE_BLOCKS):
            found = client.read(self._handle, block * BLOCK, BLOCK)[0].ljust(BLOCK, b"\0")
            stored = self.stored.get(block, bytes(BLOCK))
            assert found in (stored, *self.pending.get(block, ())), block
            self.stored[block] = found


def kill(process: int) -> None:
    """It has gone when this returns, and with it what it had mounted and listened at."""
    watched = os.pidfd_open(process)
    try:
        signal.pidfd_send_signal(watched, signal.SIGKILL)
        assert select.select([watched], [], [], DEADLINE_S)[0]
    finally:
        os.close(watched)


@pytest.fixture()
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as made:
        yield made


def test_nothing_that_was_acknowledged_is_lost(served: Served) -> None:
    address = own_address()
    rule = "--client", "127.0.0.0/8:root"
    served.run("share", "nfs", "add", "lab", "--listen", address, *rule)
    client = Nfs3Client((address, 2049), uid=0)
    top = client.mount(b"/lab")
    handles = [client.create(top, b"file-%d" % number).handle for number in range(2)]
    client.close()
    stored: list[dict[int, bytes]] = [{}, {}]
    verifiers: list[set[bytes]] = []
    for number_of_kill in range(KILLS):
        writers = [
            Writer(address, handle, stored[number], number_of_kill * 2 + number)
            for number, handle in enumerate(handles)
        ]
        for writer in writers:
            writer.wait_for_commits()
        kill(served.json("status")["pid"])
        for writer in writers:
            writer.join(DEADLINE_S)
            assert not writer.is_alive()
        verifiers.append(set.union(*(writer.verifiers for writer in writers)))
        served.run("mount", served.root)
        client = Nfs3Client((address, 2049), uid=0)
        for writer in writers:
            writer.check(client)
        assert client.names(top) == [b"file-0", b"file-1"]
        client.close()
    assert [len(each) for each in verifiers] == [1] * KILLS
    assert len(set.union(*verifiers)) == KILLS
