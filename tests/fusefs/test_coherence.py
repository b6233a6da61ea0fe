"""What commands change shows on the mount at once: names, attributes, cached and mapped pages."""

import errno
import mmap
import os
import signal
import threading
from pathlib import Path

import pytest
from command import Ramet
from mounted import Mount

from engine import errors
from service.rpc import Client

BLOCK = 4096


@pytest.fixture(scope="module")
def ramet(shared: Mount) -> Ramet:
    return Ramet(shared.store)


def filled(path: Path, letter: bytes, blocks: int = 4) -> Path:
    path.write_bytes(letter * (blocks * BLOCK))
    assert path.read_bytes()  # and the kernel has its pages, its name and attributes
    return path


def test_a_mapped_file_shows_ranges_cloned_into_it(shared: Mount, ramet: Ramet) -> None:
    filled(shared.lab / "source", b"s")
    path = filled(shared.lab / "mapped", b"m")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4 * BLOCK) as seen:
        assert seen[0] == ord("m")
        ramet.run("clone", "lab:/source", "lab:/mapped", "--range", "0:1:1")
        assert (seen[0], seen[BLOCK], seen[2 * BLOCK]) == (ord("m"), ord("s"), ord("m"))
        seen[2 * BLOCK] = ord("w")  # and what is written by the map is in what is cloned next
        seen.flush()
        ramet.run("clone", "lab:/mapped", "lab:/source", "--range", "2:0:1")
        ramet.run("clone", "lab:/source", "lab:/mapped", "--range", "2:4:2", "--extend")
        assert path.stat().st_size == 6 * BLOCK
    assert (shared.lab / "source").read_bytes()[:2] == b"wm"


def test_two_maps_of_a_file_are_one(shared: Mount) -> None:
    path = filled(shared.lab / "twice", b"m")
    with (
        path.open("r+b") as file, path.open("r+b") as other,
        mmap.mmap(file.fileno(), BLOCK) as one, mmap.mmap(other.fileno(), BLOCK) as two,
    ):  # fmt: skip
        one[7:9] = b"xy"
        assert two[6:10] == b"mxym"
        os.pwrite(other.fileno(), b"z", 7)
        assert one[7] == ord("z")
        direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        with mmap.mmap(-1, BLOCK) as page:  # what O_DIRECT takes is aligned
            page[:] = b"d" * BLOCK
            assert os.pwrite(direct, page, 0) == BLOCK
            assert one[7] == ord("d")
            one[0] = ord("e")
            assert os.preadv(direct, [page], 0) == BLOCK  # mapped changes are written first
            assert page[:2] == b"ed"
        os.close(direct)


def test_a_replaced_file_is_the_new_one_by_name_and_the_old_one_when_open(
    shared: Mount, ramet: Ramet
) -> None:
    filled(shared.lab / "new", b"n", 2)
    path = filled(shared.lab / "replaced", b"o")
    with path.open("rb") as old, mmap.mmap(old.fileno(), BLOCK, prot=mmap.PROT_READ) as seen:
        ramet.run("clone", "lab:/new", "lab:/replaced", "--replace")
        assert path.read_bytes() == b"n" * (2 * BLOCK)
        assert path.stat().st_size == 2 * BLOCK
        assert (os.fstat(old.fileno()).st_nlink, seen[0]) == (0, ord("o"))
        ramet.run("snapshot", "create", "lab", "meanwhile")  # and through a snapshot
        assert os.pread(old.fileno(), 1, 3 * BLOCK) == b"o"


def test_removed_and_new_names_show_at_once(shared: Mount, ramet: Ramet) -> None:
    path = filled(shared.lab / "removed", b"r")
    with path.open("r+b") as file:
        ramet.run("rm", "lab:/removed")
        assert not path.exists()
        assert "removed" not in os.listdir(shared.lab)
        os.pwrite(file.fileno(), b"still", 0)
        assert os.pread(file.fileno(), 5, 0) == b"still"
    assert not (shared.lab / "copy").exists()  # the kernel keeps no misses
    ramet.run("clone", "lab:/new", "lab:/copy")
    assert (shared.lab / "copy").exists()


def test_a_restore_takes_cached_pages_and_names_away(shared: Mount, ramet: Ramet) -> None:
    volume = shared.root / "past"
    ramet.run("volume", "create", "past")
    (volume / "dir").mkdir()
    filled(volume / "dir" / "file", b"1")
    ramet.run("snapshot", "create", "past", "one")
    path = filled(volume / "dir" / "file", b"2", 8)
    filled(volume / "dir" / "later", b"l")
    with path.open("r+b") as file:
        ramet.run("snapshot", "restore", "past", "one", "--force")
        assert path.read_bytes() == b"1" * (4 * BLOCK)
        assert os.listdir(path.parent) == ["file"]
        assert not (path.parent / "later").exists()
        with pytest.raises(OSError) as caught:
            os.pwrite(file.fileno(), b"x", 0)
        assert caught.value.errno == errno.ESTALE


def test_a_mount_of_one_volume_shows_it_as_all_do(one_volume: tuple[Ramet, Path]) -> None:
    ramet, root = one_volume
    (root / "dir").mkdir()
    filled(root / "file", b"1")
    for name in ("x", "y"):
        (root / name).write_text(name)
    ramet.run("snapshot", "create", "lab", "one")
    filled(root / "file", b"2")
    filled(root / "dir" / "later", b"l")
    (root / "dir2").mkdir()
    daemon = Client.connect(ramet.store)  # no command in between: within what the kernel may keep
    assert daemon is not None
    assert sorted(os.listdir(root)) == ["dir", "dir2", "file", "x", "y"]
    for old, new in ("xz", "yx", "zy"):
        (root / old).rename(root / new)
    assert ((root / "x").read_text(), (root / "y").read_text()) == ("y", "x")
    daemon.call("snapshot_restore", "lab", "one", False, False)
    assert ((root / "x").read_text(), (root / "y").read_text()) == ("x", "y")
    assert (root / "file").read_bytes() == b"1" * (4 * BLOCK)
    assert not (root / "dir" / "later").exists()
    assert not (root / "dir2").exists()
    assert sorted(os.listdir(root)) == ["dir", "file", "x", "y"]
    assert (root / ".snapshots" / "one" / "file").exists()
    found = os.statvfs(root)
    assert (found.f_blocks * BLOCK, found.f_blocks - found.f_bfree) == (64 << 20, 6)
    os.truncate(root / "file", 1 << 30)
    assert (root / "file").stat().st_blocks == 4 * BLOCK // 512  # as asked for
    with (root / "file").open("rb") as source, (root / "copy").open("wb") as copy:
        assert os.copy_file_range(source.fileno(), copy.fileno(), 3 * BLOCK, 5, 7) == 3 * BLOCK
    assert (root / "copy").read_bytes() == bytes(7) + b"1" * (3 * BLOCK)
    ramet.run("clone", root / "copy", "lab:/by-path")  # a path on it is an address
    assert (root / "by-path").stat().st_size == 3 * BLOCK + 7
    refused = ramet.run("import", root / "copy", "lab:/own", code=1)
    assert "own mount" in refused.stderr  # the daemon would wait for itself


def test_what_was_just_closed_keeps_no_command_from_going_on(shared: Mount, ramet: Ramet) -> None:
    """close(2) returns before its RELEASE has been read, and the command is asked at once."""
    root = shared.root / "closed"
    ramet.run("volume", "create", "closed")
    names = [str(root / f"{n}") for n in range(64)]
    for name in names:
        Path(name).touch()
    ramet.run("snapshot", "create", "closed", "one")

    def restore() -> None:
        daemon = Client.connect(shared.store)
        assert daemon is not None
        daemon.call("snapshot_restore", "closed", "one", False, True)

    for _ in range(5):
        files = [os.open(name, os.O_RDONLY) for name in names]
        with pytest.raises(errors.Busy):
            restore()
        shared.process.send_signal(signal.SIGSTOP)  # and when it goes on, all is there at once
        threading.Timer(0.1, shared.process.send_signal, [signal.SIGCONT]).start()
        for file in files:
            os.close(file)
        restore()
