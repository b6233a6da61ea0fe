"""Directories: names of any length, listings that go on while names change, places in them."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import Ramet
from mounted import Mount, serve

from engine import ROOT_INO, Store
from fusefs.operations import Operations

import pyfuse3  # isort: skip - fusefs first (fusefs/__init__.py)

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_GETDENTS64 = 217 if os.uname().machine == "x86_64" else 61


class Entry(ctypes.Structure):
    """struct dirent of Linux on 64 bits."""

    _fields_ = [
        ("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("reclen", ctypes.c_ushort),
        ("type", ctypes.c_ubyte), ("name", ctypes.c_char * 256),
    ]  # fmt: skip


LIBC.opendir.restype = ctypes.c_void_p
LIBC.readdir.restype = ctypes.POINTER(Entry)
LIBC.telldir.restype = ctypes.c_long
LIBC.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
for call in (LIBC.readdir, LIBC.telldir, LIBC.rewinddir, LIBC.closedir):
    call.argtypes = [ctypes.c_void_p]


@contextmanager
def listing(path: Path) -> Iterator[int]:
    stream = LIBC.opendir(os.fsencode(path))
    assert stream
    yield stream
    LIBC.closedir(stream)


def following(stream: int, limit: int = 1 << 20) -> list[str]:
    """Names from where the stream stands."""
    found: list[str] = []
    while len(found) < limit and (entry := LIBC.readdir(stream)):
        name = entry.contents.name.decode()
        if name not in (".", ".."):
            found.append(name)
    return found


def test_names_of_255_bytes_and_not_of_256(shared: Mount) -> None:
    longest = shared.lab / ("n" * 255)
    longest.touch()
    os.link(longest, shared.lab / ("l" * 255))
    longest.rename(shared.lab / ("é" * 127 + "x"))
    assert {"é" * 127 + "x", "l" * 255} <= set(os.listdir(shared.lab))
    bad = shared.lab / ("n" * 256)
    for refused in (
        bad.touch, bad.mkdir, bad.stat, bad.unlink, bad.rmdir, lambda: bad.symlink_to("a"),
        lambda: bad.rename(shared.lab / "a"), lambda: os.rename(shared.lab / ("l" * 255), bad),
    ):  # fmt: skip
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno == errno.ENAMETOOLONG


def test_a_place_in_a_directory_is_found_again(shared: Mount) -> None:
    folder = shared.lab / "places"
    folder.mkdir()
    for n in range(1500):
        (folder / f"{n:04}").touch()
    with listing(folder) as stream:
        first = following(stream, 700)
        place = LIBC.telldir(stream)
        rest = following(stream)
        assert sorted(first + rest) == [f"{n:04}" for n in range(1500)]
        for n in range(0, 1500, 3):
            (folder / f"{n:04}").unlink()
        LIBC.seekdir(stream, place)
        assert following(stream) == [name for name in rest if int(name) % 3]
        LIBC.rewinddir(stream)
        assert following(stream) == [name for name in first + rest if int(name) % 3]


def test_a_listing_of_100_000_names_has_each_that_stays_once(mount: Mount) -> None:
    mount.stop()
    with Store.open(mount.store) as store:
        lab = store.volume("lab")
        for n in range(100_000):
            lab.create(ROOT_INO, b"%06d" % n, 0o644, 0, 0)
    again = serve(mount.store, mount.root)
    found: list[str] = []
    with listing(again.lab) as stream:
        for n in range(40):  # names come and go before and behind the place that it is at
            found += following(stream, 2500)
            (again.lab / f"{n * 2500 + 1:06}").unlink()
            (again.lab / f"{99_999 - n:06}").unlink(missing_ok=True)
            (again.lab / f"new{n}").touch()
        found += following(stream)
    gone = {f"{n * 2500 + 1:06}" for n in range(40)} | {f"{99_999 - n:06}" for n in range(40)}
    stays = {f"{n:06}" for n in range(100_000)} - gone
    assert len(found) == len(set(found))
    assert stays <= set(found)
    assert set(os.listdir(again.lab)) == stays | {f"new{n}" for n in range(40)}
    again.stop()


def test_names_that_stay_are_listed_once_while_others_are_renamed(shared: Mount) -> None:
    folder = shared.lab / "renamed"
    folder.mkdir()
    for n in range(600):
        (folder / f"{n:04}").touch()
    found: list[str] = []
    with listing(folder) as stream:
        while some := following(stream, 50):
            found += some
            for name in some[::2]:  # behind the place that the listing is at
                (folder / name).rename(folder / f"{name}.old")
            (folder / "new").touch()
            (folder / "new").rename(folder / some[1])
            (folder / "0599").rename(folder / "before it")  # ahead of it
            (folder / "before it").rename(folder / "0599")
    assert found == [f"{n:04}" for n in range(600)]
    with listing(folder) as stream:
        assert sorted(following(stream)) == sorted(os.listdir(folder))


def raw_entries(fd: int) -> int:
    """getdents64(2): as much as fits, without the fstat(2) before it that Python would do."""
    buffer = ctypes.create_string_buffer(1 << 15)
    count: int = LIBC.syscall(SYS_GETDENTS64, fd, buffer, len(buffer))
    if count < 0:
        raise OSError(ctypes.get_errno(), "getdents64")
    return count


GONE: dict[str, tuple[str, tuple[str, ...]]] = {
    "a directory": ("lab/d", ("rm", "-r", "lab:/d")),
    "a snapshot's": ("lab/.snapshots/then/d", ("snapshot", "rm", "lab", "then")),
    "the list of snapshots": ("old/.snapshots", ("volume", "rm", "old", "--force")),
    "a volume": ("old", ("volume", "rm", "old", "--force")),
    "restored": ("lab/new", ("snapshot", "restore", "lab", "then", "--force")),
}


@pytest.mark.parametrize("what", GONE)
def test_a_directory_that_another_door_removes_while_it_is_open(tmp_path: Path, what: str) -> None:
    """Its listing fails; the mount goes on."""
    ramet, root = Ramet(tmp_path / "store"), tmp_path / "mnt"
    root.mkdir()
    ramet.run("init", ramet.store)
    for volume in ("lab", "old"):
        ramet.run("volume", "create", volume)
    ramet.run("mount", root)
    try:
        (root / "lab" / "d").mkdir()
        for n in range(2000):
            (root / "lab" / "d" / f"{n:0200}").touch()
        ramet.run("snapshot", "create", "lab", "then")
        (root / "lab" / "new").mkdir()
        path, words = GONE[what]
        begun, fresh = (os.open(root / path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
        raw_entries(begun)
        ramet.run(*words)
        for fd in (begun, fresh):
            try:
                while raw_entries(fd):
                    pass
            except OSError as error:
                assert error.errno in (errno.ESTALE, errno.ENOENT)
            os.close(fd)
        assert "lab" in os.listdir(root)
        (root / "lab" / "it goes on").touch()
    finally:
        ramet.run("umount")


def test_every_request_has_its_errors_mapped() -> None:
    """What a request raises beside FUSEError ends the mount."""
    own = {
        name: each for name, each in vars(Operations).items()
        if callable(each) and hasattr(pyfuse3.Operations, name) and not name.startswith("_")
    }  # fmt: skip
    answered = own.keys() - {"forget"}
    assert {"lookup", "readdir", "read", "write", "flush"} <= answered
    assert not [name for name in answered if not hasattr(own[name], "__wrapped__")]
