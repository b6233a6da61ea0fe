"""The two ways into a store: the engine in this process, and a daemon's mount and socket."""

import ctypes
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from crash_model import TREE

from engine import ROOT_INO, Store, Volume, errors
from engine.block_range import BlockRange
from service.rpc import Client

DEADLINE_S = 30
PUNCH_KEEPING_SIZE = 3
ORPHAN_BYTES = b"nobody sees this" * 1024
NO_QUOTA, OWN_DOMAIN = 0, False
Range = tuple[int, int, int]  # source block, target block, count


def find_volume(store: Store, name: str) -> Volume:
    """A volume, or with ``@`` a snapshot."""
    volume, _, snapshot = name.partition("@")
    found = store.volume(volume)
    return store.snapshot(found, snapshot) if snapshot else found


class EngineDoor:
    """``engine.Store``, called directly.  The file unlinked last is still open: an orphan."""

    write_bytes_max = 1 << 20
    splits_at_pages = False

    def __init__(self, store: Store) -> None:
        self.store = store
        self._orphan: tuple[Volume, int] | None = None

    def reopened(self, store: Store) -> None:
        self.store, self._orphan = store, None

    def _close_orphan(self) -> None:
        if self._orphan is not None:
            volume, ino = self._orphan
            volume.release(ino)
            self._orphan = None

    def _file(self, volume: str, name: str) -> tuple[Volume, int]:
        found = find_volume(self.store, volume)
        return found, found.lookup(ROOT_INO, name.encode()).ino

    def create(self, volume: str, name: str) -> None:
        self.store.volume(volume).create(ROOT_INO, name.encode(), 0o644, 0, 0)

    def write(self, volume: str, name: str, offset: int, data: bytes) -> None:
        found, ino = self._file(volume, name)
        found.write(ino, offset, data)

    def truncate(self, volume: str, name: str, size: int) -> None:
        found, ino = self._file(volume, name)
        found.setattr(ino, size=size)

    def punch(self, volume: str, name: str, offset: int, length: int) -> None:
        found, ino = self._file(volume, name)
        found.punch(ino, offset, length)

    def unlink(self, volume: str, name: str) -> None:
        self._close_orphan()
        found, ino = self._file(volume, name)
        found.hold(ino)
        found.unlink(ROOT_INO, name.encode())
        found.write(ino, 1000, ORPHAN_BYTES)
        self._orphan = found, ino

    def rename(self, volume: str, old: str, new: str) -> None:
        self.store.volume(volume).rename(ROOT_INO, old.encode(), ROOT_INO, new.encode())

    def clone_file(self, source: str, name: str, volume: str, new: str) -> None:
        found, ino = self._file(source, name)
        target = self.store.volume(volume)
        self.store.clone_file(found, ino, target, ROOT_INO, new.encode(), replace=True)

    def clone_range(
        self, volume: str, name: str, start: int, into: str, new: str, to: int, length: int
    ) -> None:
        source, ino = self._file(volume, name)
        target, into_ino = self._file(into, new)
        assert self.store.clone_range(source, ino, start, target, into_ino, to, length) == length

    def clone_ranges(
        self, volume: str, name: str, into: str, new: str, ranges: list[Range]
    ) -> None:  # fmt: skip
        source, ino = self._file(volume, name)
        target, into_ino = self._file(into, new)
        wanted = [BlockRange(*each) for each in ranges]
        self.store.clone_ranges(source, ino, target, into_ino, wanted, extend=True)

    def clone_tree(self, source: str, volume: str) -> None:
        for _ in self.clone_tree_steps(source, volume):
            pass

    def remove_tree(self, volume: str) -> None:
        self.store.remove_tree(self.store.volume(volume), ROOT_INO, TREE.encode())

    def clone_tree_steps(self, source: str, volume: str) -> Iterator[None]:
        found, target = find_volume(self.store, source), self.store.volume(volume)
        top, name = found.lookup(ROOT_INO, TREE.encode()).ino, TREE.encode()
        yield from self.store.tree_clone(found, top, target, ROOT_INO, name)

    def create_volume(self, volume: str) -> None:
        self.store.create_volume(volume)

    def clone_volume(self, source: str, volume: str) -> None:
        self.store.clone_volume(find_volume(self.store, source), volume)

    def remove_volume(self, volume: str) -> None:
        self._close_orphan()
        self.store.remove_volume(volume)

    def snapshot(self, volume: str, name: str) -> None:
        self.store.create_snapshot(self.store.volume(volume), name)

    def remove_snapshot(self, volume: str, name: str) -> None:
        self.store.remove_snapshot(self.store.volume(volume), name)

    def restore(self, volume: str, name: str) -> None:
        self._close_orphan()
        self.store.restore(self.store.volume(volume), name)


class DaemonDoor:
    """Files through the mount, the rest through the socket.

    Each operation is one request to the daemon, so that a crash keeps all of it or nothing: no
    write is one that the kernel would split.  ``durable`` says whether the last one was
    on disk when it returned; what came before it is then too.
    """

    write_bytes_max = 64 << 10
    splits_at_pages = True

    def __init__(self, store: Path, mountpoint: Path) -> None:
        self._store = store
        self._mountpoint = mountpoint
        self.durable = False

    def _path(self, volume: str, name: str) -> Path:
        self.durable = False
        return self._mountpoint / volume / name

    def _with_file(self, volume: str, name: str, use: Callable[[int], object]) -> None:
        fd = os.open(self._path(volume, name), os.O_RDWR)
        try:
            use(fd)
        finally:
            os.close(fd)

    def create(self, volume: str, name: str) -> None:
        os.mknod(self._path(volume, name), stat.S_IFREG | 0o644)

    def write(self, volume: str, name: str, offset: int, data: bytes) -> None:
        def use(fd: int) -> None:
            assert os.pwrite(fd, data, offset) == len(data)

        self._with_file(volume, name, use)

    def truncate(self, volume: str, name: str, size: int) -> None:
        os.truncate(self._path(volume, name), size)

    def punch(self, volume: str, name: str, offset: int, length: int) -> None:
        self._with_file(volume, name, lambda fd: _punch(fd, offset, length))

    def unlink(self, volume: str, name: str) -> None:
        self._path(volume, name).unlink()

    def rename(self, volume: str, old: str, new: str) -> None:
        self._path(volume, old).rename(self._path(volume, new))

    def clone_range(
        self, volume: str, name: str, start: int, into: str, new: str, to: int, length: int
    ) -> None:
        def use(target: int) -> None:
            def copy(source: int) -> None:
                os.fstat(source)  # as cp does: the kernel may know an old size, and stops there
                assert os.copy_file_range(source, target, length, start, to) == length

            self._with_file(volume, name, copy)

        self._with_file(into, new, use)

    def fsync(self, volume: str, name: str = ".") -> None:
        """Of a file, or of the volume's directory: each makes durable all that was done before."""
        fd = os.open(self._path(volume, name), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self.durable = True

    # --- by the socket; durable when the answer is there

    def call(self, method: str, *arguments: object) -> object:
        """One request; again when Busy: the kernel gives a closed file back in its own time."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            client = Client.connect(self._store)
            if client is None:
                raise ConnectionError("no daemon answers")
            try:
                answer: object = client.call(method, *arguments)
            except errors.Busy:
                if time.monotonic() > deadline:
                    raise
            else:
                self.durable = True
                return answer

    def clone_file(self, source: str, name: str, volume: str, new: str) -> None:
        self.call("clone", f"{source}:/{name}", f"{volume}:/{new}", 1, 0, True)

    def clone_ranges(
        self, volume: str, name: str, into: str, new: str, ranges: list[Range]
    ) -> None:  # fmt: skip
        self.call("clone_ranges", f"{volume}:/{name}", f"{into}:/{new}", ranges, True)

    def clone_tree(self, source: str, volume: str) -> None:
        self.call("clone", f"{source}:/{TREE}", f"{volume}:/{TREE}", 1, 0, False)

    def create_volume(self, volume: str) -> None:
        self.call("volume_create", volume, NO_QUOTA, OWN_DOMAIN)

    def clone_volume(self, source: str, volume: str) -> None:
        self.call("volume_clone", source, volume, 1, 1)

    def remove_volume(self, volume: str) -> None:
        self.call("volume_rm", volume, False)

    def snapshot(self, volume: str, name: str) -> None:
        self.call("snapshot_create", volume, name)

    def remove_snapshot(self, volume: str, name: str) -> None:
        self.call("snapshot_rm", volume, name, False)

    def restore(self, volume: str, name: str) -> None:
        self.call("snapshot_restore", volume, name, False, False)


def _punch(fd: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    long = ctypes.c_long
    if libc.fallocate(fd, PUNCH_KEEPING_SIZE, long(offset), long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")
