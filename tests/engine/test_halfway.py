"""What fails half-way, or is flushed or evicted half-way, leaves a store that is whole."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from small_store import small_store

from engine import ROOT_INO, Store, Volume, clones, errors, fsck, inodes, keys
from engine.superblock import SLABS_MAX

BLOCK = 4096


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with small_store(tmp_path, "v") as made:
        yield made


def create(volume: Volume, name: bytes, blocks: int = 0) -> int:
    ino = volume.create(ROOT_INO, name, 0o644, 0, 0).ino
    for block in range(blocks):
        volume.write(ino, block * BLOCK, bytes([block + 1]) * BLOCK)
    return ino


def findings(store: Store) -> list[fsck.Finding]:
    store.commit()
    return fsck.check(store, data=True).findings


def full_after(monkeypatch: pytest.MonkeyPatch, store: Store, writes: int) -> None:
    """The disk of a store is full after so many writes of blocks."""
    real: Callable[..., Any] = store.pool.core.write
    done = []

    def write(*arguments: object, **more: object) -> object:
        done.append(1)
        if len(done) > writes:
            raise OSError(errno.ENOSPC, "full")
        return real(*arguments, **more)

    monkeypatch.setattr(store.pool.core, "write", write)


def test_a_punch_that_meets_a_full_disk_half_way_is_stored_as_far_as_it_went(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = store.volume("v")
    ino = volume.create(ROOT_INO, b"f", 0o644, 0, 0).ino
    volume.write(ino, 2048, b"H" * 2048)
    for block in range(1, 40):
        volume.write(ino, block * BLOCK, os.urandom(BLOCK))
    store.commit()
    with monkeypatch.context() as patch:
        full_after(patch, store, 1)
        with pytest.raises(errors.NoSpace):
            volume.punch(ino, 2048, 3 * BLOCK)
    assert findings(store) == []
    volume.drop_caches()
    store.pool.core.forget()
    assert len(volume.read(ino, 0, 40 * BLOCK)) == 40 * BLOCK


def test_a_range_clone_that_fails_leaves_nothing_past_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, other = store.volume("v"), store.create_volume("w")
    source, target = create(volume, b"f", 12), create(other, b"g")
    with monkeypatch.context() as patch:
        full_after(patch, store, 0)
        with pytest.raises(errors.NoSpace):
            store.clone_range(volume, source, 0, other, target, 0, 10 * BLOCK + 100)
    assert findings(store) == []
    size = other.inode(target).size
    other.setattr(target, size=12 * BLOCK)
    assert not any(other.read(target, size, 12 * BLOCK))


def test_an_inode_that_an_operation_has_is_not_loaded_a_second_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inodes, "INODES_MAX", 16)
    volume = store.volume("v")
    source = create(volume, b"source", 10)
    directory = volume.mkdir(ROOT_INO, b"d", 0o755, 0, 0).ino
    for n in range(26):
        create(volume, b"f%d" % n)
    store.commit()
    volume.drop_caches()
    volume.read(source, 0, 10)
    for n in range(15):
        volume.lookup(ROOT_INO, b"f%d" % n)
    clone = store.clone_file(volume, source, volume, directory, b"clone").ino  # loads d: evicts
    volume.write(source, 0, b"B" * BLOCK)
    assert volume.read(clone, 0, 4) == b"\1\1\1\1"
    for n in range(26):
        volume.unlink(ROOT_INO, b"f%d" % n)
    assert findings(store) == []


@pytest.mark.parametrize("waiting", range(120, 130))
def test_a_flush_in_the_middle_of_a_rename_loses_no_count(store: Store, waiting: int) -> None:
    volume = store.volume("v")
    a, b = (volume.mkdir(ROOT_INO, name, 0o755, 0, 0).ino for name in (b"a", b"b"))
    volume.mkdir(a, b"d", 0o755, 0, 0)
    files = [create(volume, b"f%d" % n) for n in range(waiting)]
    store.commit()
    for ino in files:
        volume.write(ino, 0, b"x")
    volume.rename(a, b"d", b, b"d")
    assert findings(store) == []


def test_a_staged_file_may_be_published_after_a_snapshot(store: Store) -> None:
    volume = store.volume("v")
    ino = volume.create_staged(0o644, 0, 0).ino
    volume.write(ino, 0, b"1" * BLOCK)
    volume.write(ino, 15 * BLOCK, b"2" * BLOCK)
    store.create_snapshot(volume, "s")
    volume.write(ino, 5 * BLOCK, b"3" * BLOCK)
    volume.publish(ino, ROOT_INO, b"f")
    assert findings(store) == []
    assert volume.read(ino, 5 * BLOCK, 3) == b"333"


def test_a_removed_directory_takes_no_names_and_a_deleted_file_no_marks(store: Store) -> None:
    volume = store.volume("v")
    directory = volume.mkdir(ROOT_INO, b"d", 0o755, 0, 0).ino
    ino = create(volume, b"f", 1)
    volume.hold(directory)
    volume.rmdir(ROOT_INO, b"d")
    staged = volume.create_staged(0o644, 0, 0).ino
    for call in (
        lambda: volume.rename(ROOT_INO, b"f", directory, b"g"),
        lambda: volume.publish(staged, directory, b"g"),
        lambda: store.clone_file(volume, ino, volume, directory, b"g"),
        lambda: volume.set_mark(staged, b"vm", b""),
    ):
        with pytest.raises(errors.NotFound):
            call()
    volume.release(staged)
    volume.release(directory)
    assert findings(store) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad"), MemoryError(), lmdb.Error()])
@pytest.mark.parametrize("entries", [0, 5])
def test_a_tree_whose_clone_fails_half_way_is_taken_back(
    store: Store, entries: int, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was that failed: what has its final name is taken for the whole."""
    volume = store.volume("v")
    tree = volume.mkdir(ROOT_INO, b"tree", 0o755, 0, 0).ino
    for n in range(9):
        ino = volume.create(tree, b"f%d" % n, 0o644, 0, 0).ino
        volume.write(ino, 0, bytes([n + 1]) * BLOCK)
    real, done = clones._copy_xattrs, []

    def failing(source: Volume, source_ino: int, target: Volume, ino: int) -> None:
        if len(done) == entries:
            raise error
        done.append(ino)
        real(source, source_ino, target, ino)

    with monkeypatch.context() as patch:
        patch.setattr(clones, "_copy_xattrs", failing)
        with pytest.raises(type(error)):
            store.clone_tree(volume, tree, volume, ROOT_INO, b"clone")
    assert [entry.name for entry in volume.readdir(ROOT_INO)] == [b"tree"]
    assert findings(store) == []
    clone = store.clone_tree(volume, tree, volume, ROOT_INO, b"clone")
    assert volume.inode(clone.ino).entries == 9
    assert findings(store) == []


def test_a_store_that_has_all_its_slabs_is_full(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = store.volume("v")
    ino = create(volume, b"f", 64)
    past = store.pool.slabs.file(SLABS_MAX)
    with monkeypatch.context() as patch:
        patch.setattr(store.pool.state, "slabs", SLABS_MAX)
        with pytest.raises(errors.NoSpace, match="all 65536 slabs"):
            volume.write(ino, 64 * BLOCK, os.urandom(BLOCK))
    assert not past.exists()
    assert findings(store) == []
    assert volume.inode(ino).size == 64 * BLOCK
    volume.write(ino, 64 * BLOCK, b"more" * (BLOCK // 4))
    assert findings(store) == []


def break_node_of(
    monkeypatch: pytest.MonkeyPatch, volume: Volume, ino: int, error: Exception
) -> None:  # fmt: skip
    """The node that has an inode's record cannot be read any more."""
    nodes = volume.pool.nodes
    damaged, load = volume.tree._descend(keys.inode_key(ino))[1].id, nodes._load

    def broken(node_id: int) -> bytes:
        if node_id == damaged:
            raise error
        return load(node_id)

    monkeypatch.setattr(nodes, "_load", broken)
    del nodes._nodes[damaged]


def with_changes(store: Store) -> tuple[Volume, int, int]:
    """A volume with a snapshot and two files changed since: one is shared as no record says."""
    volume, other = store.volume("v"), store.create_volume("w")
    first = create(volume, b"first", 3)
    for n in range(20):
        create(volume, b"f%02d" % n)
    last = create(volume, b"last", 3)
    store.create_snapshot(volume, "s")
    for ino in (first, last):
        volume.write(ino, 0, os.urandom(9 * BLOCK))
    store.commit()
    volume.setattr(first, mode=0o600)
    store.clone_file(volume, last, other, ROOT_INO, b"clone")
    return volume, first, last


@pytest.mark.parametrize("cure", ["restore", "remove"])
def test_damage_where_a_changed_inode_belongs_does_not_stop_its_cure(
    store: Store, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, first, last = with_changes(store)
    content = volume.read(last, 0, 9 * BLOCK)
    with monkeypatch.context() as patch:
        break_node_of(patch, volume, first, KeyError("lost"))
        with pytest.raises(errors.Corrupt):
            volume.flush()
        if cure == "restore":
            store.restore(volume, "s")
            assert volume.read(first, 0, BLOCK) == b"\1" * BLOCK
        else:
            store.remove_volume("v", force=True)
            assert [v.name for v in store.volumes()] == ["w"]
        store.commit()
        store.reclaim()
        store.commit()
    assert findings(store) == []
    other = store.volume("w")
    assert other.read(other.resolve("/clone").ino, 0, 9 * BLOCK) == content
    store.gc()
    report = fsck.check(store, data=True)
    assert (report.findings, report.garbage_slots) == ([], 0)
    assert other.read(other.resolve("/clone").ino, 0, 9 * BLOCK) == content


def test_a_volume_is_removed_with_its_snapshots_or_not_at_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, first, _ = with_changes(store)
    with monkeypatch.context() as patch:
        break_node_of(patch, volume, first, MemoryError())
        with pytest.raises(MemoryError):
            store.remove_volume("v", force=True)
    assert [s.name for s in store.snapshots(store.volume("v"))] == ["s"]
    assert findings(store) == []
    store.remove_volume("v", force=True)
    assert findings(store) == []


@pytest.mark.parametrize("operation",
    [
        "rename", "replace", "unlink", "create", "link", "symlink", "clone", "clone over",
        "clone tree",
    ],
)  # fmt: skip
def test_a_name_that_meets_damage_is_changed_whole_or_not_at_all(
    store: Store, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = store.volume("v")
    tree = volume.mkdir(ROOT_INO, b"tree", 0o755, 0, 0).ino
    for n in range(60):
        ino = create(volume, b"f%02d" % n, n % 2)
        volume.set_xattr(ino, b"user.a", b"x" * 3000)
        volume.create(tree, b"g%02d" % n, 0o644, 0, 0)
    store.commit()
    calls: dict[str, Callable[[bytes, bytes], object]] = {
        "rename": lambda old, new: volume.rename(ROOT_INO, old, ROOT_INO, new),
        "replace": lambda old, _: volume.rename(ROOT_INO, old, ROOT_INO, b"f00"),
        "unlink": lambda old, _: volume.unlink(ROOT_INO, old),
        "create": lambda _, new: volume.create(ROOT_INO, new, 0o644, 0, 0),
        "symlink": lambda _, new: volume.symlink(ROOT_INO, new, b"t" * 3000, 0, 0),
        "clone": lambda old, new: store.clone_file(
            volume, volume.lookup(ROOT_INO, old).ino, volume, ROOT_INO, new
        ),
        "clone over": lambda old, _: store.clone_file(
            volume, volume.lookup(ROOT_INO, b"f00").ino, volume, ROOT_INO, old, replace=True
        ),
        "clone tree": lambda _, new: store.clone_tree(volume, tree, volume, ROOT_INO, new),
        "link": lambda old, new: volume.link(volume.lookup(ROOT_INO, old).ino, ROOT_INO, new),
    }
    reader = store.pool.reader()
    ids = list(reader.node_ids())
    reader.close()
    met, load = 0, store.pool.nodes._load
    for n, damaged in enumerate(ids[:: len(ids) // 50 + 1], 1):
        before = {(e.name, e.ino) for e in volume.readdir(ROOT_INO, limit=1000)}
        store.pool.nodes._nodes.clear()
        volume.drop_caches()

        def broken(node_id: int, damaged: int = damaged) -> bytes:
            if node_id == damaged:
                raise KeyError(node_id)
            return load(node_id)

        with monkeypatch.context() as patch:
            patch.setattr(store.pool.nodes, "_load", broken)
            try:
                calls[operation](b"f%02d" % n, b"new%d" % n)
                failed = False
            except errors.Corrupt:
                failed = True
        met += failed
        after = {(e.name, e.ino) for e in volume.readdir(ROOT_INO, limit=1000)}
        assert failed == (before == after)
        assert findings(store) == []
    assert met
