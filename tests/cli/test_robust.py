"""What must not take the daemon down, hang it, or be acknowledged when it is not safe."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served

from engine import ROOT_INO, Store, fsck

DEADLINE_S = 60


@pytest.fixture
def served(served: Served) -> Iterator[Served]:
    yield served
    assert served.json("status")["serving"]


def test_times_past_what_the_format_holds_are_the_nearest_that_it_does(served: Served) -> None:
    (served.lab / "f").write_bytes(b"old")
    (served.lab / "g").touch()
    os.utime(served.lab / "g", ns=(10**19, 10**19))
    fd = os.open(served.lab / "f", os.O_RDWR)
    os.pwrite(fd, b"NEW", 0)
    os.fsync(fd)
    os.close(fd)
    served.run("umount")
    served.run("mount", served.root)
    assert (served.lab / "f").read_bytes() == b"NEW"
    assert (served.lab / "g").stat().st_mtime_ns > 9 * 10**18


def test_files_of_the_own_mount_are_refused_and_nobody_hangs(
    served: Served, tmp_path: Path
) -> None:
    (served.lab / "a").write_bytes(os.urandom(1 << 20))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "alias").symlink_to(served.lab / "a")
    for words in (
        ("export", "lab:/a", served.lab / "b"),
        ("import", served.lab / "a", "lab:/b"),
        ("import", tmp_path / "alias", "lab:/b"),
        ("scrub", "--repair", "lab:/a", "--from", tmp_path / "fifo"),
        ("scrub", "--repair", "lab:/a", "--from", tmp_path / "alias"),
    ):
        served.run(*words, code=1)
    assert os.listdir(served.lab) == ["a"]


def test_odd_names_and_arguments_and_too_many_callers_do_not_end_it(served: Served) -> None:
    odd = os.fsencode(served.lab) + b"/d\xff"
    os.mkdir(odd)
    with open(odd + b"/f\xfe", "wb") as file:
        file.write(b"x")
    assert [row["name"] for row in served.json("ls", "lab:/")]
    for arguments in (["lab", 1.5], ["lab", "1"], ["lab", 1 << 80], [b"\xff", None]):
        with pytest.raises(Exception, match=r"\w"):
            served.client().call("volume_quota", *arguments)
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            idle = stack.enter_context(socket.socket(socket.AF_UNIX))
            idle.connect(str(served.store / "run" / "ramet.sock"))
        (served.lab / "after").write_bytes(b"x")
        assert served.client().call("status")["failed"] is None


def test_a_log_on_a_full_device_is_only_lost(tmp_path: Path) -> None:
    made = Served(tmp_path / "store", tmp_path / "mnt")
    made.root.mkdir()
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    with Path("/dev/full").open("w") as full:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "cli", "--store", made.store, "serve", "--mount", made.root],
            stdout=subprocess.PIPE, stderr=full, text=True,
        )  # fmt: skip
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "ready\n"
        with pytest.raises(Exception, match=r"\w"):
            made.client().call("volume_quota")
        assert made.client().call("status")["failed"] is None
    finally:
        daemon.terminate()
        assert daemon.wait(DEADLINE_S) == 0
        daemon.stdout.close()


def test_a_store_may_lie_deep(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120) / ("y" * 120)
    made = Served(deep / "store", tmp_path / "mnt")
    made.root.mkdir()
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    made.run("mount", made.root)
    (made.lab / "a").write_bytes(b"x")
    assert [row["name"] for row in made.json("ls", "lab:/")] == ["a"]
    made.run("umount")


def test_an_interrupted_command_commits_no_half_of_a_change(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        lab = store.create_volume("lab")
        directory = lab.mkdir(ROOT_INO, b"d", 0o755, 0, 0).ino
        for n in range(8000):
            lab.create(directory, b"%d" % n, 0o644, 0, 0)
    for pause_s in (0.5, 0.6, 0.7):
        command = subprocess.Popen(
            [sys.executable, "-m", "cli", "--store", tmp_path / "store", "rm", "-r", "lab:/d"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(pause_s)
        command.send_signal(signal.SIGINT)
        command.wait(DEADLINE_S)
        with Store.open(tmp_path / "store") as store:
            assert fsck.check(store).findings == []


def test_exit_codes_are_those_of_the_host_error_with_a_daemon_and_without(
    served: Served, tmp_path: Path
) -> None:
    (served.lab / "a").write_bytes(b"x")
    (tmp_path / "there").write_bytes(b"y")
    served.run("export", "lab:/a", tmp_path / "there", code=13)
    served.run("import", tmp_path / "missing", "lab:/b", code=12)
    assert (tmp_path / "there").read_bytes() == b"y"
