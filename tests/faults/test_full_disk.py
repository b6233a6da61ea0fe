"""A disk that is full to the last byte: what is refused, what goes on, what comes back."""

import contextlib
import errno
import os
import random
import subprocess
from pathlib import Path

import pytest
from command import Ramet
from mounted import serve
from small_disk import FREE_BYTES, MKFS, OTHERS, fill, free_bytes, small_disk, small_tmpfs

from engine import ROOT_INO, Store, Volume, errors, fsck
from engine.pool import INODES_DIRTY_MAX
from fusefs.errnos import errno_of

BLOCK = 4096
PIECE = 1 << 20
ACCEPTED_BYTES_MIN = 48 << 20  # of a disk with 90 MiB
DEEP = os.environ.get("RAMET_FAULTS") == "deep"


def fill_store(volume: Volume, name: bytes, rng: random.Random) -> bytes:
    """Write a file until NoSpace; returns what was accepted."""
    ino, data = volume.create(ROOT_INO, name, 0o644, 0, 0).ino, bytearray()
    for step in (PIECE, 16 * BLOCK, BLOCK):
        with contextlib.suppress(errors.NoSpace):
            while True:
                piece = rng.randbytes(step)
                volume.write(ino, len(data), piece)
                data += piece
    assert volume.inode(ino).size == len(data)
    return bytes(data)


def read(volume: Volume, name: bytes) -> bytes:
    inode = volume.lookup(ROOT_INO, name)
    return volume.read(inode.ino, 0, inode.size)


@pytest.mark.parametrize("kind", MKFS)
def test_the_engine_on_a_full_disk(kind: str) -> None:
    rng = random.Random(kind)
    with small_disk(kind) as disk:
        path = disk / "store"
        Store.create(path)
        with Store.open(path) as store:
            lab = store.create_volume("lab")
            keep = rng.randbytes(3 * PIECE)
            lab.write(lab.create(ROOT_INO, b"keep", 0o644, 0, 0).ino, 0, keep)
            for n in range(300):
                lab.create(ROOT_INO, b"small-%d" % n, 0o644, 0, 0)
            store.create_snapshot(lab, "s1")
            first = fill_store(lab, b"first", rng)
            assert len(first) > ACCEPTED_BYTES_MIN
            store.commit()  # what was accepted can be synced
            fill(disk)
            assert free_bytes(disk) < 1 << 20
            for n in range(300):
                lab.unlink(ROOT_INO, b"small-%d" % n)
            store.commit()
            second = fill_store(lab, b"second", rng)  # into what was free in slabs, if anything
            store.commit()
        with Store.open(path) as store:  # opens at 100 % full
            lab = store.volume("lab")
            assert (read(lab, b"first"), read(lab, b"second")) == (first, second)
            assert store.failed is None
            for snapshot in store.snapshots(lab):
                store.remove_snapshot(lab, snapshot.name)
            lab.unlink(ROOT_INO, b"first")
            store.commit()
            assert store.gc().slots_freed >= 0
            assert fsck.check(store, data=True).findings == []
            again = fill_store(lab, b"again", rng)
            assert len(again) > len(first) // 2, "the space that was freed is writable again"
            store.commit()
            lab.truncate(lab.lookup(ROOT_INO, b"again"), 0)
            store.gc()
        (disk / OTHERS).unlink()
        with Store.open(path) as store:
            lab = store.volume("lab")
            assert (read(lab, b"keep"), read(lab, b"second")) == (keep, second)
            assert store.pool.reserve.whole
            lab.write(lab.create(ROOT_INO, b"more", 0o644, 0, 0).ino, 0, rng.randbytes(4 * PIECE))
            store.gc()
            assert fsck.check(store, data=True).findings == []


def test_what_was_admitted_can_be_committed_when_it_is_inodes_of_many_volumes() -> None:
    """Each volume keeps some changed inodes in memory; all of them together are a large commit."""
    volumes, files = 64, 2560
    with small_tmpfs() as disk:
        path = disk / "store"
        Store.create(path, slab_slots=1 << 12)
        with Store.open(path) as store:
            first = store.create_volume("0")
            inodes = [first.create(ROOT_INO, b"%d" % n, 0o644, 0, 0).ino for n in range(files)]
            labs = [first, *(store.clone_volume(first, str(n)) for n in range(1, volumes))]
            store.commit()
            fill(disk)
            changed = []
            with contextlib.suppress(errors.NoSpace):
                for lab in labs:
                    for ino in inodes[:: files // INODES_DIRTY_MAX][:INODES_DIRTY_MAX]:
                        lab.write(ino, 0, bytes(1))
                        changed.append((lab.name, ino))
            assert INODES_DIRTY_MAX < len(changed) < volumes * INODES_DIRTY_MAX
            store.commit()
            assert store.failed is None
        with Store.open(path) as store:
            assert all(store.volume(name).inode(ino).size == 1 for name, ino in changed)
            assert fsck.check(store).findings == []


def dd(path: Path) -> int:
    """dd until the disk is full and what was written is synced; returns the bytes."""
    done = subprocess.run(
        ["dd", "if=/dev/urandom", f"of={path}", "bs=1M", "conv=fsync"], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert "No space left on device" in done.stderr, done.stderr
    return path.stat().st_size


@pytest.mark.parametrize("kind", MKFS if DEEP else ["ext4"])
def test_a_mount_on_a_full_disk(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "mnt"
    root.mkdir()
    with small_disk(kind) as disk:
        ramet = Ramet(disk / "store")
        ramet.run("init", ramet.store)
        ramet.run("volume", "create", "lab")
        mount = serve(ramet.store, root)
        try:
            (mount.lab / "keep").write_bytes(b"keep" * 100_000)
            ramet.run("snapshot", "create", "lab", "before")
            size = dd(mount.lab / "big")
            assert size > ACCEPTED_BYTES_MIN
            fill(disk)
            with (mount.lab / "big").open("rb+") as file:
                os.fsync(file.fileno())
            ramet.run("snapshot", "rm", "lab", "before")
            os.unlink(mount.lab / "big")
            subprocess.run(["sync", "-f", str(mount.lab)], check=True)
            ramet.run("gc")
            assert ramet.json("status")["failed"] is None
            assert dd(mount.lab / "again") > size * 3 // 4
            fill(disk)
            ramet.run("rm", "lab:/again")
            ramet.run("gc")
            assert (mount.lab / "keep").read_bytes() == b"keep" * 100_000
            assert ramet.json("status")["failed"] is None
        finally:
            mount.stop()
        assert ramet.json("fsck", "--data")["clean"]
        (disk / OTHERS).unlink()
        image = tmp_path / "image"
        image.write_bytes(os.urandom(8 << 20))
        ramet.run("import", image, "lab:/image")
        with image.open("ab") as file:
            file.write(os.urandom(free_bytes(disk) + FREE_BYTES))  # free slots take space, too
        done = ramet.run("import", image, "lab:/too-large", code=15)
        assert "full" in done.stderr
        assert [row["name"] for row in ramet.json("ls", "lab:/")] == ["image", "keep"]


@pytest.mark.parametrize("kind", MKFS)
def test_init_on_a_full_disk(kind: str, tmp_path: Path) -> None:
    with small_disk(kind) as disk:
        path = disk / "store"
        fill(disk)
        with pytest.raises(errors.NoSpace):
            Store.create(path)
        assert not path.exists()
        (disk / OTHERS).unlink()
        os.sync()
        Store.create(path)
        with Store.open(path) as store:
            assert store.pool.reserve.whole


def test_a_full_disk_is_enospc_for_the_errno_table() -> None:
    assert errno_of(errors.NoSpace("full")) == errno.ENOSPC
