"""Threads of C that fetch blocks and hand them on (native/fetchers.c).

What they write to is a file, where answers lie one behind the other, or a pipe that is full: then a
thread waits, as it would for a slow disk, until somebody reads.
"""

import fcntl
import os
import random
import select
import struct
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import page_cache
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import native

BLOCK, SLOTS, SPAN = 4096, 128, 600
DEADLINE_S = 30
HEAD = struct.Struct("=QQ")  # tag, length
HOLES = range(100, 140)


class Disk:
    """A file of SPAN blocks with a hole, in slabs whose pages can be dropped, and its fetchers."""

    def __init__(self, threads: int = 4, jobs: int = 16) -> None:
        self.nodes: dict[int, bytes] = {}
        self.slabs = [tempfile.TemporaryFile() for _ in range(6)]  # noqa: SIM115 - closed below
        self.core = native.Core(
            hash_seed=7, load_node=self.nodes.__getitem__, fanout=252, slab_slots=SLOTS,
            cache_nodes=256, index_entries=1 << 10,
        )  # fmt: skip
        for number, slab in enumerate(self.slabs):
            os.ftruncate(slab.fileno(), SLOTS * BLOCK)
            self.core.add_slab(number, slab.fileno())
        self.core.epoch = 1
        self.tree = native.Tree()
        self.data = bytearray(random.Random(1).randbytes(SPAN * BLOCK))
        for at in range(0, SPAN, 100):
            self.core.write(self.tree, at, self.data[at * BLOCK : (at + 100) * BLOCK])
        self.core.punch(self.tree, HOLES.start, len(HOLES))
        self.data[HOLES.start * BLOCK : HOLES.stop * BLOCK] = bytes(len(HOLES) * BLOCK)
        self.answers = tempfile.TemporaryFile()  # noqa: SIM115
        self.append = os.open(f"/proc/self/fd/{self.answers.fileno()}", os.O_WRONLY | os.O_APPEND)
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.fetchers = native.Fetchers(threads=threads, jobs=jobs, wake_fd=self.wake_fd)

    def close(self) -> None:
        self.fetchers.stop()
        self.fetchers.take()
        self.fetchers.close()
        self.core.close()
        for file in (*self.slabs, self.answers):
            file.close()
        for fd in (self.append, self.wake_fd):
            os.close(fd)

    def drop(self) -> None:
        for slab in self.slabs:
            page_cache.drop(slab.fileno())

    def begin(self, tag: int, offset: int, length: int, fd: int | None = None) -> bool:
        return self.fetchers.begin(
            self.core, self.tree, offset, length, HEAD.pack(tag, length),
            self.append if fd is None else fd, tag,
        )  # fmt: skip

    def ended(self, count: int) -> tuple[list[int], list[native.Note]]:
        """Wait to be woken until so many jobs have ended."""
        tags: list[int] = []
        notes: list[native.Note] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(tags) < count:
            assert select.select([self.wake_fd], [], [], deadline - time.monotonic())[0]
            os.eventfd_read(self.wake_fd)
            found, said = self.fetchers.take()
            tags += found
            notes += said
        return tags, notes

    def answered(self) -> dict[int, bytes]:
        """All answers there are, by tag; each tag once."""
        self.answers.seek(0)
        raw, at, found = self.answers.read(), 0, {}
        while at < len(raw):
            tag, length = HEAD.unpack_from(raw, at)
            at += HEAD.size
            assert tag not in found
            found[tag] = raw[at : at + length]
            assert len(found[tag]) == length
            at += length
        return found


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.close()


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """Who writes to it waits until it is read."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, bytes(BLOCK))
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    yield reading, writing
    for fd in (reading, writing):
        os.close(fd)


def read_all(fd: int, until: int) -> bytes:
    found = b""
    while len(found) < until:
        found += os.read(fd, until)
    return found


def bytes_in(reading: int) -> int:
    """How many bytes a pipe holds."""
    (count,) = struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, bytes(4)))
    return int(count)


ranges = st.lists(
    st.tuples(st.integers(0, SPAN * BLOCK - 1), st.integers(1, 40 * BLOCK)), min_size=1, max_size=30
)


@given(asked=ranges, cold=st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_answer_is_what_run_read_finds(asked: list[tuple[int, int]], cold: bool) -> None:
    disk = Disk(jobs=32)
    try:
        if cold:
            disk.drop()
        expected = {}
        for tag, (offset, wanted) in enumerate(asked):
            length = min(wanted, SPAN * BLOCK - offset)
            first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
            buffer = bytearray(length)
            disk.core.run_read(
                disk.core.plan_read(disk.tree, first, end - first), offset, memoryview(buffer)
            )
            assert buffer == disk.data[offset : offset + length]
            expected[tag] = bytes(buffer)
            if cold:
                disk.drop()
        for tag, (offset, _) in enumerate(asked):
            while not disk.begin(tag, offset, len(expected[tag])):
                disk.ended(1)
        disk.fetchers.stop()
        assert disk.answered() == expected
    finally:
        disk.close()


def test_many_jobs_end_once_each_and_no_more_are_begun_than_there_is_room_for(disk: Disk) -> None:
    disk.drop()
    choose, refused, ended = random.Random(2), 0, []
    asked = {tag: choose.randrange(SPAN) for tag in range(2000)}
    for tag, block in asked.items():
        while not disk.begin(tag, block * BLOCK, BLOCK):
            refused += 1
            ended += disk.ended(1)[0]
    ended += disk.ended(len(asked) - len(ended))[0]
    assert refused
    assert sorted(ended) == sorted(asked)
    answers = disk.answered()
    for tag, block in asked.items():
        assert answers[tag] == disk.data[block * BLOCK : (block + 1) * BLOCK]


def test_large_jobs_have_room_of_their_own(disk: Disk) -> None:
    assert not disk.begin(0, 0, native.FETCH_BYTES_MAX + 1)
    assert disk.begin(1, 5, native.FETCH_BYTES_MAX)
    assert disk.begin(2, 5, BLOCK)
    assert sorted(disk.ended(2)[0]) == [1, 2]
    assert disk.answered()[1] == disk.data[5 : 5 + native.FETCH_BYTES_MAX]


def test_a_bad_block_is_handed_to_nobody_and_named(disk: Disk) -> None:
    extent = next(e for e in disk.core.lookup(disk.tree, 0, SPAN) if e.block <= 3)
    address = extent.address + 3 - extent.block
    os.pwrite(disk.slabs[address // SLOTS].fileno(), b"????", address % SLOTS * BLOCK)
    disk.drop()
    assert disk.begin(1, 0, 8 * BLOCK)
    assert disk.begin(2, 4 * BLOCK, BLOCK)
    tags, notes = disk.ended(2)
    assert sorted(tags) == [1, 2]
    (failed,) = [note for note in notes if note.error is not None]
    assert failed.tag == 1
    assert isinstance(failed.error, native.CorruptBlock)
    assert (failed.error.block, failed.error.address) == (3, address)
    assert disk.answered().keys() == {2}


def test_a_slab_that_cannot_be_read_is_an_error(disk: Disk) -> None:
    with open(os.devnull, "wb") as unreadable:
        extent = disk.core.lookup(disk.tree, 0, 1)[0]
        slab = disk.slabs[extent.address // SLOTS].fileno()
        kept = os.dup(slab)
        os.dup2(unreadable.fileno(), slab)
        try:
            assert disk.begin(1, 0, BLOCK)
            _, (note,) = disk.ended(1)
        finally:
            os.dup2(kept, slab)
            os.close(kept)
    assert isinstance(note.error, OSError)
    assert note.error.errno
    assert disk.answered() == {}


def test_whoever_asked_may_have_gone(disk: Disk) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    gone = os.dup(writing)
    os.close(gone)
    assert disk.begin(1, 0, BLOCK, writing)  # EPIPE, and no signal
    assert disk.begin(2, 0, BLOCK, gone)  # EBADF
    tags, notes = disk.ended(2)
    os.close(writing)
    assert sorted(tags) == [1, 2]
    assert not [note for note in notes if note.error]


def test_what_is_warm_is_said_to_be(disk: Disk) -> None:
    buffer = bytearray(BLOCK)
    for _ in range(20):  # the host may drop a page between a read and the next
        disk.core.read_into(disk.tree, 0, buffer)
        assert disk.begin(1, 0, BLOCK)
        tags, notes = disk.ended(1)
        assert tags == [1]
        if notes:
            break
    assert notes == [native.Note(1, None)]
    disk.drop()
    assert disk.begin(2, 0, BLOCK)
    assert disk.ended(1) == ([2], [])


def test_one_that_waits_stops_nobody_else(disk: Disk, full_pipe: tuple[int, int]) -> None:
    reading, writing = full_pipe
    filled = bytes_in(reading)
    disk.drop()
    assert disk.begin(1, 0, BLOCK, writing)
    for tag in range(2, 40):
        while not disk.begin(tag, tag * BLOCK, BLOCK):
            time.sleep(0)
            disk.fetchers.take()
    deadline = time.monotonic() + DEADLINE_S
    while os.fstat(disk.answers.fileno()).st_size < 38 * (HEAD.size + BLOCK):
        assert time.monotonic() < deadline
        time.sleep(0.001)  # an answer can be seen before it is there whole
    assert disk.answered().keys() == set(range(2, 40))
    answer = read_all(reading, filled + HEAD.size + BLOCK)[filled:]
    assert answer[HEAD.size :] == disk.data[:BLOCK]


def test_stop_waits_for_what_is_under_way(disk: Disk, full_pipe: tuple[int, int]) -> None:
    reading, writing = full_pipe
    filled = bytes_in(reading)
    jobs = 9  # more than threads: some are still queued
    for tag in range(jobs):
        assert disk.begin(tag, tag * BLOCK, BLOCK, writing)
    stopping = threading.Thread(target=disk.fetchers.stop)
    stopping.start()
    stopping.join(0.05)
    assert stopping.is_alive()
    whole = read_all(reading, filled + jobs * (HEAD.size + BLOCK))
    stopping.join(DEADLINE_S)
    assert not stopping.is_alive()
    assert len(whole) == filled + jobs * (HEAD.size + BLOCK)
    assert sorted(disk.fetchers.take()[0]) == list(range(jobs))
    assert not disk.begin(99, 0, BLOCK)


def test_a_map_that_is_not_in_memory_is_not_waited_for(disk: Disk) -> None:
    sealed = disk.core.seal()
    disk.nodes.update((number, bytes(data)) for number, data in sealed.nodes())
    disk.core.release(sealed)
    disk.core.release_freed(sealed)
    disk.core.forget()
    assert not disk.begin(1, 0, BLOCK)
    disk.core.read_into(disk.tree, 0, bytearray(BLOCK))
    assert disk.begin(1, 0, BLOCK)
    disk.ended(1)


def test_threads_are_started_when_they_are_needed_and_no_signal_comes_to_them(disk: Disk) -> None:
    tasks = Path("/proc/self/task")
    before = {task.name for task in tasks.iterdir()}
    disk.begin(1, 0, BLOCK)
    disk.ended(1)
    started = {task.name for task in tasks.iterdir()} - before
    assert 2 <= len(started) <= 5  # one of them watches
    for task in started:
        status = (tasks / task / "status").read_text()
        blocked = next(int(line.split()[1], 16) for line in status.splitlines() if "SigBlk" in line)
        for signal in (1, 2, 10, 12, 13, 15, 17):
            assert blocked >> (signal - 1) & 1
