"""Many requests at a time, which are answered in batches (fusefs/at_once.py)."""

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

from mounted import Mount

from service.rpc import Client

BLOCK = 4096
BLOCKS = 64


def test_each_request_of_many_gets_its_own_answer(shared: Mount) -> None:
    path = shared.lab / "batches"

    def work(number: int) -> bool:
        choose, model = random.Random(number), bytearray(BLOCKS * BLOCK)
        base, fd = number * len(model), os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            for _ in range(150):
                at, size = choose.randrange(len(model)), choose.randint(1, 9 * BLOCK)
                size = min(size, len(model) - at)
                if choose.random() < 0.5:
                    data = choose.randbytes(size)
                    assert os.pwrite(fd, data, base + at) == size
                    model[at : at + size] = data
                elif os.pread(fd, size, base + at).ljust(size, b"\0") != model[at : at + size]:
                    return False
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_who_asks_the_daemon_has_his_turn_while_files_are_read_without_pause(shared: Mount) -> None:
    path, done = shared.lab / "without-pause", threading.Event()
    path.write_bytes(os.urandom(BLOCKS * BLOCK))

    def read() -> int:
        fd, count = os.open(path, os.O_RDONLY), 0
        while not done.is_set():
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert len(os.pread(fd, BLOCKS * BLOCK, 0)) == BLOCKS * BLOCK
            count += 1
        os.close(fd)
        return count

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            for _ in range(20):
                daemon = Client.connect(shared.store)
                assert daemon is not None
                assert daemon.call("status")["mountpoint"] == str(shared.root)
        finally:
            done.set()
        assert all(reader.result() for reader in readers)
