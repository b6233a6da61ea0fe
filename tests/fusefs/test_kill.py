"""kill -9 of the daemon while programs write and fsync: what an fsync returned for is there.

Twenty kills of one store, each in the middle of two writers' work.  After each the store is looked
at exactly as the dead process left it (read-only, no commit), and then served again.
"""

import errno
import os
import random
import threading
from pathlib import Path

from mounted import DEADLINE_S, Mount, serve

from engine import ROOT_INO, Store, fsck

BLOCK = 4096
FILE_BLOCKS = 96
KILLS = 20
PALETTE = [bytes([n]) * BLOCK for n in range(4)]  # zeroes, and blocks that come up often


class Writer(threading.Thread):
    """Overwrites random blocks of a file, an fsync after each write, until the mount dies."""

    def __init__(self, path: Path, durable: dict[int, bytes], seed: int) -> None:
        super().__init__(name=path.name)
        self.durable = durable  # block -> what the last returned fsync covered
        self.in_flight: dict[int, bytes] = {}
        self.synced = 0
        self.moved = threading.Condition()
        self.error: OSError | None = None
        self._random = random.Random(seed)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.start()

    def run(self) -> None:
        try:
            while True:
                self._write_and_sync()
        except OSError as error:
            self.error = error
        finally:
            try:
                os.close(self._fd)
            except OSError as error:  # close sends a flush, which nobody answers any more
                assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED)

    def _write_and_sync(self) -> None:
        choose = self._random
        first, count = choose.randrange(FILE_BLOCKS - 16), choose.randint(1, 16)
        blocks = [
            choose.randbytes(BLOCK) if choose.random() < 0.7 else choose.choice(PALETTE)
            for _ in range(count)
        ]
        self.in_flight = dict(enumerate(blocks, first))
        assert os.pwrite(self._fd, b"".join(blocks), first * BLOCK) == count * BLOCK
        os.fsync(self._fd)
        self.durable |= self.in_flight
        with self.moved:
            self.synced += 1
            self.moved.notify_all()

    def wait_for(self, synced: int) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: self.synced >= synced, DEADLINE_S)

    def check(self, content: bytes) -> None:
        """Each block is what was synced last, or what was being written when the kill came."""
        content = content.ljust(FILE_BLOCKS * BLOCK, b"\0")
        for block in range(FILE_BLOCKS):
            found = content[block * BLOCK : (block + 1) * BLOCK]
            synced = self.durable.get(block, bytes(BLOCK))
            assert found in (synced, self.in_flight.get(block, synced)), (self.name, block)
            self.durable[block] = found


def test_twenty_kills_under_load_lose_nothing_that_was_synced(mount: Mount) -> None:
    durable: list[dict[int, bytes]] = [{}, {}]
    for kill in range(KILLS):
        writers = [
            Writer(mount.lab / f"f{n}", durable[n], seed=2 * kill + n) for n in range(len(durable))
        ]
        writers[0].wait_for(1 + 7 * kill % 16)
        writers[1].wait_for(1)
        mount.kill()
        for writer in writers:
            writer.join(DEADLINE_S)
            assert not writer.is_alive()
            assert writer.error is not None
            # EIO: the kernel was about to copy the request into a process that dies
            assert writer.error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        look_at_what_is_left(mount.store, writers)
        mount = serve(mount.store, mount.root)
    mount.stop()


def look_at_what_is_left(path: Path, writers: list[Writer]) -> None:
    store = Store.open(path)
    try:
        assert fsck.check(store, data=True).findings == []
        lab = store.volume("lab")
        for writer in writers:
            ino = lab.lookup(ROOT_INO, writer.name.encode()).ino
            writer.check(lab.read(ino, 0, FILE_BLOCKS * BLOCK))
    finally:
        store.abandon()
