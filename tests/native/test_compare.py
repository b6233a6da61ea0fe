"""Blocks that are there already are compared with what is on the disk, many slots at a time."""

import os
import tempfile
from collections.abc import Iterator

import pytest

import native

BLOCK, SLOTS = 4096, 40
Tree = native.Tree


class Disk:
    """A core with two slabs; the first is shorter than three windows."""

    def __init__(self) -> None:
        self.slabs = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - closed below
        self.core = native.Core(
            hash_seed=7, load_node={}.__getitem__, fanout=252, slab_slots=SLOTS,
            cache_nodes=256, index_entries=1 << 10,
        )  # fmt: skip
        for number, slab in enumerate(self.slabs):
            os.ftruncate(slab.fileno(), SLOTS * BLOCK)
            self.core.add_slab(number, slab.fileno())
        self.core.epoch = 1

    def write(self, tree: native.Tree, first: int, data: bytes) -> tuple[int, ...]:
        """How many blocks were new, duplicates and zeroes."""
        before = self.core.written
        self.core.write(tree, first, data)
        return tuple(now - then for now, then in zip(self.core.written, before, strict=True))


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.core.close()
    for slab in made.slabs:
        slab.close()


def test_a_run_across_the_end_of_a_slab_is_found_whole(disk: Disk) -> None:
    data = os.urandom(60 * BLOCK)
    first, second = Tree(), Tree()
    assert disk.write(first, 0, data) == (60, 0, 0)
    assert disk.write(second, 0, data) == (0, 60, 0)
    assert disk.write(second, 0, data) == (0, 60, 0)
    assert disk.core.allocated_slots == 60


@pytest.mark.parametrize("bad", [0, 1, 15, 16, 17, 39, 40, 59])
def test_a_slot_whose_bytes_differ_is_no_duplicate(disk: Disk, bad: int) -> None:
    data = os.urandom(60 * BLOCK)
    disk.core.write(Tree(), 0, data)
    slab = disk.slabs[bad // SLOTS].fileno()
    os.pwrite(slab, b"\0", bad % SLOTS * BLOCK + 4095)
    os.pwrite(slab, bytes([data[bad * BLOCK] ^ 1]), bad % SLOTS * BLOCK)
    second, found = Tree(), bytearray(len(data))
    assert disk.write(second, 0, data) == (1, 59, 0)
    disk.core.read_into(second, 0, memoryview(found))
    assert found == data


def test_slots_in_any_order_are_compared_with_their_own_bytes(disk: Disk) -> None:
    blocks = [os.urandom(BLOCK) for _ in range(60)]
    disk.core.write(Tree(), 0, b"".join(blocks))
    mixed = [*blocks[10:30], *blocks[5:15], *reversed(blocks[20:40]), *blocks[58:], blocks[0]]
    second, found = Tree(), bytearray(len(mixed) * BLOCK)
    assert disk.write(second, 0, b"".join(mixed)) == (0, len(mixed), 0)
    disk.core.read_into(second, 0, memoryview(found))
    assert found == b"".join(mixed)


def test_a_slab_that_was_cut_short_has_no_duplicates_there(disk: Disk) -> None:
    data = os.urandom(40 * BLOCK)
    disk.core.write(Tree(), 0, data)
    os.ftruncate(disk.slabs[0].fileno(), 20 * BLOCK)
    assert disk.write(Tree(), 0, data) == (20, 20, 0)


def test_what_is_written_back_early_stays_as_it_is(disk: Disk) -> None:
    data, tree = os.urandom(20 * BLOCK), Tree()
    disk.core.write(tree, 0, data)
    native.begin_write_back(disk.slabs[0].fileno())
    native.begin_write_back(-1)  # advice: no error of it is told
    found = bytearray(len(data))
    disk.core.read_into(tree, 0, memoryview(found))
    assert found == data
