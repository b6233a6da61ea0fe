"""A store that was not closed after syncs of a little data, and what takes a commit."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import Surgery, slots_of
from engine_walk import SYNCED, run

from engine import ROOT_INO, Store, Volume, errors, fsck, heal, repair
from engine.intent_log import LOG_FILE, PAGE_BYTES

BLOCK = 4096
REGION = 1 << 20


def damage(path: Path, at: int, data: bytes = b"?") -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Store.create(tmp_path / "store", slab_slots=256)
    return tmp_path / "store"


def opened(path: Path) -> Store:
    return Store.open(path, log_bytes=2 * REGION)


def begun(path: Path, *, log: bool = True) -> tuple[Store, Volume, int]:
    """A store with one durable file, and with a log if nobody else is to make it."""
    store = opened(path)
    lab = store.create_volume("lab")
    ino = lab.create(ROOT_INO, b"disk", 0o644, 0, 0).ino
    lab.write(ino, 0, b"old" * 4000)
    if log:
        store.want_log()
        store.make_log()
        store.log_made()
    store.commit()
    return store, lab, ino


def content(store: Store) -> bytes:
    lab = store.volume("lab")
    inode = lab.lookup(ROOT_INO, b"disk")
    return lab.read(inode.ino, 0, inode.size)


def test_what_was_synced_is_there_after_a_crash_and_what_was_not_is_not(path: Path) -> None:
    store, lab, ino = begun(path)
    lab.write(ino, 5, b"patched")
    lab.write(ino, 3 * BLOCK, b"longer" * 1000)
    store.sync()
    expected, stat = content(store), lab.inode(ino)
    assert store.pool.state.commits == 1
    lab.write(ino, 0, b"not synced")
    store.abandon()
    with opened(path) as again:
        inode = again.volume("lab").inode(ino)
        assert content(again) == expected
        assert (inode.size, inode.blocks, inode.nlink) == (stat.size, stat.blocks, stat.nlink)
        assert inode.change >= stat.change - 1
        assert fsck.check(again, data=True).findings == []
    assert not (path / LOG_FILE).exists()


def test_a_commit_has_the_slots_that_are_held_before_the_log_is_used(path: Path) -> None:
    store, lab, ino = begun(path, log=False)
    for commits in (2, 2):
        lab.write(ino, 0, b"synced")
        store.sync()
        assert store.log.ready
        assert store.pool.state.commits == commits
        held = store.pool.core.pending_slots
        assert held > 2 * REGION // BLOCK
    store.abandon()
    with opened(path) as again:
        assert again.pool.core.free_slots >= held
        assert content(again).startswith(b"synced")


def test_it_is_written_again_once_only(path: Path) -> None:
    store, lab, ino = begun(path)
    lab.write(ino, 0, b"synced")
    store.sync()
    shutil.copy(path / LOG_FILE, path.parent / "copy")
    store.abandon()
    store = opened(path)
    store.volume("lab").write(ino, 0, b"newer!")
    store.commit()
    store.abandon()
    shutil.copy(path.parent / "copy", path / LOG_FILE)  # as if its removal had been lost
    with opened(path) as again:
        assert content(again).startswith(b"newer!")


def change_mode(store: Store, lab: Volume, ino: int) -> None:
    lab.setattr(ino, mode=0o600)


def change_size(store: Store, lab: Volume, ino: int) -> None:
    lab.setattr(ino, size=100)


def punch(store: Store, lab: Volume, ino: int) -> None:
    lab.punch(ino, 0, BLOCK)


def set_xattr(store: Store, lab: Volume, ino: int) -> None:
    lab.set_xattr(ino, b"user.a", b"b")


def rename(store: Store, lab: Volume, ino: int) -> None:
    lab.rename(ROOT_INO, b"disk", ROOT_INO, b"other")


def link(store: Store, lab: Volume, ino: int) -> None:
    lab.link(ino, ROOT_INO, b"other")


def create(store: Store, lab: Volume, ino: int) -> None:
    lab.write(lab.create(ROOT_INO, b"new", 0o644, 0, 0).ino, 0, b"new")


def clone(store: Store, lab: Volume, ino: int) -> None:
    store.clone_file(lab, ino, lab, ROOT_INO, b"twin")


def clone_range(store: Store, lab: Volume, ino: int) -> None:
    store.clone_range(lab, ino, 0, lab, ino, 2 * BLOCK, BLOCK)


def snapshot(store: Store, lab: Volume, ino: int) -> None:
    store.create_snapshot(lab, "s")


def new_volume(store: Store, lab: Volume, ino: int) -> None:
    store.create_volume("other")


def rename_volume(store: Store, lab: Volume, ino: int) -> None:
    store.rename_volume("lab", "other")


def put_record(store: Store, lab: Volume, ino: int) -> None:
    store.records.put("job/1", b"running")


OTHER_CHANGES = [
    change_mode, change_size, punch, set_xattr, rename, link, create, clone, clone_range, snapshot,
    new_volume, rename_volume, put_record,
]  # fmt: skip


@pytest.mark.parametrize("change", OTHER_CHANGES)
@pytest.mark.parametrize("writes", ["before", "after", "around"])
def test_anything_but_data_takes_a_commit(
    path: Path, change: Callable[[Store, Volume, int], None], writes: str
) -> None:
    store, lab, ino = begun(path)
    if writes != "after":
        lab.write(ino, 0, b"before")
    change(store, lab, ino)
    if writes != "before":
        lab.write(ino, 10, b"after")
    assert not store.loggable
    store.sync()
    assert store.pool.state.commits == 2
    assert store.loggable
    lab.write(ino, 20, b"then")
    store.sync()
    assert store.pool.state.commits == 2
    store.abandon()


def test_a_write_to_a_file_without_a_name_takes_a_commit(path: Path) -> None:
    store, lab, ino = begun(path)
    lab.hold(ino)
    lab.unlink(ROOT_INO, b"disk")
    store.commit()
    lab.write(ino, 0, b"nobody sees this")
    assert not store.loggable
    store.abandon()


def test_much_data_takes_a_commit(path: Path) -> None:
    store, lab, ino = begun(path)
    for n in range(2):
        lab.write(ino, n << 19, os.urandom(300 << 10))
        assert store.loggable == (n == 0)
    store.sync()
    assert store.pool.state.commits == 2
    for n in range(200):
        lab.write(ino, n * 2 * BLOCK % (1 << 20), b"%d" % n)
    assert not store.loggable
    store.abandon()


def test_a_sync_of_nothing_writes_nothing(path: Path) -> None:
    store, lab, ino = begun(path)
    lab.write(ino, 0, b"a")
    store.sync()
    before = (path / LOG_FILE).read_bytes()
    store.sync()
    assert (path / LOG_FILE).read_bytes() == before
    store.abandon()


@pytest.mark.parametrize("durable", [False, True])
def test_a_sync_beside_a_commit(path: Path, durable: bool) -> None:
    """What the commit has captured is in the record as well: it may never become durable."""
    store, lab, ino = begun(path)
    lab.write(ino, 0, b"captured, logged")
    store.sync()
    lab.write(ino, 20, b"captured only")
    commit = store.capture()
    assert commit is not None
    lab.write(ino, 40, b"after")
    store.sync()
    expected = content(store)
    if durable:
        commit.write()
    store.abandon()
    with opened(path) as again:
        assert content(again) == expected


def test_read_only_it_does_not_show_less_than_was_synced(path: Path) -> None:
    store, lab, ino = begun(path)
    lab.write(ino, 0, b"synced")
    store.sync()
    store.abandon()
    with pytest.raises(errors.ReadOnly, match="open it for writing once"):
        Store.open(path, read_only=True)
    opened(path).close()
    with Store.open(path, read_only=True) as store:
        assert content(store).startswith(b"synced")


def test_a_store_that_has_the_feature_not_does_without(path: Path) -> None:
    store, lab, ino = begun(path, log=False)
    object.__setattr__(store.pool.superblock, "incompat", 0)
    lab.write(ino, 0, b"a")
    store.sync()
    assert store.pool.state.commits == 2
    assert not (path / LOG_FILE).exists()
    store.abandon()


def test_no_room_for_a_record_takes_a_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, lab, ino = begun(path)
    lab.write(ino, 0, b"a")
    store.sync()
    assert store.pool.state.commits == 1

    def full(fd: int, data: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    lab.write(ino, 0, b"b")
    monkeypatch.setattr(os, "pwrite", full)
    store.sync()
    assert store.pool.state.commits == 2
    monkeypatch.undo()
    lab.write(ino, 0, b"c")
    store.sync()
    assert store.pool.state.commits == 3
    expected = content(store)
    store.abandon()
    with opened(path) as again:
        assert content(again) == expected


def test_a_bad_block_beneath_a_small_write_is_not_read_again(path: Path) -> None:
    store, lab, ino = begun(path)
    slot = slots_of(lab, lab.inode(ino))[1]
    lab.write(ino, BLOCK + 10, b"small")
    lab.write(ino, 12_000, b"end of the file")
    store.sync()
    expected = content(store)
    store.abandon()
    damage(path / "slabs" / "00000000.slab", slot * BLOCK, b"?" * BLOCK)
    with opened(path) as again:
        assert content(again) == expected
        assert fsck.check(again, data=True).findings == []


def test_a_file_with_a_damaged_map_is_named_and_the_log_kept(path: Path) -> None:
    store, lab, ino = begun(path)
    other = lab.create(ROOT_INO, b"other", 0o644, 0, 0).ino
    lab.write(other, 0, b"other" * 1000)
    store.commit()
    root = lab.inode(ino).root
    lab.write(ino, 0, b"lost for now")
    lab.write(other, 0, b"again")
    store.sync()
    log = (path / LOG_FILE).read_bytes()
    store.abandon()
    with Surgery(path) as surgery:
        raw = bytearray(surgery.meta.read_node(root))
        raw[100] ^= 1
        surgery.put_node(root, bytes(raw))
    with opened(path) as again:
        assert again.volume("lab").read(other, 0, 5) == b"again"
        noted = again.pool.corrupt_reads
        assert noted.count == 1
    assert (path / "intents.aside-1").read_bytes() == log
    assert not (path / LOG_FILE).exists()
    opened(path).close()


@pytest.mark.parametrize("size", [PAGE_BYTES, REGION, 2 * REGION - PAGE_BYTES, 3 * REGION])
def test_a_log_of_another_size_is_no_log_without_records(path: Path, size: int) -> None:
    store, lab, ino = begun(path)
    lab.write(ino, 0, b"synced")
    store.sync()
    store.abandon()
    os.truncate(path / LOG_FILE, size)
    with pytest.raises(errors.Corrupt, match="another size"):
        opened(path)
    result = repair.repair(path)
    assert [r.check for r in result.repaired] == ["F21"]
    assert result.left.findings == []
    assert (path / "intents.aside-1").stat().st_size == size
    opened(path).close()


def test_a_log_that_cannot_be_read_is_no_log_without_records(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, lab, ino = begun(path)
    lab.write(ino, 0, b"synced")
    store.sync()
    store.abandon()

    def bad(_: Path) -> bytes:
        raise OSError(errno.EIO, "the disk says so")

    monkeypatch.setattr(Path, "read_bytes", bad)
    with pytest.raises(errors.Corrupt, match="the disk says so"):
        opened(path)
    assert [f.check for f in fsck.check_path(path).findings] == ["F21"]
    assert [r.check for r in repair.repair(path).repaired] == ["F21"]
    monkeypatch.undo()
    opened(path).close()


def test_a_log_without_its_counters_is_kept_aside(path: Path) -> None:
    store, lab, ino = begun(path)
    lab.write(ino, 0, b"synced")
    store.sync()
    store.abandon()
    with Surgery(path) as surgery:
        surgery.put("super", b"state", b"lost")
    assert {"F1", "F21"} <= {f.check for f in fsck.check_path(path).findings}
    assert "F21" in [r.check for r in repair.repair(path).repaired]
    assert (path / "intents.aside-1").exists()
    opened(path).close()


def test_a_store_at_its_quota_is_written_again(path: Path) -> None:
    store, lab, ino = begun(path)
    store.set_quota("lab", 8 * BLOCK)
    store.commit()
    lab.write(ino, 0, b"q" * 8 * BLOCK)
    store.sync()
    assert store.pool.state.commits == 2
    store.abandon()
    with opened(path) as again:
        assert content(again) == b"q" * 8 * BLOCK


def test_what_healed_a_block_takes_a_commit(path: Path) -> None:
    store, lab, ino = begun(path)
    extent = next(lab.extents(ino))
    data = lab.read(ino, 0, BLOCK)
    checksum = store.pool.core.hash(data)
    assert heal.heal_everywhere(lab, ino, 0, extent.address, checksum, data)
    assert not store.loggable
    store.abandon()


@pytest.mark.parametrize("nth", [1, 4, 5])  # of a slab with slots held, of the log, of its name
def test_a_log_that_cannot_be_made_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    store, lab, ino = begun(path, log=False)
    fds = len(os.listdir("/proc/self/fd")) - store.pool.state.slabs
    fsync, calls = os.fsync, 0

    def fails(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.EIO, "broken")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fails)
    lab.write(ino, 0, b"a")
    store.sync()
    monkeypatch.undo()
    assert store.pool.state.commits == 2
    assert store.failed is None
    assert not list(path.glob("intents*"))
    assert len(os.listdir("/proc/self/fd")) - store.pool.state.slabs == fds
    assert store.pool.core.pending_slots == 0
    lab.write(ino, 0, b"b")
    store.sync()
    assert store.pool.state.commits == 3
    store.abandon()


def test_a_damaged_log_is_named_and_what_is_whole_of_it_is_kept(path: Path) -> None:
    store, lab, ino = begun(path)
    for word in (b"one", b"two", b"six"):
        lab.write(ino, 0, word)
        store.sync()
    store.abandon()
    region = 0 if (path / LOG_FILE).read_bytes()[:8] == b"RAMETIL1" else REGION
    damage(path / LOG_FILE, region + 2 * PAGE_BYTES + 100)  # each has a block and a head
    with pytest.raises(errors.Corrupt, match="record 1 of commit 2"):
        opened(path)
    report = fsck.check_path(path)
    assert [f.check for f in report.findings] == ["F21"]
    result = repair.repair(path)
    assert [r.check for r in result.repaired] == ["F21"]
    assert result.left.findings == []
    with opened(path) as again:
        assert content(again).startswith(b"oneold")


@pytest.mark.parametrize("seed", range(8))
def test_a_long_walk_of_writes_syncs_and_crashes(seed: int) -> None:
    run(seed, 1500, SYNCED)
