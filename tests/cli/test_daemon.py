"""The daemon behind the command: one owner, no leftovers, the same answers."""

import contextlib
import os
import signal
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command import Ramet
from served import Served

from service import background
from service.mount_table import mounts
from service.rpc import Request, decode_answer, pack


def test_what_the_command_changes_the_mount_shows_at_once(served: Served) -> None:
    lab = served.root / "lab"
    (lab / "golden").write_bytes(b"g" * 300_000)
    assert os.listdir(lab) == ["golden"]
    served.run("clone", "lab:/golden", "lab:/web-{n}", "--count", 3)
    assert sorted(os.listdir(lab)) == ["golden", "web-1", "web-2", "web-3"]
    assert (lab / "web-2").read_bytes() == b"g" * 300_000
    served.run("snapshot", "create", "lab", "one")
    (lab / "golden").write_bytes(b"h")
    served.run("clone", "lab@one:/golden", "lab:/web-1", "--replace")
    served.run("rm", "lab:/web-2")
    assert not (lab / "web-2").exists()
    assert served.json("fsck", "--data")["clean"]
    served.json("gc")
    assert (lab / "web-1").read_bytes() == b"g" * 300_000


def test_what_a_restore_changes_the_mount_shows_at_once(served: Served) -> None:
    kept, later = served.root / "lab" / "kept", served.root / "lab" / "later"
    kept.write_bytes(b"one")
    served.run("snapshot", "create", "lab", "monday")
    kept.write_bytes(b"something longer")
    later.write_bytes(b"x")
    watching = threading.Event()

    def watch() -> None:  # the kernel's memory of names and attributes stays warm
        while not watching.is_set():
            with contextlib.suppress(OSError):
                kept.stat(), later.stat()

    with ThreadPoolExecutor() as pool:
        pool.submit(watch)
        try:
            served.run("snapshot", "restore", "lab", "monday")
            assert kept.stat().st_size == 3
            assert not later.exists()
        finally:
            watching.set()
    assert kept.read_bytes() == b"one"
    assert os.listdir(served.root / "lab") == ["kept"]


def test_a_forced_restore_makes_open_files_stale(served: Served) -> None:
    path = served.root / "lab" / "a"
    path.write_bytes(b"1" * 8192)
    served.run("snapshot", "create", "lab", "monday")
    old = os.open(path, os.O_RDWR)
    os.pwrite(old, b"2" * 8192, 0)
    assert "open" in served.run("snapshot", "restore", "lab", "monday", code=1).stderr
    served.run("snapshot", "restore", "lab", "monday", "--force")
    new = os.open(path, os.O_RDWR)
    for call in (
        lambda: os.pread(old, 10, 0),
        lambda: os.pwrite(old, b"2", 0),
        lambda: os.ftruncate(old, 0),
        lambda: os.fsync(old),
        lambda: os.lseek(old, 0, os.SEEK_DATA),
        lambda: os.posix_fallocate(old, 0, 1 << 20),
        lambda: os.copy_file_range(old, new, 4096, 0, 4096),
        lambda: os.copy_file_range(new, old, 4096, 0, 4096),
    ):
        with pytest.raises(OSError, match="Stale"):
            call()
    path.unlink()
    os.close(old)  # takes nothing of the new one's hold with it
    assert os.pread(new, 10_000, 0) == b"1" * 8192
    os.close(new)
    assert served.json("fsck", "--data")["clean"]


def test_a_deleted_open_file_and_a_snapshot_leave_each_other_alone(served: Served) -> None:
    """The snapshot is taken before, between and after: the file has its bytes, it has none."""
    path = served.root / "lab" / "a"
    path.write_bytes(b"1" * 8192)
    served.run("snapshot", "create", "lab", "named")
    file = os.open(path, os.O_RDWR)
    path.unlink()
    os.pwrite(file, b"2" * 4096, 0)
    served.run("snapshot", "create", "lab", "deleted")
    os.pwrite(file, b"3" * 4096, 4096)
    os.fsync(file)
    served.run("gc")
    assert os.pread(file, 10_000, 0) == b"2" * 4096 + b"3" * 4096
    assert (served.root / "lab/.snapshots/named/a").read_bytes() == b"1" * 8192
    assert os.listdir(served.root / "lab/.snapshots/deleted") == []
    os.close(file)
    assert served.json("fsck", "--data")["clean"]


def test_no_name_outlives_a_restore_or_a_rename_of_its_volume(served: Served) -> None:
    lab = served.root / "lab"
    (lab / "a").write_bytes(b"first")
    (lab / "b").write_bytes(b"other file")
    served.run("snapshot", "create", "lab", "one")
    (lab / "a").rename(lab / "c")
    (lab / "b").rename(lab / "a")
    assert (lab / "a").stat().st_size == len(b"other file")
    assert (lab / "c").exists()
    served.run("snapshot", "restore", "lab", "one")
    assert (lab / "a").read_bytes() == b"first"
    assert not (lab / "c").exists()
    served.run("volume", "rename", "lab", "den")
    assert not lab.exists()
    assert (served.root / "den" / "b").read_bytes() == b"other file"


def test_no_name_of_an_open_file_outlives_a_forced_restore(served: Served) -> None:
    lab = served.root / "lab"
    (lab / "d").mkdir()
    (lab / "f").write_bytes(b"f")
    (lab / "d" / "g").write_bytes(b"g")
    served.run("snapshot", "create", "lab", "one")
    (lab / "f").rename(lab / "new")
    (lab / "d").rename(lab / "e")
    watching = threading.Event()

    def watch() -> None:  # the kernel's memory of these names stays warm
        while not watching.is_set():
            (lab / "new").exists(), (lab / "e" / "g").exists()

    with (lab / "new").open("rb") as f, (lab / "e" / "g").open("rb") as g, \
            ThreadPoolExecutor() as pool:  # fmt: skip
        pool.submit(watch)
        try:
            served.run("snapshot", "restore", "lab", "one", "--force")
            there = [path.exists() for path in (lab / "new", lab / "e" / "g", lab / "e")]
        finally:
            watching.set()
        assert there == [False, False, False]
        for file in (f, g):
            with pytest.raises(OSError, match="Stale"):
                file.read()
    assert (lab / "f").read_bytes() == b"f"
    assert (lab / "d" / "g").read_bytes() == b"g"


def test_a_second_daemon_is_refused(served: Served) -> None:
    served.run("serve", code=11)
    served.run("mount", served.root, code=11)


def test_only_the_owner_may_use_the_socket(served: Served) -> None:
    run = served.store / "run"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "ramet.sock").stat().st_mode) == 0o600


def test_a_crashed_daemon_blocks_nothing(served: Served) -> None:
    path = served.root / "lab" / "a"
    with path.open("wb") as file:
        file.write(b"kept")
        file.flush()
        os.fsync(file.fileno())
    pid = served.json("status")["pid"]
    os.kill(pid, signal.SIGKILL)
    while served.json("status")["serving"]:
        pass
    served.run("mount", served.root)
    assert path.read_bytes() == b"kept"


def test_umount_returns_when_the_store_is_closed(served: Served) -> None:
    (served.root / "lab" / "a").write_bytes(b"last")
    served.run("umount")
    assert not os.path.ismount(served.root)
    assert [e["size_bytes"] for e in served.json("ls", "lab:/")] == [4]


def test_a_path_on_the_mount_is_an_address(served: Served, tmp_path: Path) -> None:
    (served.root / "lab" / "a").write_bytes(b"one")
    served.run("snapshot", "create", "lab", "monday")
    served.run("clone", served.root / "lab" / "a", "lab:/b")
    served.run("clone", served.root / "lab/.snapshots/monday/a", "lab:/c")
    assert (served.root / "lab" / "c").read_bytes() == b"one"
    assert "not under" in served.run("ls", tmp_path, code=1).stderr


def test_an_import_does_not_hold_up_the_mount(served: Served, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(64 << 20))
    with ThreadPoolExecutor() as pool:
        done = pool.submit(served.run, "import", image, "lab:/image")
        seen = 0
        while not done.done():
            (served.root / "lab" / f"n{seen}").write_bytes(b"x")
            assert not (served.root / "lab" / "image").exists() or done.done() or seen
            seen += 1
        done.result()
    assert seen > 10
    assert (served.root / "lab" / "image").read_bytes() == image.read_bytes()


def test_stopping_in_the_middle_leaves_a_clean_store(served: Served, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(512 << 20))  # seconds of work
    with ThreadPoolExecutor() as pool:
        done = pool.submit(served.run, "import", image, "lab:/image", code=1)
        while served.ask("df")["physical_bytes"] < 1 << 20:
            pass
        background.stop(str(served.store))
        done.result()
    served.run("mount", served.root)
    assert served.json("ls", "lab:/") == []
    assert served.json("gc")["freed_bytes"] >= 0
    assert served.json("fsck", "--data")["clean"]
    assert served.json("df")["physical_bytes"] == 0


def test_nonsense_on_the_socket_harms_nobody(served: Served) -> None:
    for frame in (b"", b"\xff\xff\xff\xff", b"\0\0\0\4junk", b"\0\0\0\1\x93", b"\0\0"):
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(str(served.store / "run" / "ramet.sock"))
            door.sendall(frame)
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(str(served.store / "run" / "ramet.sock"))
        door.sendall(pack(Request("__class__", [])))
        assert b"Unsupported" in door.recv(1000)
    assert served.json("status")["serving"]


def test_hostile_requests_are_answered_and_the_mount_stays(served: Served) -> None:
    head = b"\x82\xa6method\xa2ls\xa9arguments"
    bodies = [
        head + b"\x91" * 100_000,  # deeper than the interpreter recurses
        head + b"\x91\xd9\x02\xff\xff",  # no UTF-8
        head + b"\xdd\xff\xff\xff\xff",  # more elements than there are bytes
        head + b"\x91\x05",  # a number where an address is due
        head + b"\x90",
        head + b"\x91\xa3a:b",
    ]
    for body in bodies:
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(str(served.store / "run" / "ramet.sock"))
            door.sendall(len(body).to_bytes(4, "big") + body)
            answer = decode_answer(door.recv(1 << 16)[4:])
            assert answer.kind, body
    assert os.listdir(served.root) == ["lab"]
    assert served.json("status")["serving"]


def test_a_store_may_be_anywhere(tmp_path: Path) -> None:
    """Its path is what the mount says is mounted: one option of several, any characters."""
    place = tmp_path / "Bänder, 2 \\ #1:ü\r\v\x1c\x85!"
    root = place / "mnt"
    root.mkdir(parents=True)
    ramet = Ramet(place / "store")
    ramet.run("init", ramet.store)
    ramet.run("mount", root)
    try:
        ramet.run("volume", "create", "lab")
        (root / "lab" / "file").write_bytes(b"bytes")
        ramet.run("clone", root / "lab" / "file", root / "lab" / "twin")
        assert (root / "lab" / "twin").read_bytes() == b"bytes"
        assert ramet.json("status")["mountpoint"] == str(root)
        (shown,) = [each for each in mounts() if each.path == root]
        assert shown.source == f"ramet:{ramet.store}"
    finally:
        ramet.run("umount")
