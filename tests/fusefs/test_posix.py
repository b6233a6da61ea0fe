"""What system calls refuse and what else they change, row by row.

Each row runs in a directory of its own with the same small tree.  The kernel decides part of this
(permissions, for one), from what the mount tells it; which part is no matter to programs.
"""

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from mounted import serve

from engine import Store

LONG, LONGEST = "n" * 256, "n" * 255
OWNER, OTHER, GROUP = 4321, 4322, 8765
LONG_AGO_NS = 1_000_000_000_123_456_789

Call = Callable[[], object]
Row = tuple[int, Call]
numbers = count()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("posix")
    store, root = base / "store", base / "mnt"
    root.mkdir()
    Store.create(store)
    with Store.open(store) as opened:
        opened.create_volume("lab")
    served = serve(store, root)
    yield served.lab
    served.stop()


@pytest.fixture
def tree(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: names are relative, so that other users need no way to the mount."""
    here = lab / f"{next(numbers)}"
    here.mkdir()
    monkeypatch.chdir(here)
    os.umask(0o022)
    for name in ("empty", "full", "full/inner", "sticky", "shut", "shared"):
        os.mkdir(name)
    for name in ("file", "other", "full/file", "sticky/mine", "sticky/yours", "shut/file"):
        Path(name).write_bytes(b"0123456789")
    os.symlink("file", "link")
    os.symlink("nowhere", "dangling")
    os.symlink("round2", "round1")
    os.symlink("round1", "round2")
    os.mkfifo("pipe")
    for name in ("file", "sticky/mine", "shut/file"):
        os.chown(name, OWNER, GROUP)
    os.chown("sticky/yours", OTHER, GROUP)
    os.chmod("sticky", 0o1777)
    os.chmod(".", 0o777)
    os.chown("shared", 0, GROUP)
    os.chmod("shared", 0o2777)
    return here


@contextmanager
def as_user(uid: int, gid: int = 0) -> Iterator[None]:
    """This process asks as somebody else, who is in one group only."""
    groups, old_gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(gid or uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(old_gid)
        os.setgroups(groups)


def opening(name: str, flags: int) -> None:
    os.close(os.open(name, flags, 0o644))


def overwriting(name: str) -> None:
    with open(name, "r+b") as file:
        file.write(b"x")


def listening(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)


REFUSED: dict[str, Row] = {
    # names that are too long, or no names
    "open a long name": (errno.ENAMETOOLONG, lambda: opening(LONG, os.O_RDONLY)),
    "create a long name": (errno.ENAMETOOLONG, lambda: opening(LONG, os.O_CREAT | os.O_WRONLY)),
    "mkdir a long name": (errno.ENAMETOOLONG, lambda: os.mkdir(LONG)),
    "unlink a long name": (errno.ENAMETOOLONG, lambda: os.unlink(LONG)),
    "rmdir a long name": (errno.ENAMETOOLONG, lambda: os.rmdir(LONG)),
    "rename a long name": (errno.ENAMETOOLONG, lambda: os.rename(LONG, "new")),
    "rename to a long name": (errno.ENAMETOOLONG, lambda: os.rename("file", LONG)),
    "link to a long name": (errno.ENAMETOOLONG, lambda: os.link("file", LONG)),
    "link of a long name": (errno.ENAMETOOLONG, lambda: os.link(LONG, "new")),
    "symlink of a long name": (errno.ENAMETOOLONG, lambda: os.symlink("file", LONG)),
    "chmod a long name": (errno.ENAMETOOLONG, lambda: os.chmod(LONG, 0o600)),
    "truncate a long name": (errno.ENAMETOOLONG, lambda: os.truncate(LONG, 0)),
    "fifo of a long name": (errno.ENAMETOOLONG, lambda: os.mkfifo(LONG)),
    "below a long name": (errno.ENAMETOOLONG, lambda: os.stat(f"{LONG}/x")),
    "an empty name": (errno.ENOENT, lambda: os.stat("")),
    "symlink to nothing": (errno.ENOENT, lambda: os.symlink("", "new")),
    # symbolic links
    "open a circle": (errno.ELOOP, lambda: opening("round1", os.O_RDONLY)),
    "go through a circle": (errno.ELOOP, lambda: os.unlink("round1/x")),
    "open no link": (errno.ELOOP, lambda: opening("link", os.O_RDONLY | os.O_NOFOLLOW)),
    "open what a link lacks": (errno.ENOENT, lambda: opening("dangling", os.O_RDONLY)),
    "create over a link": (
        errno.EEXIST,
        lambda: opening("dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    ),
    "readlink of a file": (errno.EINVAL, lambda: os.readlink("file")),
    # files and directories in each other's place
    "list a file": (errno.ENOTDIR, lambda: os.listdir("file")),
    "go below a file": (errno.ENOTDIR, lambda: os.stat("file/x")),
    "mkdir below a file": (errno.ENOTDIR, lambda: os.mkdir("file/x")),
    "open a file as directory": (
        errno.ENOTDIR,
        lambda: opening("file", os.O_RDONLY | os.O_DIRECTORY),
    ),
    "write a directory": (errno.EISDIR, lambda: opening("empty", os.O_WRONLY)),
    "truncate a directory": (errno.EISDIR, lambda: os.truncate("empty", 0)),
    "unlink a directory": (errno.EISDIR, lambda: os.unlink("empty")),
    "rmdir a file": (errno.ENOTDIR, lambda: os.rmdir("file")),
    "rmdir a link": (errno.ENOTDIR, lambda: os.rmdir("link")),
    "rmdir of a full one": (errno.ENOTEMPTY, lambda: os.rmdir("full")),
    "rmdir of dot": (errno.EINVAL, lambda: os.rmdir("empty/.")),
    "rmdir of dot-dot": (errno.ENOTEMPTY, lambda: os.rmdir("full/inner/..")),
    "link of a directory": (errno.EPERM, lambda: os.link("empty", "new")),
    "open a socket": (errno.ENXIO, lambda: (listening("socket"), opening("socket", os.O_RDONLY))),
    "write a pipe nobody reads": (
        errno.ENXIO,
        lambda: opening("pipe", os.O_WRONLY | os.O_NONBLOCK),
    ),
    # what is there, and what is not
    "mkdir again": (errno.EEXIST, lambda: os.mkdir("empty")),
    "mkdir over a file": (errno.EEXIST, lambda: os.mkdir("file")),
    "link over a file": (errno.EEXIST, lambda: os.link("file", "other")),
    "symlink over a file": (errno.EEXIST, lambda: os.symlink("x", "file")),
    "fifo over a file": (errno.EEXIST, lambda: os.mkfifo("file")),
    "create anew what is there": (
        errno.EEXIST,
        lambda: opening("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    ),
    "unlink nothing": (errno.ENOENT, lambda: os.unlink("nothing")),
    "rename nothing": (errno.ENOENT, lambda: os.rename("nothing", "new")),
    "rename into nothing": (errno.ENOENT, lambda: os.rename("file", "nothing/file")),
    # renames
    "a file over a directory": (errno.EISDIR, lambda: os.rename("file", "empty")),
    "a directory over a file": (errno.ENOTDIR, lambda: os.rename("empty", "file")),
    "a directory over a full one": (errno.ENOTEMPTY, lambda: os.rename("empty", "full")),
    "a directory below itself": (errno.EINVAL, lambda: os.rename("full", "full/inner/new")),
    "a directory over its parent": (errno.ENOTEMPTY, lambda: os.rename("full/inner", "full")),
    "rename of dot": (errno.EBUSY, lambda: os.rename("empty/.", "new")),
    # sizes
    "a negative size": (errno.EINVAL, lambda: os.truncate("file", -1)),
    "a size too large": (errno.EFBIG, lambda: os.truncate("file", (1 << 50) + 1)),
    "a directory's bytes": (errno.EISDIR, lambda: os.read(os.open("empty", os.O_RDONLY), 1)),
}

#: The same, as OWNER.
REFUSED_TO_OWNER: dict[str, Row] = {
    "unlink in a shut directory": (errno.EACCES, lambda: os.unlink("shut/file")),
    "rename out of a shut directory": (errno.EACCES, lambda: os.rename("shut/file", "new")),
    "create in a shut directory": (errno.EACCES, lambda: os.mkdir("shut/new")),
    "unlink another's in a sticky one": (errno.EPERM, lambda: os.unlink("sticky/yours")),
    "rename another's in a sticky one": (errno.EPERM, lambda: os.rename("sticky/yours", "new")),
    "replace another's in a sticky one": (
        errno.EPERM,
        lambda: os.rename("sticky/mine", "sticky/yours"),
    ),
    "chmod another's": (errno.EPERM, lambda: os.chmod("other", 0o777)),
    "chown another's": (errno.EPERM, lambda: os.chown("other", OWNER, GROUP)),
    "give away": (errno.EPERM, lambda: os.chown("file", OTHER, -1)),
    "give to a group one is not in": (errno.EPERM, lambda: os.chown("file", -1, GROUP + 1)),
    "set another's times": (errno.EPERM, lambda: os.utime("other", (1, 1))),
    "touch another's": (errno.EACCES, lambda: os.utime("other")),
    "write another's": (errno.EACCES, lambda: opening("other", os.O_WRONLY)),
    "truncate another's": (errno.EACCES, lambda: os.truncate("other", 0)),
    "make a device": (errno.EPERM, lambda: os.mknod("null", stat.S_IFCHR, os.makedev(1, 3))),
}


def refusal(call: Call) -> str:
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def picture(here: Path) -> list[tuple[str, int, int, int]]:
    """Names, modes, owners and sizes; nothing of them is left half done."""
    found = [path for path in sorted(here.rglob("*")) if path.name != "socket"]
    stats = [(str(path.relative_to(here)), path.lstat()) for path in found]
    return [(name, at.st_mode, at.st_uid, at.st_size) for name, at in stats]


def test_what_is_refused_is_refused_by_its_errno_and_changes_nothing(tree: Path) -> None:
    before, seen = picture(tree), {}
    for row, (_, call) in REFUSED.items():
        seen[row] = refusal(call)
    with as_user(OWNER, GROUP):
        for row, (_, call) in REFUSED_TO_OWNER.items():
            seen[row] = refusal(call)
    rows = REFUSED | REFUSED_TO_OWNER
    assert seen == {row: errno.errorcode[number] for row, (number, _) in rows.items()}
    assert picture(tree) == before


def test_the_longest_name_is_none_too_long(tree: Path) -> None:
    opening(LONGEST, os.O_CREAT | os.O_WRONLY)
    os.link(LONGEST, LONGEST[1:])
    os.rename(LONGEST[1:], "m" + LONGEST[1:])
    assert os.stat(LONGEST).st_nlink == 2
    os.unlink(LONGEST)
    os.mkdir(LONGEST)
    os.symlink("t" * 4095, "to")
    assert os.readlink("to") == "t" * 4095


#: What each call changes of the times: of the file (a, m, c) and of its directory (A, M, C).
CHANGED: dict[str, tuple[str, Call]] = {
    "chmod": ("c", lambda: os.chmod("file", 0o600)),
    "chmod to the same": ("c", lambda: os.chmod("file", 0o644)),
    "chown": ("c", lambda: os.chown("file", OTHER, GROUP)),
    "chown of nothing": ("c", lambda: os.chown("file", 0, -1)),
    "utime": ("amc", lambda: os.utime("file")),
    "truncate": ("mc", lambda: os.truncate("file", 5)),
    "truncate to the same": ("mc", lambda: os.truncate("file", 10)),
    "grow": ("mc", lambda: os.truncate("file", 20)),
    "open with O_TRUNC": ("mc", lambda: opening("file", os.O_WRONLY | os.O_TRUNC)),
    "write": ("mc", lambda: overwriting("file")),
    "open": ("", lambda: opening("file", os.O_RDWR)),
    "setxattr": ("c", lambda: os.setxattr("file", "user.x", b"")),
    "link": ("cMC", lambda: os.link("file", "new")),
    "rename": ("cMC", lambda: os.rename("file", "new")),
    "rename onto itself": ("", lambda: os.rename("file", "file")),
    "create beside it": ("MC", lambda: opening("new", os.O_CREAT | os.O_WRONLY)),
    "create what is there": ("", lambda: opening("file", os.O_CREAT | os.O_WRONLY)),
    "mkdir": ("MC", lambda: os.mkdir("new")),
    "rmdir": ("MC", lambda: os.rmdir("empty")),
    "symlink": ("MC", lambda: os.symlink("x", "new")),
    "fifo": ("MC", lambda: os.mkfifo("new")),
    "unlink": ("cMC", lambda: os.unlink("file")),
    "rename over it": ("cMC", lambda: os.rename("other", "file")),
    "what is refused": ("", lambda: refusal(lambda: os.rename("file", "empty"))),
}


@pytest.mark.parametrize("row", CHANGED)
def test_times_change_when_they_should(tree: Path, row: str) -> None:
    expected, call = CHANGED[row]
    with Path("file").open("rb") as kept:
        for name in ("file", "."):
            os.utime(name, ns=(LONG_AGO_NS, LONG_AGO_NS))
        before, directory = os.fstat(kept.fileno()), os.stat(".")
        call()
        after, directory_after = os.fstat(kept.fileno()), os.stat(".")
    times = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
    changed = [
        letter
        for letters, old, new in (("amc", before, after), ("AMC", directory, directory_after))
        for letter, time in zip(letters, times, strict=True)
        if getattr(old, time) != getattr(new, time)
    ]
    assert "".join(changed) == expected


def mode(name: str) -> str:
    return oct(stat.S_IMODE(os.stat(name).st_mode))


def test_set_id_bits_go_when_an_ordinary_user_changes_the_file(tree: Path) -> None:
    seen = {}
    changes: dict[str, Call] = {
        "write": lambda: overwriting("file"),
        "truncate": lambda: os.truncate("file", 3),
        "grow": lambda: os.truncate("file", 30),
        "chown": lambda: os.chown("file", OWNER, GROUP),
    }
    for change, call in changes.items():
        os.chmod("file", 0o6777)
        with as_user(OWNER, GROUP):
            call()
        seen[change] = mode("file")
    assert seen == dict.fromkeys(changes, "0o777")
    os.chmod("file", 0o6777)
    Path("file").write_bytes(b"root's own")
    assert mode("file") == "0o6777"
    os.chmod("file", 0o644)
    with as_user(OWNER, OTHER):  # not in the file's group
        os.chmod("file", 0o2755)
    assert mode("file") == "0o755"


def test_what_is_made_is_its_makers(tree: Path) -> None:
    with as_user(OWNER, GROUP + 1):
        os.mkdir("shared/dir")
        opening("shared/file", os.O_CREAT | os.O_WRONLY)
        os.symlink("x", "shared/link")
        os.mkdir("mine")
        os.unlink("sticky/mine")
    for name in ("dir", "file", "link"):
        found = os.lstat(f"shared/{name}")
        assert (found.st_uid, found.st_gid) == (OWNER, GROUP)
    assert mode("shared/dir") == "0o2755"
    assert (os.stat("mine").st_gid, mode("mine")) == (GROUP + 1, "0o755")


def test_links_are_counted(tree: Path) -> None:
    def links(*names: str) -> list[int]:
        return [os.lstat(name).st_nlink for name in names]

    os.link("file", "full/second")
    os.link("link", "third")  # of the link, not of what it leads to
    assert links("file", "full/second", "link", "full", "empty") == [2, 2, 2, 3, 2]
    os.rename("full/second", "file")  # two names of one file: nothing happens
    assert links("file", "full/second") == [2, 2]
    os.rename("full/inner", "empty")  # replaces it
    assert links("full", "empty", ".") == [2, 2, 7]
    os.rename("empty", "full/inner")
    os.unlink("third")
    os.unlink("full/second")
    assert links("full", "file", ".") == [3, 1, 6]


def test_what_lost_its_last_name_is_told_until_nobody_has_it(tree: Path) -> None:
    """Also without a file handle: a directory, O_PATH, where a process stands."""
    opened = os.open("empty", os.O_RDONLY)
    path_only = os.open("file", os.O_PATH)
    removed = os.open("full/inner", os.O_PATH)
    try:
        os.rename("full/inner", "empty")
        os.rmdir("empty")
        os.unlink("file")
        for fd in (opened, path_only, removed):
            assert os.fstat(fd).st_nlink == 0
        assert os.listdir(opened) == []
        assert os.fstat(path_only).st_size == 10
        here = tree / "here"
        here.mkdir()
        os.chdir(here)
        here.rmdir()
        assert os.stat(".").st_nlink == 0
        assert refusal(lambda: os.mkdir("new")) == "ENOENT"
    finally:
        os.chdir(tree)
        for fd in (opened, path_only, removed):
            os.close(fd)


def test_a_directory_that_changes_while_it_is_listed_comes_to_an_end(tree: Path) -> None:
    names = {f"{n:04}" for n in range(2000)}
    os.mkdir("many")
    for name in names:
        opening(f"many/{name}", os.O_CREAT | os.O_WRONLY)
    seen = []
    with os.scandir("many") as listing:
        for n, entry in enumerate(listing):
            assert n < 3 * len(names)
            seen.append(entry.name)
            os.rename(entry.path, "many/moved")
            os.rename("many/moved", entry.path)
            opening(f"many/new{n}", os.O_CREAT | os.O_WRONLY)
    assert names <= set(seen)
    assert len(os.listdir("many")) == len(names) + len(seen)


def test_reads_and_writes_at_the_edges(tree: Path) -> None:
    fd = os.open("file", os.O_RDWR | os.O_APPEND)
    try:
        assert os.pread(fd, 10, 10) == b""
        assert os.pread(fd, 10, 1 << 40) == b""
        assert os.pread(fd, 20, 5) == b"56789"
        os.pwrite(fd, b"end", 0)  # on Linux O_APPEND has the last word
        assert os.pread(fd, 20, 0) == b"0123456789end"
        os.ftruncate(fd, 5)
        os.ftruncate(fd, 9)
        assert os.pread(fd, 20, 0) == b"01234\0\0\0\0"
        assert os.write(fd, b"") == 0
        assert refusal(lambda: os.pread(fd, 1, -1)) == "EINVAL"
    finally:
        os.close(fd)
    with open("file", "rb") as reader, open("file", "ab") as writer:
        assert refusal(lambda: os.write(reader.fileno(), b"x")) == "EBADF"
        assert refusal(lambda: os.read(writer.fileno(), 1)) == "EBADF"


def test_times_are_kept_to_the_nanosecond_and_far_from_now(tree: Path) -> None:
    for time_ns in (0, -1, -(1 << 62), (1 << 62) + 1, LONG_AGO_NS):
        os.utime("file", ns=(time_ns, time_ns + 1))
        found = os.stat("file")
        assert (found.st_atime_ns, found.st_mtime_ns) == (time_ns, time_ns + 1)
    os.utime("link", ns=(5, 6), follow_symlinks=False)
    assert (os.lstat("link").st_mtime_ns, os.stat("file").st_mtime_ns) == (6, LONG_AGO_NS + 1)
