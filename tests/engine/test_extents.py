"""A file's extents: the slots have its bytes, the pages add up, what is shared is told."""

import itertools
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from engine import ROOT_INO, Store, Volume
from native import Extent

BLOCK, SLAB_SLOTS, FILE_BLOCKS = 4096, 64, 200
PLACES = st.integers(0, FILE_BLOCKS)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "punch", "clone", "truncate", "commit"]),
        PLACES, st.integers(1, 90), st.integers(1, 4),
    ),
    min_size=1, max_size=14,
)  # fmt: skip


def content(kind: int, first: int, count: int, stamp: int) -> bytes:
    """Kind 1 is the same everywhere, so that blocks are found stored already."""
    if kind == 1:
        return b"\x07" * BLOCK * count
    return b"".join((stamp << 32 | n).to_bytes(8, "big") * 512 for n in range(first, first + count))


def pages(volume: Volume, ino: int, limit: int) -> list[Extent]:
    found: list[Extent] = []
    block: int | None = 0
    while block is not None:
        page, following = volume.extents_page(ino, block, limit)
        assert len(page) <= limit
        assert following is None or following > block
        found += page
        block = following
    return found


def blocks(extents: list[Extent]) -> dict[int, tuple[int, bool]]:
    found: dict[int, tuple[int, bool]] = {}
    for extent in extents:
        for n in range(extent.count):
            assert extent.block + n not in found
            found[extent.block + n] = extent.address + n, extent.shared
    return found


def run_steps(store: Store, steps: list[tuple[str, int, int, int]]) -> list[int]:
    lab = store.create_volume("lab")
    files = [lab.create(ROOT_INO, b"0", 0o644, 0, 0).ino]
    for stamp, (what, place, count, kind) in enumerate(steps):
        ino = files[place % len(files)]
        if what == "write":
            lab.write(ino, place * BLOCK, content(kind, place, count, stamp))
        elif what == "punch":
            lab.punch(ino, place * BLOCK, count * BLOCK)
        elif what == "truncate":
            lab.setattr(ino, size=place * BLOCK + kind)
        elif what == "clone":
            name = b"%d" % len(files)
            files.append(store.clone_file(lab, ino, lab, ROOT_INO, name).ino)
        else:
            store.commit()
    return files


@given(steps=STEPS, limit=st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_extents_tell_where_the_bytes_are(
    steps: list[tuple[str, int, int, int]], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        Store.create(Path(name, "s"), fanout=4, slab_slots=SLAB_SLOTS)
        with Store.open(Path(name, "s")) as store:
            files = run_steps(store, steps)
            lab, slabs = store.volume("lab"), store.pool.slabs
            users: dict[int, int] = {}
            said: list[tuple[int, bool]] = []
            for ino in files:
                extents = list(lab.extents(ino))
                for extent in extents:
                    slab, slot = divmod(extent.address, SLAB_SLOTS)
                    assert slot + extent.count <= SLAB_SLOTS
                    whole = Path(slabs.pattern % slab).read_bytes()
                    there = whole[slot * BLOCK : (slot + extent.count) * BLOCK]
                    here = lab.read(ino, extent.block * BLOCK, extent.count * BLOCK)
                    assert there[: len(here)] == here
                mapped = blocks(extents)
                assert blocks(pages(lab, ino, limit)) == mapped
                inode = lab.inode(ino)
                assert len(mapped) == inode.blocks
                for block in range(-(-inode.size // BLOCK)):
                    if block not in mapped:
                        assert not any(lab.read(ino, block * BLOCK, BLOCK))
                for address, shared in mapped.values():
                    users[address] = users.get(address, 0) + 1
                    said.append((address, shared))
            assert all(users[address] == 1 for address, shared in said if not shared)


def test_a_write_after_a_clone_is_not_shared_and_the_rest_is(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        lab = store.create_volume("lab")
        golden = lab.create(ROOT_INO, b"golden", 0o644, 0, 0).ino
        lab.write(golden, 0, content(2, 0, 40, 1))
        assert [e.shared for e in lab.extents(golden)] == [False]
        web = store.clone_file(lab, golden, lab, ROOT_INO, b"web").ino
        assert [e.shared for e in lab.extents(golden)] == [True]
        lab.write(web, 10 * BLOCK, content(2, 10, 5, 2))
        assert [(e.block, e.count, e.shared) for e in lab.extents(web)] == [
            (0, 10, True), (10, 5, False), (15, 25, True),
        ]  # fmt: skip
        snapshot = store.create_snapshot(lab, "monday")
        assert all(e.shared for e in itertools.chain(lab.extents(web), snapshot.extents(web)))


def test_one_page_is_bounded_however_large_the_file(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        lab = store.create_volume("lab")
        ino = lab.create(ROOT_INO, b"disk", 0o644, 0, 0).ino
        lab.setattr(ino, size=1 << 44)
        for at in (0, 1 << 30, 1 << 43, (1 << 44) - BLOCK):
            lab.write(ino, at, content(2, at >> 12, 1, 3))
        page, following = lab.extents_page(ino, 0)
        assert ([e.block for e in page], following) == ([0], 1 << 15)
        assert [e.block for e in pages(lab, ino, 2)] == [0, 1 << 18, 1 << 31, (1 << 32) - 1]
        assert lab.extents_page(ino, 1 << 32) == ([], None)
        assert lab.extents_page(ino, 1 << 50) == ([], None)
