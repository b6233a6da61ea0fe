"""The N-th write, sync or allocation fails: in the engine, in commands, under a mount.

The short form: the N of a stride and some random days, by the seed; `make faults` takes all.
"""

import errno
import json
import os
import random
from pathlib import Path

import pytest
from chance import SEED
from command import Ramet
from injection import ALLOCATE, KINDS, SYNC, WRITE, environment, run
from mounted import serve

from engine import ROOT_INO, Store, fsck

DEEP = os.environ.get("RAMET_FAULTS") == "deep"
STRIDE = 1 if DEEP else 5
DAYS = 3_000 if DEEP else 25
EXIT_FAILED, EXIT_NO_SPACE = 1, 15


def test_every_call_of_a_day_fails_once() -> None:
    arguments = ("--stride", str(STRIDE), "--seed", str(SEED), "--days", str(DAYS))
    done = run("fault_walk.py", *arguments, timeout_s=900)
    assert done.returncode == 0, (SEED, done.stderr)
    figures = json.loads(done.stdout)
    print(done.stdout)
    assert figures["calls"]["write"] > 40, figures
    assert figures["points"] >= 200 // STRIDE, figures
    assert figures["stores_failed"] > 0, figures


def test_an_init_that_fails_can_be_repeated() -> None:
    done = run("init_walk.py", timeout_s=120)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(done.stdout)
    assert all(figures[kind] > 0 for kind in KINDS), figures


@pytest.fixture
def ramet(tmp_path: Path) -> Ramet:
    made = Ramet(tmp_path / "store")
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    (tmp_path / "image").write_bytes(random.Random(7).randbytes(3 << 20))
    return made


def test_an_import_meets_each_fault(ramet: Ramet, tmp_path: Path) -> None:
    """A file is there whole or not at all, and the exit code says which disk error it was."""
    image, points = tmp_path / "image", 0
    for kind in (WRITE, SYNC, ALLOCATE):
        for error, code in ((errno.ENOSPC, EXIT_NO_SPACE), (errno.EIO, EXIT_FAILED)):
            done, nth = 1, 1
            while done and (DEEP or nth == 1):
                env = environment(kind, ramet.store, nth, error)
                done = ramet.run("import", image, "lab:/image", code=None, env=env).returncode
                assert done in (0, code)  # 0: past the last call, or the fault was tolerated
                names = remove_import(ramet.store, image.read_bytes())
                assert names == ["image"] or done
                points += done > 0
                nth += 1
    assert points >= 3
    print(json.dumps({"import_points": points}))


def remove_import(path: Path, whole: bytes) -> list[str]:
    """What an import left, checked and removed."""
    with Store.open(path) as store:
        assert fsck.check(store, data=True).findings == []
        lab = store.volume("lab")
        names = [entry.name.decode() for entry in lab.readdir(ROOT_INO)]
        for name in names:
            assert lab.read(lab.lookup(ROOT_INO, name.encode()).ino, 0, len(whole) + 1) == whole
            lab.unlink(ROOT_INO, name.encode())
        store.gc()
    return names


def write_and_sync(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, data, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_sync_fails_under_a_mount(ramet: Ramet, tmp_path: Path, error: int) -> None:
    """fsync says so; from then on nothing is written, reads go on, status says why."""
    root = tmp_path / "mnt"
    root.mkdir()
    good = random.Random(1).randbytes(1 << 20)
    with Store.open(ramet.store) as store:
        lab = store.volume("lab")
        lab.write(lab.create(ROOT_INO, b"good", 0o644, 0, 0).ino, 0, good)
    mount = serve(ramet.store, root, environment(SYNC, ramet.store, 1, error, sticky=True))
    try:
        with pytest.raises(OSError) as raised:
            write_and_sync(mount.lab / "lost", b"lost" * 5000)
        assert raised.value.errno == error
        for attempt in (
            lambda: write_and_sync(mount.lab / "more", b"x"),
            lambda: os.unlink(mount.lab / "good"),
            lambda: os.mkdir(mount.lab / "dir"),
        ):
            with pytest.raises(OSError) as raised:
                attempt()
            assert raised.value.errno in (errno.EIO, error)
        assert (mount.lab / "good").read_bytes() == good
        assert "failed" in ramet.json("status")["failed"]
        ramet.run("volume", "create", "other", code=1)
    finally:
        stopped = ramet.run("umount", code=1)
    assert "not stored: writing to its disk failed" in stopped.stderr
    assert mount.process.wait(30) == 1
    with Store.open(ramet.store) as store:
        assert store.failed is None
        assert fsck.check(store, data=True).findings == []
        lab = store.volume("lab")
        assert lab.read(lab.lookup(ROOT_INO, b"good").ino, 0, len(good)) == good
        assert lab.entry(ROOT_INO, b"lost") is None


def test_a_write_fails_under_a_mount_and_the_next_one_does_not(
    ramet: Ramet, tmp_path: Path
) -> None:
    root = tmp_path / "mnt"
    root.mkdir()
    slabs = ramet.store / "slabs"
    for error in (errno.ENOSPC, errno.EIO):
        data = random.Random(error).randbytes(256 << 10)
        mount = serve(ramet.store, root, environment(WRITE, slabs, 1, error, sticky=False))
        try:
            fd = os.open(mount.lab / f"file-{error}", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if error == errno.EIO:
                    with pytest.raises(OSError) as raised:
                        os.pwrite(fd, data, 0)
                    assert raised.value.errno == errno.EIO
                    assert os.fstat(fd).st_size == 0
                assert os.pwrite(fd, data, 0) == len(data)  # ENOSPC: another slot was taken
                os.fsync(fd)
                assert os.pread(fd, len(data), 0) == data
            finally:
                os.close(fd)
            assert ramet.json("status")["failed"] is None
        finally:
            mount.stop()
    assert ramet.json("fsck", "--data")["clean"]
