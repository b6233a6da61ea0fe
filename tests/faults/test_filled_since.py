"""The power goes after syncs by the intent log, and before it is back somebody fills the disk."""

import errno
import os
import random
import subprocess
from pathlib import Path

import pytest
from command import Ramet
from engine_machine import EngineMachine
from engine_walk import SYNCED, run
from mounted import serve
from small_disk import MKFS, OTHERS, cut_power, fill, small_disk

from engine import ROOT_INO, Store, Volume, errors, fsck, reserve, slabs
from engine.intent_log import LOG_FILE
from engine.meta import Meta
from engine.replay_room import ReplayRoom

DEEP = os.environ.get("RAMET_FAULTS") == "deep"
BLOCK = 4096
FILE_BLOCKS = 4000
TRIM_LEAVES = 32  # free slots, in runs that are too short
PLACE_BYTES = 252 * 252 * BLOCK  # no node of a file's map has two of them, but those above


def begun(path: Path) -> tuple[Store, Volume, int]:
    """A store with a log and a file, on a disk that is too small for a whole slab.  Free slots take
    no space but what is held; of that all was written once and is shared with a copy, where the
    host does that."""
    Store.create(path)
    store = Store.open(path)
    lab = store.create_volume("lab")
    lab.write(lab.create(ROOT_INO, b"once", 0o644, 0, 0).ino, 0, os.urandom(6 << 20))
    store.commit()
    lab.unlink(ROOT_INO, b"once")
    store.reclaim()
    store.commit()
    subprocess.run(["cp", "-r", "--reflink=auto", path / "slabs", path.parent / "copy"], check=True)
    ino = lab.create(ROOT_INO, b"disk", 0o644, 0, 0).ino
    lab.write(ino, (FILE_BLOCKS - 1) * BLOCK, b"end")
    lab.write(lab.create(ROOT_INO, b"keep", 0o644, 0, 0).ino, 0, b"keep" * BLOCK)
    store.commit()
    lab.write(ino, 0, b"begun")
    store.sync()
    assert store.log.ready
    assert store.trim() > 0
    assert store.pool.core.trimmable_slots < TRIM_LEAVES
    sync(path)
    return store, lab, ino


def sync(path: Path) -> None:
    """Punched holes, too, outlive a power cut now."""
    subprocess.run(["sync", "-f", path], check=True)


def write_synced(store: Store, lab: Volume, ino: int, rng: random.Random) -> int:
    """Blocks anywhere, until a sync takes a commit; the last one was not synced."""
    for count in range(1 << 20):
        before = lab.read(ino, 0, FILE_BLOCKS * BLOCK)
        at = rng.randrange(FILE_BLOCKS - 1) * BLOCK
        lab.write(ino, at, rng.randbytes(BLOCK))
        if not store.sync_by_log():
            lab.write(ino, at, before[at : at + BLOCK])
            return count
    raise AssertionError("the log has no end")


def fill_log(store: Store, lab: Volume, ino: int, rng: random.Random) -> bytes:
    """As much as the log takes, beside a commit that was captured and never became durable; what
    the file has then.  The store is dead."""
    try:
        count = write_synced(store, lab, ino, rng)
        assert store.capture() is not None
        count += write_synced(store, lab, ino, rng)
        assert count > 100
        return lab.read(ino, 0, FILE_BLOCKS * BLOCK)
    finally:
        store.abandon()


@pytest.mark.parametrize("kind", MKFS)
def test_what_was_synced_is_there(kind: str) -> None:
    rng = random.Random(kind)
    with small_disk(kind) as disk:
        path = disk / "store"
        store, lab, ino = begun(path)
        expected = fill_log(store, lab, ino, rng)
        cut_power(disk)
        fill(disk)
        with Store.open(path) as again:
            lab = again.volume("lab")
            assert lab.read(ino, 0, FILE_BLOCKS * BLOCK) == expected
            assert fsck.check(again, data=True).findings == []
            lab.unlink(ROOT_INO, b"keep")
            again.commit()
            assert again.pool.reserve.whole
            lab.write(ino, 0, b"written on the full disk")
            again.commit()
            expected = lab.read(ino, 0, FILE_BLOCKS * BLOCK)
            assert expected.startswith(b"written on")
            assert not (path / LOG_FILE).exists()
        (disk / OTHERS).unlink()
        sync(disk)
        with Store.open(path) as again:
            lab = again.volume("lab")
            assert lab.read(ino, 0, FILE_BLOCKS * BLOCK) == expected
            lab.write(ino, 0, rng.randbytes(1 << 20))
            again.gc()
            assert fsck.check(again, data=True).findings == []


def synced_places(store: Store, lab: Volume, ino: int, first: int) -> int:
    """Writes from a place on, each far from the others, until a sync takes a commit."""
    for n in range(first, first + (1 << 12)):
        lab.write(ino, n * PLACE_BYTES, b"%4d" % n)
        if not store.sync_by_log():
            return n
    raise AssertionError("the log has no end")


@pytest.mark.parametrize("kind", MKFS)
def test_so_is_the_space_for_its_metadata(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write changes a node of its own, and the reserve has nothing to spare."""
    monkeypatch.setattr(reserve, "FLOOR_PAGES", 0)
    monkeypatch.setattr(reserve, "STEP_PAGES", 32)
    with small_disk(kind) as disk:
        path = disk / "store"
        store, lab, ino = begun(path)
        try:
            synced = [synced_places(store, lab, ino, 0)]
            assert store.capture() is not None
            synced.append(synced_places(store, lab, ino, synced[0]))
        finally:
            store.abandon()
        cut_power(disk)
        fill(disk)
        with Store.open(path) as again:
            lab = again.volume("lab")
            for n in range(synced[1]):
                assert lab.read(ino, n * PLACE_BYTES, 4) == b"%4d" % n
            lab.unlink(ROOT_INO, b"keep")
            again.commit()
            assert fsck.check(again, data=True).findings == []


@pytest.mark.parametrize("kind", MKFS)
def test_the_power_goes_again_while_it_is_written_again(kind: str) -> None:
    """All is in its slots then, and no commit has it."""
    rng = random.Random(kind)
    with small_disk(kind) as disk:
        path = disk / "store"
        store, lab, ino = begun(path)
        expected = fill_log(store, lab, ino, rng)
        cut_power(disk)
        fill(disk)
        for _ in range(2):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Meta, "write", broken)
                with pytest.raises(errors.StoreFailed):
                    Store.open(path)
            sync(disk)
            cut_power(disk)
            fill(disk)
        with Store.open(path) as again:
            lab = again.volume("lab")
            assert lab.read(ino, 0, FILE_BLOCKS * BLOCK) == expected
            lab.unlink(ROOT_INO, b"keep")
            again.commit()
            assert fsck.check(again, data=True).findings == []


@pytest.mark.parametrize("kind", MKFS)
def test_a_log_without_room_waits_for_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an earlier version has left it."""
    monkeypatch.setattr(ReplayRoom, "take", lambda _self, _blocks: None)
    rng = random.Random(kind)
    with small_disk(kind) as disk:
        path = disk / "store"
        store, lab, ino = begun(path)
        try:
            write_synced(store, lab, ino, rng)
            expected = lab.read(ino, 0, FILE_BLOCKS * BLOCK)
        finally:
            store.abandon()
        cut_power(disk)
        fill(disk)
        log = (path / LOG_FILE).read_bytes()
        for _ in range(2):
            with pytest.raises(errors.NoSpace):
                Store.open(path)
            assert (path / LOG_FILE).read_bytes() == log
        (disk / OTHERS).unlink()
        sync(disk)
        with Store.open(path) as again:
            assert again.volume("lab").read(ino, 0, FILE_BLOCKS * BLOCK) == expected
            assert fsck.check(again, data=True).findings == []


@pytest.mark.parametrize("kind", MKFS)
def test_the_daemon_starts(kind: str, tmp_path: Path) -> None:
    """What was synced through a mount; the daemon dies, and so does the machine."""
    root = tmp_path / "mnt"
    root.mkdir()
    with small_disk(kind) as disk:
        ramet = Ramet(disk / "store")
        ramet.run("init", ramet.store)
        ramet.run("volume", "create", "lab")
        mount = serve(ramet.store, root)
        try:
            (mount.lab / "keep").write_bytes(b"keep" * BLOCK)
            expected = bytearray(os.urandom(2 << 20))
            (mount.lab / "disk").write_bytes(expected)
            with (mount.lab / "disk").open("rb+", buffering=0) as file:
                os.fsync(file.fileno())
                for n in range(100):
                    file.seek(5 * n * BLOCK)
                    expected[5 * n * BLOCK : (5 * n + 1) * BLOCK] = block = os.urandom(BLOCK)
                    file.write(block)
                    os.fsync(file.fileno())
            assert (disk / "store" / LOG_FILE).exists()
        finally:
            mount.kill()
        cut_power(disk)
        fill(disk)
        mount = serve(ramet.store, root)
        try:
            assert (mount.lab / "disk").read_bytes() == expected
            (mount.lab / "keep").unlink()
            subprocess.run(["sync", "-f", mount.lab], check=True)
            assert ramet.json("status")["failed"] is None
        finally:
            mount.stop()
        assert ramet.json("fsck", "--data")["clean"]


class Powerless(EngineMachine):
    """The power goes with each crash, and the disk is full when it is back."""

    def reopened(self) -> Store:
        assert self.base is not None
        if hasattr(self, "store"):
            cut_power(self.base)
            fill(self.base)
        return super().reopened()

    def crash(self, clean: bool) -> None:
        super().crash(clean)
        assert self.base is not None
        (self.base / OTHERS).unlink()
        (self.base / OTHERS).touch()

    def trim_punch(self) -> None:
        super().trim_punch()
        sync(self.path)


@pytest.mark.parametrize("kind", MKFS)
@pytest.mark.parametrize("seed", range(4 if DEEP else 1))
def test_a_long_walk(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SPARE_BYTES", 1 << 40)  # no slab is allocated whole
    weights = SYNCED | {"trim_take": 12, "trim_punch": 24, "reclaim": 6, "crash": 4}
    with small_disk(kind) as disk:
        monkeypatch.setattr(Powerless, "base", disk)
        run(seed, 1200, weights, Powerless)


def broken(*_: object) -> None:
    raise OSError(errno.EIO, "the power went")
