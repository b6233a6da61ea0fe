"""Stored records an adversary wrote, checksums and all: Corrupt, in no time, in no memory."""

import resource
import shutil
from pathlib import Path

import pytest
from damage import Surgery
from test_fsck import build

from engine import ROOT_INO, Store, errors
from engine.fsck import check_path
from engine.meta import chunk_key
from engine.nodes import Node
from engine.repair import repair

MEMORY_BYTES = 512 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    build(tmp_path / "store")
    return tmp_path / "store"


def checks(path: Path) -> set[str]:
    return {finding.check for finding in check_path(path, data=True).findings}


def grown(before: int) -> int:
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10


def gc_frees_nothing(path: Path) -> None:
    """What lies below a node whose place another has is not garbage: repair may want it."""
    with Store.open(path) as store:
        assert store.reclaim()
        store.commit()
        slots = store.pool.core.allocated_slots
        with pytest.raises(errors.Corrupt, match="wrong level"):
            store.gc()
        assert store.pool.core.allocated_slots == slots


def test_a_leaf_in_the_place_of_a_node_above_it_stops_gc(path: Path) -> None:
    with Surgery(path) as surgery:
        record, leaf = surgery.volume("lab"), surgery.leaf("lab", b"")
        top = Node(surgery.state().next_node, 2, 1)
        top.keys, top.vals = [b"", b"Z"], [record.root, leaf.id]
        surgery.store(top)
        surgery.set_state(next_node=top.id + 1)
        surgery.set_volume("lab", root=top.id)
    gc_frees_nothing(path)


def test_a_namespace_that_leads_round_in_a_circle(path: Path) -> None:
    with Surgery(path) as surgery:
        root = surgery.node(surgery.volume("lab").root)
        assert root.level
        root.vals = [root.id] * len(root.keys)
        surgery.store(root)
    assert "F3" in checks(path)
    with Store.open(path, read_only=True) as store, pytest.raises(errors.Corrupt):
        store.volume("lab").readdir(ROOT_INO)
    gc_frees_nothing(path)
    assert repair(path).left.clean


def test_a_namespace_of_nodes_that_all_have_the_same_children(path: Path) -> None:
    """250 levels of fan-out six over one leaf: 6 ** 250 paths, 251 nodes."""
    with Surgery(path) as surgery:
        record, leaf = surgery.volume("lab"), surgery.leaf("lab", b"")
        child, first = leaf.id, surgery.state().next_node
        for level in range(1, 250):
            node = Node(first + level, level, 1)
            node.keys, node.vals = [b"%d" % n for n in range(6)], [child] * 6
            surgery.store(node)
            child = node.id
        surgery.set_state(next_node=first + 250)
        surgery.set_volume("lab", root=child)
        assert record.root != child
    assert "F3" in checks(path)
    repair(path)
    assert checks(path) <= {"F2"}


def test_extent_nodes_that_all_have_the_same_children(tmp_path: Path) -> None:
    """Twenty levels of fan-out four over one leaf, each count a lie."""
    path = tmp_path / "store"
    inos = build(path)
    with Surgery(path) as surgery:
        child = surgery.first_leaf(surgery.inode("lab", inos["g"]).root)
        first = surgery.state().next_node
        for level in range(1, 20):
            header, _ = surgery.extent(child)
            header[2], header[3], header[4], header[7] = level, 4, first + level, 0
            surgery.set_extent(first + level, header, [(child, 0)] * 4)
            child = first + level
        surgery.set_state(next_node=first + 20)
        surgery.set_inode("lab", inos["g"], root=child, height=20)
    assert "F4" in checks(path)
    repair(path)
    assert repair(path).repaired == []
    with Store.open(path) as store:
        assert store.volume("lab").resolve("/d/g").blocks > 1 << 36


def test_numbers_as_large_as_there_are_allocate_nothing(path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Surgery(path) as surgery:
        surgery.set_state(slabs=2**63, next_node=2**64 - 1, epoch=2**64 - 1)
        surgery.put("slots", chunk_key(2**32 - 1, 2**32 - 1), b"\xff" * 2048)
    assert {"F1", "F14"} <= checks(path)
    with pytest.raises(errors.Corrupt):
        Store.open(path)
    assert grown(before) < MEMORY_BYTES


def test_a_chunk_of_the_wrong_length_is_corrupt(path: Path) -> None:
    with Surgery(path) as surgery:
        surgery.put("slots", chunk_key(0, 0), b"\xff")
    with pytest.raises(errors.Corrupt):
        Store.open(path)
    assert repair(path).left.clean
    with Store.open(path) as store:
        assert store.volume("lab").resolve("/d").is_dir


def test_an_index_of_noise_misleads_nobody(path: Path) -> None:
    with (path / "index" / "fingerprints").open("wb") as file:
        file.write(b"\x05" * 1001 * 16)
    assert checks(path) == {"F17"}
    with Store.open(path) as store:
        lab = store.volume("lab")
        inode = lab.create(ROOT_INO, b"n", 0o644, 0, 0)
        lab.write(inode.ino, 0, b"q" * 8192)
        assert lab.read(inode.ino, 0, 8192) == b"q" * 8192


def test_a_store_that_did_not_open_can_be_opened_after_repair_in_one_process(path: Path) -> None:
    with Surgery(path) as surgery:
        surgery.put("volumes", b"\xff" * 8, b"?")
    for _ in range(2):
        with pytest.raises(errors.Corrupt):
            Store.open(path)
    repair(path)
    Store.open(path).close()


def test_lmdb_pages_of_noise(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "cut")
    (tmp_path / "cut" / "meta" / "data.mdb").write_bytes(b"\xff" * 40960)
    for call in (check_path, repair, Store.open):
        with pytest.raises(errors.Corrupt):
            call(tmp_path / "cut")
