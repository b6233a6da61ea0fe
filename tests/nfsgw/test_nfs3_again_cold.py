"""READs and WRITEs in steps of a file that is not in memory: a step ends where it would wait."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import page_cache
import pytest
from again_files import BLOCK, File, following, status_of
from exported import Exported, exported
from nfs3_client import Nfs3Client
from pipelined import READ, Steps, burst, call, read_arguments

sys.path.append(str(Path(__file__).parents[1] / "faults"))
from small_disk import small_disk

BLOCKS = 12
DEADLINE_S = 60


@pytest.fixture(scope="module")
def world() -> Iterator[Exported]:
    with small_disk("ext4") as root:
        place = root / "exported"
        place.mkdir()
        with exported(place) as made:
            yield made
        shutil.rmtree(place)


@pytest.fixture
def file(world: Exported, root: Nfs3Client, top: bytes) -> File:
    """Of BLOCKS blocks, whose calls are known; written one by one, to be dropped so."""
    made = File(root, root.create(top, b"f").handle)
    for n in range(BLOCKS):
        root.write(made.handle, n * BLOCK, os.urandom(BLOCK))
    root.read(made.handle, 0, 1)
    return made


@pytest.fixture
def steps(file: File, monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


def drop(world: Exported, file: File, block: int) -> None:
    """No page from a block's on to the end of its slab is in memory, nor a dirty one."""
    ino = file.client.getattr(file.handle).fileid & ((1 << 40) - 1)

    def dropped() -> None:
        world.store.commit()
        addresses = [e.address + n for e in world.lab.extents(ino) for n in range(e.count)]
        slab, slot = divmod(addresses[block], world.store.pool.superblock.slab_slots)
        page_cache.drop(world.store.pool.slabs.fd(slab), slot * BLOCK)

    world.do(dropped)


@pytest.mark.parametrize("cold", [0, 1, 7, BLOCKS - 1])
def test_a_cold_block_ends_a_step(world: Exported, file: File, steps: Steps, cold: int) -> None:
    data = file.contents()
    calls = [
        call(file.client.rpc, READ, read_arguments(file.handle, n * BLOCK + 5, BLOCK - 7))
        for n in range(BLOCKS)
    ]
    drop(world, file, cold)
    steps.of_these()
    found = burst(world, file.client.rpc, calls)
    assert steps.of_these()[0] == cold  # how it goes on is the disk's matter
    for n, answer in enumerate(found):
        start = n * BLOCK + 5
        assert answer[128 : 128 + BLOCK - 7] == data[start : start + BLOCK - 7]
    deadline = time.monotonic() + DEADLINE_S
    while steps.of_these() != [BLOCKS]:  # a host that is short of memory may take a page again
        assert time.monotonic() < deadline
        assert burst(world, file.client.rpc, calls) == found


@pytest.mark.parametrize("cold", [0, 1, 2])
def test_writes_that_have_to_read_first(
    world: Exported, file: File, steps: Steps, cold: int
) -> None:
    """The first and the last block of a step are patched, the others are compared at most."""
    data = bytearray(file.contents())
    parts = [os.urandom(1000) for _ in range(10)]
    start = cold * BLOCK + 77
    data[start : start + 10_000] = b"".join(parts)
    drop(world, file, cold)
    steps.of_these()
    found = burst(world, file.client.rpc, following(file, start, parts))
    assert {status_of(each) for each in found} == {0}
    assert steps.of_these()[0] == 0
    assert file.contents() == data
