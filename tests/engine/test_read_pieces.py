"""Several ranges of a file in one call: what ``read`` says, as far as nothing has to wait."""

import os
import random
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import page_cache
import pytest
from chance import SEED
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import ROOT_INO, Store, Volume, errors

sys.path.append(str(Path(__file__).parents[1] / "faults"))
from small_disk import small_disk
from small_store import small_store

BLOCK = 4096
BLOCKS = 40
HOLES = range(10, 14), range(20, 21), range(30, 38)
EDGE = 64  # bytes before, between and behind places, which nobody may touch
UNTOUCHED = 0xA5


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    with small_disk("ext4") as root:
        yield root


@pytest.fixture(scope="module")
def store(disk: Path) -> Iterator[Store]:
    place = disk / "pieces"
    with small_store(place, "lab") as made:
        yield made
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def lab(store: Store) -> Volume:
    return store.volume("lab")


@pytest.fixture(scope="module")
def ino(lab: Volume) -> int:
    """A file with holes, of BLOCKS blocks and a bit."""
    return file(lab, b"f", seed=SEED)


def file(volume: Volume, name: bytes, seed: int = SEED) -> int:
    ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
    source = random.Random(seed)
    for block in range(BLOCKS):
        if not any(block in hole for hole in HOLES):
            volume.write(ino, block * BLOCK, source.randbytes(BLOCK))
    volume.write(ino, BLOCKS * BLOCK, b"the end")
    return ino


def asked(ranges: list[tuple[int, int]]) -> tuple[bytes, memoryview, list[int]]:
    """Ranges (offset, size) as ``read_pieces`` wants them, a buffer with all of them apart, and
    their places."""
    at, places, told = EDGE, [], b""
    for offset, size in ranges:
        told += struct.pack("=QII", offset, size, at)
        places.append(at)
        at += size + EDGE
    return told, memoryview(bytearray([UNTOUCHED]) * at), places


def read(lab: Volume, ino: int, ranges: list[tuple[int, int]]) -> int:
    """How many were read; those are right, and nothing else was touched but the next's place."""
    told, buffer, places = asked(ranges)
    count = lab.read_pieces(ino, memoryview(told), len(ranges), buffer)
    end = 0
    for n, ((offset, size), at) in enumerate(zip(ranges, places, strict=True)):
        assert set(buffer[end:at]) == {UNTOUCHED}
        if n < count:
            assert buffer[at : at + size] == lab.read(ino, offset, size)
        elif n > count:
            assert set(buffer[at : at + size]) <= {UNTOUCHED}
        end = at + size
    assert set(buffer[end:]) == {UNTOUCHED}
    return count


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.integers(0, BLOCKS * BLOCK + 7),
                st.builds(
                    lambda block, by: max(block * BLOCK + by, 0),
                    st.integers(0, BLOCKS), st.integers(-2, 2),
                ),
            ),
            st.one_of(st.integers(0, 9), st.sampled_from([BLOCK, 2 * BLOCK, 150_000])),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_pieces_are_what_read_says(lab: Volume, ino: int, ranges: list[tuple[int, int]]) -> None:
    size = lab.inode(ino).size
    ranges = [(offset, min(length, size - offset)) for offset, length in ranges]
    assert read(lab, ino, ranges) == len(ranges)


def test_a_hole_is_zeroes_and_its_place_is_filled(lab: Volume, ino: int) -> None:
    hole = HOLES[2]
    ranges = [(hole.start * BLOCK, 5), (hole.start * BLOCK - 3, 9), (hole.start * BLOCK, 8 * BLOCK)]
    assert read(lab, ino, ranges) == 3
    told, buffer, places = asked(ranges)
    assert lab.read_pieces(ino, memoryview(told), 3, buffer) == 3
    assert not any(buffer[places[2] : places[2] + 8 * BLOCK])


def test_a_file_of_holes_only(lab: Volume) -> None:
    ino = lab.create(ROOT_INO, b"empty", 0o644, 0, 0).ino
    lab.setattr(ino, size=1 << 40)
    assert read(lab, ino, [((1 << 40) - 9, 9), (0, BLOCK), (7, 0), (1 << 30, 70_000)]) == 4


def test_as_many_as_are_asked_for(lab: Volume, ino: int) -> None:
    told, buffer, places = asked([(0, BLOCK)] * 3)
    for count in (0, 1, 2):
        buffer[:] = bytes([UNTOUCHED]) * len(buffer)
        assert lab.read_pieces(ino, memoryview(told), count, buffer) == count
        assert set(buffer[places[count] :]) == {UNTOUCHED}
    with pytest.raises(AssertionError):
        lab.read_pieces(ino, memoryview(told), 4, buffer)


def test_a_buffer_that_cannot_be_written_is_refused(lab: Volume, ino: int) -> None:
    told, _, _ = asked([(0, 5)])
    with pytest.raises((BufferError, TypeError)):
        lab.read_pieces(ino, memoryview(told), 1, memoryview(bytes(999)))


def test_what_is_no_file_is_said_to_be_none(lab: Volume) -> None:
    told, buffer, _ = asked([(0, 5)])
    with pytest.raises(errors.IsADirectory):
        lab.read_pieces(ROOT_INO, memoryview(told), 1, buffer)
    with pytest.raises(errors.Stale):
        lab.read_pieces(9999, memoryview(told), 1, buffer)


def slot(store: Store, lab: Volume, ino: int, block: int) -> tuple[int, int]:
    """Where a block is: a slab's descriptor, and the offset there."""
    for extent in lab.extents(ino):
        if extent.block <= block < extent.block + extent.count:
            slab, at = divmod(
                extent.address + block - extent.block, store.pool.superblock.slab_slots
            )
            return store.pool.slabs.fd(slab), at * BLOCK
    raise AssertionError("a hole")


def drop(store: Store, lab: Volume, ino: int, block: int) -> None:
    """No page from a block's on to the end of its slab is in memory, nor a dirty one."""
    store.commit()
    fd, at = slot(store, lab, ino, block)
    page_cache.drop(fd, at)


def test_a_cold_piece_ends_it(store: Store, lab: Volume) -> None:
    ino = file(lab, b"cold", SEED + 1)
    ranges = [(n * BLOCK + 5, 100) for n in range(9)]
    assert read(lab, ino, ranges) == 9
    for cold in (6, 3, 0):
        for _ in range(20):  # the host may drop a page as well
            lab.read(ino, 0, 9 * BLOCK)
            drop(store, lab, ino, cold)
            told, buffer, places = asked(ranges)
            count = lab.read_pieces(ino, memoryview(told), 9, buffer)
            assert count <= cold
            if count == cold:
                break
        assert count == cold
        assert set(buffer[places[cold] + 100 :]) == {UNTOUCHED}
    lab.read(ino, 0, 9 * BLOCK)
    assert read(lab, ino, ranges) == 9
    assert store.pool.oldest_pin() is None


def test_a_map_that_is_not_in_memory_ends_it(store: Store, lab: Volume) -> None:
    ino = file(lab, b"map", SEED + 2)
    store.commit()
    store.pool.core.forget()
    ranges = [(0, 9), ((BLOCKS - 1) * BLOCK, 9)]
    told, buffer, _ = asked(ranges)
    assert lab.read_pieces(ino, memoryview(told), 2, buffer) == 0
    assert set(buffer) == {UNTOUCHED}
    lab.read(ino, 0, 9)
    assert lab.read_pieces(ino, memoryview(told), 2, buffer) == 1
    lab.read(ino, (BLOCKS - 1) * BLOCK, 9)
    assert read(lab, ino, ranges) == 2


def test_a_bad_block_ends_it_and_is_not_counted(store: Store, lab: Volume) -> None:
    ino = file(lab, b"bad", SEED + 3)
    store.commit()
    fd, at = slot(store, lab, ino, 4)
    good = os.pread(fd, BLOCK, at)
    os.pwrite(fd, b"damaged!", at + 99)
    ranges = [(n * BLOCK, BLOCK) for n in range(8)]
    told, buffer, places = asked(ranges)
    before = store.pool.corrupt_reads.count
    assert lab.read_pieces(ino, memoryview(told), 8, buffer) == 4
    assert set(buffer[places[4] + BLOCK :]) == {UNTOUCHED}
    assert store.pool.corrupt_reads.count == before  # that is told by who reads it alone
    with pytest.raises(errors.Corrupt, match="block 4"):
        lab.read(ino, 4 * BLOCK, BLOCK)
    os.pwrite(fd, good, at)
    assert read(lab, ino, ranges) == 8


def test_a_part_of_a_bad_block_is_bad_too(store: Store, lab: Volume) -> None:
    ino = file(lab, b"part", SEED + 4)
    store.commit()
    fd, at = slot(store, lab, ino, 1)
    os.pwrite(fd, b"damaged!", at + 99)
    told, buffer, _ = asked([(0, BLOCK), (BLOCK + 3000, 5), (2 * BLOCK, 5)])
    assert lab.read_pieces(ino, memoryview(told), 3, buffer) == 1


def test_a_snapshot_has_what_it_had(store: Store, lab: Volume) -> None:
    ino = file(lab, b"past", SEED + 5)
    past = store.create_snapshot(lab, "s")
    then = lab.read(ino, 0, 2 * BLOCK)
    lab.write(ino, 0, b"new" * BLOCK)
    told, buffer, places = asked([(1, BLOCK), (0, 2 * BLOCK)])
    assert past.read_pieces(ino, memoryview(told), 2, buffer) == 2
    assert buffer[places[0] : places[0] + BLOCK] == then[1 : 1 + BLOCK]
    assert buffer[places[1] : places[1] + 2 * BLOCK] == then
    assert read(lab, ino, [(0, BLOCK)]) == 1
