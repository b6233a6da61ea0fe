"""Programs on the mount that are killed or interrupted, and what they hold: files, locks."""

import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from command import Ramet
from mounted import DEADLINE_S, Mount

BUSY = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.set_inheritable(fd, False)
block = os.urandom(1 << 16)
for n in range(10**9):
    os.pwrite(fd, block, n % 64 << 16)
    os.pread(fd, 1 << 16, (n + 7) % 64 << 16)
    os.fsync(fd)
    if n == 3:
        print("busy", flush=True)
"""
INTERRUPTED = """
import os, signal, sys
count = 0
def came(*_):
    global count
    count += 1
signal.signal(signal.SIGALRM, came)  # calls that say EINTR are made again by Python
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
n = 0
while count < 300:
    data = b"%08d" % n * 8192
    assert os.pwrite(fd, data, n % 16 << 16) == len(data)
    os.fsync(fd)
    assert os.pread(fd, len(data), n % 16 << 16) == data
    n += 1
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_killed_in_the_middle_of_io(shared: Mount) -> None:
    for n in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", BUSY, str(shared.lab / f"busy{n}")], stdout=subprocess.PIPE
        ) as busy:
            assert busy.stdout is not None
            assert busy.stdout.readline() == b"busy\n"
            busy.kill()
            assert busy.wait(DEADLINE_S) == -signal.SIGKILL
        assert (shared.lab / f"busy{n}").stat().st_size >= 4 << 16
    ramet = Ramet(shared.store)
    ramet.run("snapshot", "create", "lab", "after")
    ramet.run("snapshot", "restore", "lab", "after")  # refused while somebody has a file open
    ramet.run("fsck", "--data")


def test_interrupted_calls_do_what_they_say(shared: Mount) -> None:
    path = shared.lab / "interrupted"
    subprocess.run([sys.executable, "-c", INTERRUPTED, path], check=True, timeout=120)
    for n in range(path.stat().st_size >> 16):
        piece = path.read_bytes()[n << 16 : n + 1 << 16]
        assert piece == piece[:8] * 8192


def test_locks_hold_between_programs_of_this_host(shared: Mount) -> None:
    path = shared.lab / "locked"
    path.touch()
    whole = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    for command in ("flock", fcntl.F_OFD_SETLK):
        one, two = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
        for fd in (one, two):
            lock = (
                (lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))  # noqa: B023
                if command == "flock"
                else (lambda: fcntl.fcntl(fd, command, whole))  # noqa: B023
            )
            if fd == one:
                lock()
                continue
            with pytest.raises(OSError) as caught:
                lock()
            assert caught.value.errno == errno.EAGAIN
        os.close(one)
        os.close(two)
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        other = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | 4)"
        done = subprocess.run(
            [sys.executable, "-c", other, path], check=False, capture_output=True, text=True
        )
    assert "BlockingIOError" in done.stderr


def test_unlinked_while_open_through_clones_and_snapshots(shared: Mount, tmp_path: Path) -> None:
    ramet, path = Ramet(shared.store), shared.root / "other" / "open"
    path.write_bytes(b"old" * 5000)
    with path.open("r+b") as file:
        ramet.run("clone", "other:/open", "other:/clone")
        path.unlink()
        ramet.run("snapshot", "create", "other", "between")
        ramet.run("volume", "clone", "other", "twin")
        os.pwrite(file.fileno(), b"new", 0)
        os.fsync(file.fileno())
        ramet.run("gc")
        assert os.pread(file.fileno(), 6, 0) == b"newold"
        assert os.pread(file.fileno(), 6, 12_000) == b"oldold"
    for volume in ("other", "twin", "other/.snapshots/between"):
        assert os.listdir(shared.root / volume) == ["clone"]
        assert (shared.root / volume / "clone").read_bytes() == b"old" * 5000
