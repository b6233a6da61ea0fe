"""Stored records that lie, with checksums that hold: each case here once hung, crashed or stuck."""

import contextlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
import xxhash

from engine import ROOT_INO, Store, errors, fsck, keys
from engine.inode import Inode
from engine.meta import TABLES
from engine.nodes import Node, decode, encode, is_namespace
from engine.superblock import State


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Store.create(tmp_path / "s", fanout=4, records_max=4, slab_slots=64)
    with Store.open(tmp_path / "s") as store:
        volume = store.create_volume("v")
        one = volume.mkdir(ROOT_INO, b"one", 0o755, 0, 0)
        volume.mkdir(one.ino, b"two", 0o755, 0, 0)
        file = volume.create(ROOT_INO, b"file", 0o644, 0, 0)
        volume.write(file.ino, 0, b"a" * 50_000)
    return tmp_path / "s"


@contextlib.contextmanager
def records(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The store's tables, to be changed behind its back."""
    env = lmdb.open(str(path / "meta"), max_dbs=len(TABLES))
    tables = {n: env.open_db(n.encode(), integerkey=n == "nodes") for n in TABLES}
    with env.begin(write=True) as txn:
        yield txn, tables
    env.close()


def change_nodes(path: Path, change: Callable[[Node], None]) -> None:
    """Every namespace node, with its checksum made right again."""
    with Store.open(path) as store:
        seed = store.pool.superblock.hash_seed
    with records(path) as (txn, tables):
        for key, raw in list(txn.cursor(tables["nodes"])):
            if is_namespace(raw):
                node = decode(struct.unpack("=Q", key)[0], raw, seed)
                change(node)
                txn.put(key, encode(node, seed), db=tables["nodes"])


def change_inodes(path: Path, change: Callable[[Inode], None]) -> None:
    def each(node: Node) -> None:
        for at, key in enumerate(node.keys):
            if not node.level and key[:1] == b"I":
                inode = Inode.unpack(keys.ino_of_inode_key(key), node.vals[at])  # type: ignore[arg-type]
                change(inode)
                node.vals[at] = inode.pack()  # type: ignore[call-overload]

    change_nodes(path, each)


def test_a_namespace_that_leads_in_a_circle_is_corrupt(path: Path) -> None:
    def circle(node: Node) -> None:
        if node.level:
            node.vals = [node.id] * len(node.keys)

    change_nodes(path, circle)
    with Store.open(path) as store:
        volume = store.volume("v")
        for call in (
            lambda: volume.lookup(ROOT_INO, b"file"),
            lambda: volume.readdir(ROOT_INO),
            lambda: volume.create(ROOT_INO, b"new", 0o644, 0, 0),
        ):
            with pytest.raises(errors.Corrupt):
                call()
        with pytest.raises(errors.Corrupt):
            store.account()
        assert {f.check for f in fsck.check(store).findings} >= {"F3"}


def test_a_namespace_node_of_a_later_epoch_is_never_used(path: Path) -> None:
    """Both sides of a clone would change it in place."""

    def later(node: Node) -> None:
        node.birth += 1000

    change_nodes(path, later)
    with Store.open(path) as store, pytest.raises(errors.Corrupt, match="epoch"):
        store.volume("v").lookup(ROOT_INO, b"file")


def test_directories_below_themselves_end_every_walk(path: Path) -> None:
    with Store.open(path) as store:
        volume = store.volume("v")
        one = volume.lookup(ROOT_INO, b"one").ino
        two = volume.lookup(one, b"two").ino
        cookie = volume.inode(two).parent_cookie

    def circle(inode: Inode) -> None:
        if inode.ino == one:
            inode.parent, inode.parent_cookie = two, cookie

    change_inodes(path, circle)
    with Store.open(path) as store:
        volume = store.volume("v")
        assert volume.path_of(two) is None
        with pytest.raises(errors.Corrupt):
            volume.rename(ROOT_INO, b"file", two, b"file")
            volume.mkdir(ROOT_INO, b"three", 0o755, 0, 0)
            volume.rename(ROOT_INO, b"three", two, b"three")


def test_counts_that_would_fall_below_zero_stop_one_call_and_no_commit(path: Path) -> None:
    def zero(inode: Inode) -> None:
        inode.nlink = inode.entries = 0

    change_inodes(path, zero)
    with Store.open(path) as store:
        volume = store.volume("v")
        one = volume.lookup(ROOT_INO, b"one").ino
        for call in (
            lambda: volume.unlink(ROOT_INO, b"file"),
            lambda: volume.rmdir(one, b"two"),
            lambda: volume.rename(ROOT_INO, b"file", one, b"moved"),
        ):
            with pytest.raises(errors.Corrupt):
                call()
        volume.write(volume.lookup(ROOT_INO, b"file").ino, 0, b"new")
        store.commit()


@pytest.mark.parametrize("field", ["height", "blocks", "root", "size", "next_cookie"])
def test_an_inode_that_makes_no_sense_is_corrupt(path: Path, field: str) -> None:
    def lie(inode: Inode) -> None:
        setattr(inode, field, 0 if getattr(inode, field) and field == "root" else 200)
        if field in ("size", "next_cookie", "blocks"):
            setattr(inode, field, (1 << 64) - 1)

    change_inodes(path, lie)
    with Store.open(path) as store, pytest.raises(errors.Corrupt):
        volume = store.volume("v")
        volume.read(volume.lookup(ROOT_INO, b"file").ino, 0, 9)


def test_nodes_in_a_net_are_reclaimed_once_each(path: Path) -> None:
    """Four nodes a level, each with all four of the next: 4^18 paths."""
    with Store.open(path) as store:
        superblock = store.pool.superblock
        first = store.pool.state.next_node
    levels = 19
    with records(path) as (txn, tables):
        for number in range(4 * levels):
            level = number // 4
            below, blocks = 4**level, 4 ** (level + 1)
            entries = [
                (first + 4 * (level - 1) + i, below) if level else (i | 1 << 48, 7)
                for i in range(4)
            ]
            raw = bytearray(struct.pack("<IBBHQQQQQ", 0x584D5452, 1, level, 4, first + number,
                                        1 << 20, 0, blocks, 0))  # fmt: skip
            raw += b"".join(struct.pack("<QQ", *entry) for entry in entries)
            struct.pack_into("<Q", raw, 24, xxhash.xxh3_64_intdigest(raw, superblock.hash_seed))
            txn.put(struct.pack("=Q", first + number), bytes(raw), db=tables["nodes"])
        state = State.unpack(txn.get(b"state", db=tables["super"]))
        state.epoch, state.next_node = 1 << 20, first + 4 * levels
        txn.put(b"state", state.pack(), db=tables["super"])

    def root(inode: Inode) -> None:
        if inode.is_file:
            inode.root, inode.height, inode.blocks = first + 4 * levels - 1, levels, 4**levels

    change_inodes(path, root)
    with Store.open(path) as store:
        volume = store.volume("v")
        assert volume.seek_data(volume.lookup(ROOT_INO, b"file").ino, 0) == 0
        volume.unlink(ROOT_INO, b"file")
        assert store.reclaim(30)
        assert store.gc().nodes_visited < 100


def test_a_failed_open_leaves_nothing_open(path: Path) -> None:
    with records(path) as (txn, tables):
        ((key, good),) = txn.cursor(tables["volumes"])
        txn.put(key, good[:-1], db=tables["volumes"])
    for _ in range(3):
        with pytest.raises(errors.Corrupt, match="volume"):
            Store.open(path)
    with records(path) as (txn, tables):
        txn.put(key, good, db=tables["volumes"])
    with Store.open(path) as store:
        assert fsck.check(store, data=True).clean


def test_a_damaged_orphan_does_not_keep_the_store_shut(path: Path) -> None:
    with records(path) as (txn, tables):
        txn.put(bytes(16), b"short", db=tables["orphans"])
        txn.put(b"key", b"short", db=tables["orphans"])
        txn.put(bytes(8), b"short", db=tables["reclaim"])
    for _ in range(2):
        with Store.open(path) as store:
            store.gc()
            assert fsck.check(store, data=True).clean


def test_counters_behind_what_is_stored_are_corrupt(path: Path) -> None:
    with records(path) as (txn, tables):
        state = State.unpack(txn.get(b"state", db=tables["super"]))
        state.next_node = 2
        txn.put(b"state", state.pack(), db=tables["super"])
    with pytest.raises(errors.Corrupt, match="counter"):
        Store.open(path)


def test_a_first_separator_may_be_greater_than_the_second(tmp_path: Path) -> None:
    """It counts as minus infinity: attributes of the root, then entries, whose keys are smaller."""
    Store.create(tmp_path / "s", fanout=4, records_max=4)
    with Store.open(tmp_path / "s") as store:
        volume = store.create_volume("v")
        for n in range(6):
            volume.set_xattr(ROOT_INO, b"user.%d" % n, b"x")
        for n in range(20):
            volume.create(ROOT_INO, b"f%d" % n, 0o644, 0, 0)
        store.commit()
        assert fsck.check(store).findings == []
        volume.drop_caches()
        assert len(volume.readdir(ROOT_INO)) == 20
