"""One store by three doors at once, its mount, NFS and the command's own, against one model.

The model has files by identity and one directory of names.  Each step goes through some door; after
each the directory and all files are looked at through the two that show them, the mount both by
descriptors that have been open for long, whose pages the kernel keeps, and by names.
"""

import os
import stat
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from nfs3_client import FILE_SYNC, Nfs3Client

from service.client import Client

ALL_NAMES = ["a", "b", "c", "d"]
NAMES = st.sampled_from(ALL_NAMES)
DOORS = st.sampled_from(["mount", "nfs"])
OFFSETS = st.sampled_from([0, 1, 4000, 4096, 12_288])
SIZES = st.sampled_from([1, 96, 4096, 9000])
PICK = st.integers(0, 1 << 16)
FILE_BYTES_MAX = 1 << 16


class File:
    """Its contents, and descriptors of the mount that have it open."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.names = 0
        self.opened: list[int] = []


class Doors(RuleBasedStateMachine):
    """In a directory of its own of volume ``lab``."""

    mounted: Path  # the volume on the mount
    nfs: Nfs3Client
    top: bytes  # the handle of the volume's root
    commands: Client
    number = 0

    def __init__(self) -> None:
        super().__init__()
        Doors.number += 1
        self.name = f"run-{Doors.number}"
        self.handle = self.nfs.mkdir(self.top, self.name.encode(), mode=0o755).handle
        self.directory = self.mounted / self.name
        self.names: dict[str, File] = {}
        self.nameless: list[File] = []  # open in the mount

    def teardown(self) -> None:
        for file in [*self.names.values(), *self.nameless]:
            while file.opened:
                os.close(file.opened.pop())

    # --- the model's

    def _link(self, name: str, file: File) -> None:
        self._unlink(name)
        self.names[name] = file
        file.names += 1

    def _unlink(self, name: str) -> None:
        file = self.names.pop(name, None)
        if file is not None:
            file.names -= 1
            if not file.names and file.opened:
                self.nameless.append(file)

    def _pick(self, pick: int) -> str:
        return sorted(self.names)[pick % len(self.names)]

    def _of(self, name: str) -> bytes:
        return self.nfs.lookup(self.handle, name.encode())[0]

    # --- steps

    @rule(door=DOORS, name=NAMES)
    def create(self, door: str, name: str) -> None:
        """What is there under the name goes."""
        self._unlink(name)
        path = self.directory / name
        if door == "mount":
            path.unlink(missing_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
        else:
            if name.encode() in self.nfs.names(self.handle):
                self.nfs.remove(self.handle, name.encode())
            self.nfs.create(self.handle, name.encode(), guarded=True, mode=0o640)
        self._link(name, File())

    @precondition(lambda self: self.names)
    @rule(door=st.sampled_from(["mount", "nfs", "durable nfs"]), pick=PICK, at=OFFSETS, size=SIZES)
    def write(self, door: str, pick: int, at: int, size: int) -> None:
        name, data = self._pick(pick), (b"%d " % pick * size)[:size]
        if door == "mount":
            with open(self.directory / name, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), data, at)
        else:
            stable = FILE_SYNC if door == "durable nfs" else 0
            assert self.nfs.write(self._of(name), at, data, stable).count == size
        self._changed(self.names[name], at, data)

    @staticmethod
    def _changed(file: File, at: int, data: bytes) -> None:
        file.data.extend(bytes(max(0, at + len(data) - len(file.data))))
        file.data[at : at + len(data)] = data

    @precondition(lambda self: self.names)
    @rule(door=DOORS, pick=PICK, size=OFFSETS)
    def truncate(self, door: str, pick: int, size: int) -> None:
        name = self._pick(pick)
        if door == "mount":
            os.truncate(self.directory / name, size)
        else:
            self.nfs.setattr(self._of(name), size=size)
        data = self.names[name].data
        del data[size:]
        data.extend(bytes(size - len(data)))

    @precondition(lambda self: self.names)
    @rule(door=DOORS, pick=PICK, name=NAMES)
    def rename(self, door: str, pick: int, name: str) -> None:
        old = self._pick(pick)
        if door == "mount":
            os.rename(self.directory / old, self.directory / name)
        else:
            self.nfs.rename(self.handle, old.encode(), self.handle, name.encode())
        if self.names[old] is not self.names.get(name):
            file = self.names[old]
            self._link(name, file)
            del self.names[old]
            file.names -= 1

    @precondition(lambda self: self.names)
    @rule(door=DOORS, pick=PICK, name=NAMES)
    def link(self, door: str, pick: int, name: str) -> None:
        old = self._pick(pick)
        if name in self.names:
            return
        if door == "mount":
            os.link(self.directory / old, self.directory / name)
        else:
            self.nfs.link(self._of(old), self.handle, name.encode())
        self._link(name, self.names[old])

    @precondition(lambda self: self.names)
    @rule(door=st.sampled_from(["mount", "nfs", "command"]), pick=PICK)
    def remove(self, door: str, pick: int) -> None:
        name = self._pick(pick)
        if door == "mount":
            (self.directory / name).unlink()
        elif door == "nfs":
            self.nfs.remove(self.handle, name.encode())
        else:
            self.commands.call("rm", f"lab:/{self.name}/{name}", False, False)
        self._unlink(name)

    @precondition(lambda self: self.names)
    @rule(door=st.sampled_from(["mount", "command"]), pick=PICK, name=NAMES)
    def clone(self, door: str, pick: int, name: str) -> None:
        old = self._pick(pick)
        if name in self.names:
            return
        data = self.names[old].data
        if door == "command":
            source, target = (f"lab:/{self.name}/{each}" for each in (old, name))
            self.commands.clone(source, target).wait()
        else:
            source_path, target_path = self.directory / old, self.directory / name
            with source_path.open("rb") as source_file, target_path.open("xb") as target_file:
                fds, done = (source_file.fileno(), target_file.fileno()), 0
                while done < len(data):
                    done += os.copy_file_range(*fds, len(data) - done, done, done)
        self._link(name, File(data))

    @precondition(lambda self: self.names)
    @rule(pick=PICK)
    def open(self, pick: int) -> None:
        name = self._pick(pick)
        self.names[name].opened.append(os.open(self.directory / name, os.O_RDWR))

    @precondition(lambda self: self.nameless)
    @rule(at=OFFSETS, size=SIZES)
    def write_without_a_name(self, at: int, size: int) -> None:
        file, data = self.nameless[-1], b"x" * size
        os.pwrite(file.opened[0], data, at)
        self._changed(file, at, data)

    @precondition(lambda self: self.nameless)
    @rule()
    def close(self) -> None:
        file = self.nameless.pop()
        while file.opened:
            os.close(file.opened.pop())

    # --- what is seen

    @invariant()
    def all_doors_show_the_model(self) -> None:
        """Looking makes the kernel ask again, a listing for all it lists: so first what it may
        have kept, open files, then names, then the list."""
        for file in [*self.names.values(), *self.nameless]:
            for fd in file.opened:
                assert os.fstat(fd).st_nlink == file.names
                assert os.pread(fd, FILE_BYTES_MAX, 0) == file.data
        for name in ALL_NAMES:
            assert os.path.lexists(self.directory / name) == (name in self.names)
        for name, file in self.names.items():
            self._check(name, file)
        seen, told = os.stat(self.directory), self.nfs.getattr(self.handle)
        assert seen.st_mtime_ns == told.mtime[0] * 10**9 + told.mtime[1]
        assert sorted(os.listdir(self.directory)) == sorted(self.names)
        assert sorted(self.nfs.names(self.handle)) == sorted(n.encode() for n in self.names)
        os.stat(self.directory)  # a listing has made the kernel drop what it had of that

    def _check(self, name: str, file: File) -> None:
        handle = self._of(name)
        seen, told = os.stat(self.directory / name), self.nfs.getattr(handle)
        assert seen.st_size == told.size == len(file.data)
        assert seen.st_nlink == told.nlink == file.names
        assert seen.st_ino == told.fileid
        assert stat.S_IMODE(seen.st_mode) == told.mode
        assert seen.st_mtime_ns == told.mtime[0] * 10**9 + told.mtime[1]
        assert seen.st_ctime_ns == told.ctime[0] * 10**9 + told.ctime[1]
        assert self.nfs.read(handle, 0, FILE_BYTES_MAX)[0] == file.data
        assert (self.directory / name).read_bytes() == file.data
