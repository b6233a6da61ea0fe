"""What is not in memory: a read that a thread finishes, and what is begun again after a wait.

That such reads find the right bytes whatever happens meanwhile is a rule of engine_machine.py.
Here are the single promises, on a file system of its own, whose pages a file can drop.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import page_cache
import pytest

from engine import ROOT_INO, Store, Volume, cold, errors
from engine.cold import Cold, Reading

sys.path.append(str(Path(__file__).parents[1] / "faults"))
from small_disk import small_disk
from small_store import small_store

BLOCK = 4096


def block(letter: str) -> bytes:
    return letter.encode() * BLOCK


def drop_slabs(store: Store) -> None:
    """No slab has a page in memory, nor a dirty one."""
    store.commit()
    for slab in range(store.pool.state.slabs):
        page_cache.drop(store.pool.slabs.fd(slab))


def file(volume: Volume, name: bytes, data: bytes) -> int:
    ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
    volume.write(ino, 0, data)
    return ino


def run(steps: cold.Steps[cold.T]) -> tuple[cold.T, int]:
    """To the end, here; the result, and how often it waited."""
    waits = 0
    while True:
        try:
            work = next(steps)
        except StopIteration as end:
            return end.value, waits
        work()
        waits += 1


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    with small_disk("ext4") as root:
        yield root


@pytest.fixture
def store(disk: Path, tmp_path: Path) -> Iterator[Store]:
    place = disk / tmp_path.name
    with small_store(place, "lab") as made:
        yield made
    shutil.rmtree(place)


@pytest.fixture
def lab(store: Store) -> Volume:
    return store.volume("lab")


def read_cold(
    store: Store, lab: Volume, ino: int, offset: int, size: int
) -> cold.Steps[memoryview]:
    buffer = memoryview(bytearray(size))
    return cold.finished(
        store.pool, lambda wait: Reading(store, lab, ino, offset, buffer, wait=wait)
    )


# --- reads


def test_a_read_that_would_wait_says_so_and_a_thread_finishes_it(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", block("a") + block("b") + block("c"))
    buffer = memoryview(bytearray(2 * BLOCK))
    assert lab.read_into(ino, 100, buffer, wait=False) == 2 * BLOCK
    drop_slabs(store)
    with pytest.raises(Cold) as told:
        lab.read_into(ino, 100, buffer, wait=False)
    assert len(told.value.slots) == 3
    found, waits = run(read_cold(store, lab, ino, 100, 2 * BLOCK))
    assert found == (block("a") + block("b") + block("c"))[100 : 100 + 2 * BLOCK]
    assert waits == 1
    assert lab.read_into(ino, 100, buffer, wait=False) == 2 * BLOCK


def test_a_read_is_short_at_the_end_of_its_file(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", b"x" * 5000)
    drop_slabs(store)
    assert run(read_cold(store, lab, ino, 4090, BLOCK))[0] == b"x" * 910
    assert run(read_cold(store, lab, ino, 9000, BLOCK))[0] == b""


def test_a_read_finds_what_was_there_when_it_began(store: Store, lab: Volume) -> None:
    """Freed, durable, and every free slot written over: its slots wait for it."""
    ino = file(lab, b"f", block("a") + block("b"))
    store.commit()
    store.pool.core.forget()
    steps = read_cold(store, lab, ino, 0, 2 * BLOCK)
    work = next(steps)
    while not hasattr(work, "__self__") or not isinstance(work.__self__, Reading):
        work()
        work = next(steps)
    lab.unlink(ROOT_INO, b"f")
    assert store.reclaim()
    store.commit()
    file(lab, b"g", b"".join(b"%8d" % n * 512 for n in range(store.pool.core.free_slots)))
    store.commit()
    store.pool.core.forget()
    work()
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == block("a") + block("b")
    assert store.pool.oldest_pin() is None
    assert store.pool.core.pending_slots == 0


def test_a_read_that_is_given_up_keeps_nothing(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", block("a"))
    drop_slabs(store)
    steps = read_cold(store, lab, ino, 0, BLOCK)
    next(steps)
    assert store.pool.oldest_pin() is not None
    steps.close()
    assert store.pool.oldest_pin() is None


def test_a_bad_block_is_named_as_ever(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", block("a"))
    store.commit()
    (extent,) = lab.extents(ino)
    slots = store.pool.superblock.slab_slots
    fd = store.pool.slabs.fd(extent.address // slots)
    os.pwrite(fd, b"?", extent.address % slots * BLOCK)
    drop_slabs(store)
    with pytest.raises(errors.Corrupt, match="lab:/f: block 0"):
        run(read_cold(store, lab, ino, 0, BLOCK))
    assert store.pool.corrupt_reads.count == 1
    assert store.pool.oldest_pin() is None


# --- writes


def write(lab: Volume, ino: int, offset: int, data: bytes) -> cold.Steps[int]:
    return cold.until_warm(lab.pool, lambda wait: lab.write(ino, offset, data, wait=wait))


WRITES = {
    "patched": (100, b"xyz"),
    "patched at both ends": (100, b"x" * (2 * BLOCK)),
    "the same": (0, block("a")),
    "a duplicate": (0, block("c")),
    "both": (0, block("a") + block("a") + block("c")),
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_write_waits_for_what_it_looks_at(store: Store, lab: Volume, kind: str) -> None:
    offset, data = WRITES[kind]
    before = bytearray(block("a") + block("b") + block("c") + block("d"))
    ino = file(lab, b"f", bytes(before))
    drop_slabs(store)
    mtime, taken = lab.inode(ino).mtime_ns, store.pool.core.free_slots
    with pytest.raises(Cold):
        lab.write(ino, offset, data, wait=False)
    assert (lab.inode(ino).mtime_ns, store.pool.core.free_slots) == (mtime, taken)
    assert not store.dirty
    done, waits = run(write(lab, ino, offset, data))
    assert done == len(data)
    assert waits <= 2
    before[offset : offset + len(data)] = data
    assert lab.read(ino, 0, len(before)) == before


def test_a_write_of_new_blocks_waits_for_nothing(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", block("a") + block("b"))
    drop_slabs(store)
    assert lab.write(ino, 0, block("x"), wait=False) == BLOCK


def test_a_write_that_waited_meets_the_file_as_it_is_then(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", block("a") + block("b"))
    drop_slabs(store)
    steps = write(lab, ino, 10, b"xyz")
    next(steps)()
    lab.write(ino, 0, block("n"))
    lab.setattr(ino, size=BLOCK)
    with pytest.raises(StopIteration):
        next(steps)
    assert lab.read(ino, 0, 2 * BLOCK) == b"n" * 10 + b"xyz" + b"n" * (BLOCK - 13)


def test_a_write_that_waited_meets_its_checks_again(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", block("a"))
    drop_slabs(store)
    steps = write(lab, ino, 10, b"xyz")
    next(steps)()
    lab.unlink(ROOT_INO, b"f")
    lab.drop_caches()
    with pytest.raises(errors.Stale):
        next(steps)


def test_what_stays_cold_is_waited_for_on_the_spot(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", block("a"))
    waits = []
    steps = write(lab, ino, 10, b"xyz")
    while True:
        drop_slabs(store)
        try:
            waits.append(next(steps))
        except StopIteration as end:
            assert end.value == 3
            break
    assert len(waits) == 1


# --- nodes


def test_a_node_that_is_not_in_memory_is_waited_for(store: Store, lab: Volume) -> None:
    data = b"".join(block(letter) for letter in "abcdefghijklmnopqrst")
    ino = file(lab, b"f", data)
    store.commit()
    store.pool.core.forget()
    with pytest.raises(Cold) as told:
        lab.read_into(ino, 0, memoryview(bytearray(10)), wait=False)
    assert told.value.node
    found, waits = run(read_cold(store, lab, ino, 0, len(data)))
    assert found == data
    assert waits > 3
    assert store.pool.meta.readers == 0
    assert not store.pool.core.warmed


def test_a_node_is_loaded_as_it_is_after_the_wait(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", block("a") + block("b"))
    store.commit()
    store.pool.core.forget()
    steps = read_cold(store, lab, ino, 0, 2 * BLOCK)
    next(steps)()
    lab.write(ino, 0, block("n"))
    store.commit()
    store.pool.core.forget()
    next(steps)()
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == block("n") + block("b")


def test_a_damaged_node_is_said_to_be(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", block("a"))
    store.commit()
    store.pool.core.forget()
    root = lab.inode(ino).root
    with store.pool.meta.env.begin(write=True) as txn:
        txn.delete(root.to_bytes(8, sys.byteorder), db=store.pool.meta.nodes)
    with pytest.raises(errors.Corrupt, match=f"node {root}"):
        run(read_cold(store, lab, ino, 0, BLOCK))


def test_names_are_looked_up_when_their_nodes_are_there(store: Store, lab: Volume) -> None:
    for n in range(60):
        lab.create(ROOT_INO, b"%d" % n, 0o644, 0, 0)
    store.commit()
    pool = store.pool
    pool.nodes._nodes.clear()
    lab.drop_caches()
    with pytest.raises(Cold):
        cold.hasty(pool, lambda: lab.lookup(ROOT_INO, b"42"))
    assert pool.nodes.waits and pool.core.waits
    assert lab.lookup(ROOT_INO, b"7").ino  # whoever may wait does
    pool.nodes._nodes.clear()
    lab.drop_caches()
    inode, waits = run(cold.read_only(pool, lambda: lab.lookup(ROOT_INO, b"42")))
    assert lab.path_of(inode.ino) == "/42"
    assert waits > 1


def test_edges_are_what_will_be_patched(store: Store, lab: Volume) -> None:
    ino = file(lab, b"f", b"".join(block(letter) for letter in "abcd"))
    drop_slabs(store)
    cold.probe_edges(lab, ino, 0, 2 * BLOCK, wait=False)
    with pytest.raises(Cold) as told:
        cold.probe_edges(lab, ino, BLOCK, 3 * BLOCK + 1, wait=False)
    assert len(told.value.slots) == 1
