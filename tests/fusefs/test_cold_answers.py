"""Reads of a mount that wait for slots, which threads of C fetch and answer (cold_answers.py)."""

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import page_cache
import pytest
from command import Ramet
from mounted import Mount, serve
from small_disk import small_disk

from engine import ROOT_INO, Store

HERE = Path(__file__).parent
BLOCK = 4096
BLOCKS = 2048
SLAB_SLOTS = 4096
DEADLINE_S = 30
QUICK = random.Random(1).randbytes(BLOCKS * BLOCK)
SLOW = random.Random(2).randbytes(BLOCK)


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """Pages of its files can be dropped."""
    with small_disk("ext4") as root:
        yield root


@pytest.fixture(scope="module")
def slow_slab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("slow") / "slow_slab.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", made,
         HERE / "slow_slab.c", "-ldl"], check=True,
    )  # fmt: skip
    return made


class World:
    """A served store with files ``quick`` and ``slow``; the slot of the latter has a gate."""

    def __init__(self, disk: Path, scratch: Path, slow_slab: Path) -> None:
        self.store, self.root, self.gate = disk / scratch.name, scratch / "mnt", scratch / "gate"
        self.held = scratch / "held"
        self.root.mkdir()
        Store.create(self.store, slab_slots=SLAB_SLOTS)
        with Store.open(self.store) as store:
            lab = store.create_volume("lab")
            for name, data in ((b"quick", QUICK), (b"slow", SLOW)):
                ino = lab.create(ROOT_INO, name, 0o644, 0, 0).ino
                lab.write(ino, 0, data)
            (extent,) = lab.extents(ino)
            self.slow_at = extent.address * BLOCK
        self.drop()
        env = {"LD_PRELOAD": str(slow_slab), "SLOW_AT": str(self.slow_at),
               "SLOW_GATE": str(self.gate), "SLOW_HELD": str(self.held)}  # fmt: skip
        self.mount: Mount = serve(self.store, self.root, env)
        for name in ("quick", "slow"):  # their nodes are in memory, their slots are not
            for at in range(0, len(QUICK), 64 * BLOCK):
                read_direct(self.mount.lab / name, at)
        self.drop()

    def slabs(self) -> list[Path]:
        return sorted((self.store / "slabs").iterdir())

    def drop(self) -> None:
        for slab in self.slabs():
            with slab.open("rb") as file:
                page_cache.drop(file.fileno())

    def stop(self) -> None:
        self.gate.unlink(missing_ok=True)
        if self.mount.process.poll() is None:
            self.mount.stop()
        assert not os.path.ismount(self.root)


@pytest.fixture
def world(disk: Path, tmp_path: Path, slow_slab: Path) -> Iterator[World]:
    made = World(disk, tmp_path, slow_slab)
    yield made
    made.stop()
    subprocess.run(["rm", "-r", str(made.store)], check=True)


def read_direct(path: Path, offset: int = 0, length: int = BLOCK) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, length) as buffer:
            got = os.preadv(fd, [buffer], offset)
            return buffer[:got]
    finally:
        os.close(fd)


def python_threads(mount: Mount) -> set[str]:
    """Threads of the daemon that Python has made for work of trio's."""
    names = (task / "comm" for task in Path(f"/proc/{mount.process.pid}/task").iterdir())
    return {name.read_text().strip() for name in names if name.read_text().startswith("Trio")}


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


@pytest.mark.parametrize("direct", [True, False])
def test_many_readers_get_what_is_there(world: World, direct: bool) -> None:
    path = world.mount.lab / "quick"

    def work(number: int) -> None:
        choose, fd = random.Random(number), os.open(path, os.O_RDONLY)
        for _ in range(60):
            if choose.random() < 0.1:
                world.drop()
            size = choose.choice((BLOCK, 3 * BLOCK, 200_000, 1 << 20))
            at = choose.randrange(BLOCKS) * BLOCK
            if direct:
                found = read_direct(path, at, -(-size // BLOCK) * BLOCK)[:size]
            else:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                found = os.pread(fd, size, at)
            assert found == QUICK[at : at + size]
        os.close(fd)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))


def test_a_file_that_ends_in_a_block_is_short(world: World) -> None:
    path = world.mount.lab / "quick"
    os.truncate(path, 5 * BLOCK + 100)
    world.drop()
    assert read_direct(path, 4 * BLOCK, 4 * BLOCK) == QUICK[4 * BLOCK : 5 * BLOCK + 100]
    assert read_direct(path, 6 * BLOCK) == b""


def test_a_read_that_stalls_stops_nobody(world: World) -> None:
    world.gate.touch()
    lab = world.mount.lab
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(read_direct, lab / "slow"), pool.submit((lab / "slow").read_bytes)]
        try:
            until(world.held.exists, "nobody reads the slot")
            for block in range(0, BLOCKS, 16):
                at = block * BLOCK
                assert read_direct(lab / "quick", at) == QUICK[at : at + BLOCK]
            (lab / "new").write_bytes(b"written meanwhile")
            assert not any(each.done() for each in slow)
        finally:
            world.gate.unlink()
        assert [each.result(DEADLINE_S) for each in slow] == [SLOW, SLOW]


def test_a_reader_that_is_killed_harms_nobody(world: World) -> None:
    world.gate.touch()
    path = world.mount.lab / "slow"
    script = f"import os; os.read(os.open({str(path)!r}, os.O_RDONLY), 10)"
    reader = subprocess.Popen([sys.executable, "-c", script])
    until(world.held.exists, "nobody reads the slot")
    reader.send_signal(signal.SIGKILL)
    assert read_direct(world.mount.lab / "quick") == QUICK[:BLOCK]
    world.gate.unlink()
    assert reader.wait(DEADLINE_S) == -signal.SIGKILL
    assert read_direct(path) == SLOW


def test_slots_stay_until_a_read_of_them_has_ended(world: World) -> None:
    """It is written over, durably, and then every slot that is free is taken."""
    ramet = Ramet(world.store)
    world.gate.touch()
    path = world.mount.lab / "slow"
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with ThreadPoolExecutor(1) as pool, mmap.mmap(-1, BLOCK) as buffer:
        slow = pool.submit(os.preadv, fd, [buffer], 0)
        until(world.held.exists, "nobody reads the slot")
        try:
            with path.open("r+b") as other:
                other.write(random.Random(3).randbytes(BLOCK))
                os.fsync(other.fileno())
            ramet.run("gc")
            with (world.mount.lab / "more").open("wb") as more:
                more.write(random.Random(4).randbytes(SLAB_SLOTS * BLOCK))
                os.fsync(more.fileno())
            assert len(world.slabs()) > 1
            assert not slow.done()
        finally:
            world.gate.unlink()
        assert slow.result(DEADLINE_S) == BLOCK
        assert buffer[:] == SLOW
    os.close(fd)
    assert read_direct(path) == random.Random(3).randbytes(BLOCK)


def test_a_bad_block_is_an_error_that_is_counted_and_named(world: World) -> None:
    ramet = Ramet(world.store)
    slab = world.slabs()[0]
    with slab.open("r+b") as file:
        file.seek(world.slow_at)
        file.write(b"damaged")
    world.drop()
    for attempt in (read_direct, Path.read_bytes):
        world.drop()
        with pytest.raises(OSError) as told:
            attempt(world.mount.lab / "slow")
        assert told.value.errno == errno.EIO
    status = ramet.json("status")
    assert "lab:/slow" in str(status)
    assert read_direct(world.mount.lab / "quick") == QUICK[:BLOCK]


def test_a_mount_that_ends_waits_for_its_reads(world: World) -> None:
    world.gate.touch()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(read_direct, world.mount.lab / "slow")
        until(world.held.exists, "nobody reads the slot")
        assert not slow.done()
        world.mount.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            world.mount.process.wait(0.3)
        world.gate.unlink()
        try:
            assert slow.result(DEADLINE_S) == SLOW
        except OSError as error:
            assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        assert world.mount.process.wait(DEADLINE_S) == 0


def test_no_thread_of_python_reads(world: World) -> None:
    path = world.mount.lab / "quick"
    before = python_threads(world.mount)
    for block in range(0, BLOCKS, 16):
        assert read_direct(path, block * BLOCK) == QUICK[block * BLOCK : (block + 1) * BLOCK]
    assert python_threads(world.mount) == before
