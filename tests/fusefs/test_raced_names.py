"""A name that another door takes after the kernel has looked for it and before it creates it."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import Store
from fusefs.operations import Operations
from service import daemon
from service.client import Client

RACED = b"raced"


def between(
    folder: Path, patch: pytest.MonkeyPatch, make: Callable[[Any, int], object],
    use: Callable[[Path], object],
) -> None:  # fmt: skip
    """``use`` a path of a mount, whose name ``make`` takes in its directory just before a request
    is carried out that would."""
    store, root = folder / "store", folder / "mnt"
    Store.create(store)
    root.mkdir()
    waits, made, failed = Operations._admit_names, [], []

    async def raced(self: Operations, *names: tuple[int, bytes]) -> None:
        await waits(self, *names)
        if names[0][1] == RACED and not made:
            volume, ino = self._locate(names[0][0])
            made.append(make(volume, ino))

    def run() -> None:
        client = Client(store)
        try:
            client.call("volume_create", "lab", 0, False)
            use(root / "lab" / RACED.decode())
        except BaseException as error:
            failed.append(error)
        finally:
            client.call("shutdown")

    patch.setattr(Operations, "_admit_names", raced)
    worker = threading.Thread(target=run)
    daemon.serve(str(store), str(root), worker.start)
    worker.join()
    if failed:
        raise failed[0]
    assert made


def file(volume: Any, ino: int, *, mode: int = 0o644) -> None:
    inode = volume.create(ino, RACED, mode, 0, 0)
    volume.write(inode.ino, 0, b"theirs")


def test_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        assert os.read(fd, 9) == b"theirs"
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o644
        os.close(fd)

    between(tmp_path, monkeypatch, file, use)


def test_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(path: Path) -> None:
        path.write_bytes(b"us")
        assert path.read_bytes() == b"us"

    between(tmp_path, monkeypatch, file, use)


def test_who_wants_it_new_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(path: Path) -> None:
        with pytest.raises(FileExistsError):
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        assert path.read_bytes() == b"theirs"

    between(tmp_path, monkeypatch, file, use)


def test_a_directory_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(path: Path) -> None:
        with pytest.raises(IsADirectoryError):
            os.open(path, os.O_RDWR | os.O_CREAT)

    def make(volume: Any, ino: int) -> None:
        volume.mkdir(ino, RACED, 0o755, 0, 0)

    between(tmp_path, monkeypatch, make, use)


def test_who_may_not_open_it_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is everybody's to write, the file that has come only its owner's to read."""

    def use(path: Path) -> None:
        path.parent.chmod(0o777)
        parent = os.open(path.parent, os.O_RDONLY)  # what is above is not everybody's
        child = os.fork()
        if not child:
            try:
                os.setuid(7)
                os.open(RACED, os.O_RDONLY | os.O_CREAT, dir_fd=parent)
            except PermissionError:
                os._exit(7)
            finally:
                os._exit(1)
        os.close(parent)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    between(tmp_path, monkeypatch, lambda volume, ino: file(volume, ino, mode=0o600), use)
