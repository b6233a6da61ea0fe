"""A file system that keeps no promise but POSIX's, recorded: ``crash_posix.py DIRECTORY LOG``.

ext4, XFS and btrfs make more durable than an fsync asks for: the name of a new file, say, with the
file.  A store that leans on that is safe on these three and nowhere else.  This one keeps files and
directories in memory and logs what is done to each; crash_posix_cut.py decides what a power cut
leaves, where only an fsync of a file keeps its bytes, and only an fsync of a directory its names.

Records are msgpack, each after a u32 length; see ``Record``.
"""

import errno
import os
import stat
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyfuse3
import trio

ROOT = pyfuse3.ROOT_INODE
NOTES = b"notes"
FREE_BYTES = 1 << 32
LENGTH = struct.Struct("<I")


class Record(msgspec.Struct, array_like=True):
    """``what``: write, size, fsync (of ``ino``); names (``entries`` change as one); note.

    An entry is directory, name, and the inode it is now, 0 for none.
    """

    what: str
    ino: int = 0
    offset: int = 0
    data: bytes = b""
    entries: list[tuple[int, bytes, int]] = []


@dataclass
class Node:
    """A file or a directory.  Even numbers are directories, so a record needs no kind."""

    ino: int
    data: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, int] = field(default_factory=dict)


def is_directory(ino: int) -> bool:
    return ino == ROOT or ino % 2 == 0


class Recorder(pyfuse3.Operations):
    """All in memory.  A file handle is twice the inode, plus one when it was opened O_DSYNC."""

    def __init__(self, log: Callable[[Record], object]) -> None:
        super().__init__()
        self._log = log
        self._nodes = {ROOT: Node(ROOT)}
        self._next = 100
        self._notes = self._new(directory=False).ino
        self._nodes[ROOT].entries[NOTES] = self._notes

    def _new(self, *, directory: bool) -> Node:
        self._next += 2
        node = Node(self._next + (not directory))
        self._nodes[node.ino] = node
        return node

    def _child(self, parent: int, name: bytes) -> Node:
        ino = self._nodes[parent].entries.get(name)
        if ino is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._nodes[ino]

    def _change(self, *entries: tuple[int, bytes, int]) -> None:
        for directory, name, ino in entries:
            if ino:
                self._nodes[directory].entries[name] = ino
            else:
                self._nodes[directory].entries.pop(name, None)
        self._log(Record("names", entries=list(entries)))

    def _attributes(self, node: Node) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node.ino
        kind = stat.S_IFDIR | 0o700 if is_directory(node.ino) else stat.S_IFREG | 0o600
        entry.st_mode = kind
        entry.st_nlink = 1
        entry.st_size = len(node.data)
        entry.attr_timeout = entry.entry_timeout = 3600
        return entry

    async def lookup(
        self, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(self._child(parent, name))

    async def getattr(self, ino: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(self._nodes[ino])

    async def setattr(
        self, ino: int, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields,
        fh: int | None, ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:  # fmt: skip
        node = self._nodes[ino]
        if fields.update_size:
            size = attr.st_size
            del node.data[size:]
            node.data.extend(bytes(size - len(node.data)))
            self._log(Record("size", ino, size))
        return self._attributes(node)

    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        node = self._new(directory=True)
        self._change((parent, name, node.ino))
        return self._attributes(node)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        node = self._new(directory=False)
        self._change((parent, name, node.ino))
        return await self.open(node.ino, flags, ctx), self._attributes(node)

    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._child(parent, name)
        self._change((parent, name, 0))

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:  # fmt: skip
        ino = self._child(parent, name).ino
        self._change((parent, name, 0), (new_parent, new_name, ino))

    async def opendir(self, ino: int, ctx: pyfuse3.RequestContext) -> int:
        return ino

    async def readdir(self, fh: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        entries = list(self._nodes[fh].entries.items())
        for n, (name, ino) in enumerate(entries[start:], start + 1):
            if not pyfuse3.readdir_reply(token, name, self._attributes(self._nodes[ino]), n):
                return

    async def open(self, ino: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        handle = ino << 1 | bool(flags & os.O_DSYNC)
        return pyfuse3.FileInfo(fh=handle, direct_io=ino == self._notes)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return bytes(self._nodes[fh >> 1].data[offset : offset + size])

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        ino = fh >> 1
        if ino == self._notes:
            self._log(Record("note", data=data))
            return len(data)
        content = self._nodes[ino].data
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        self._log(Record("write", ino, offset, data))
        if fh & 1:
            self._log(Record("fsync", ino))
        return len(data)

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._log(Record("fsync", fh >> 1))

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        self._log(Record("fsync", fh))

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = FREE_BYTES // 4096
        data.f_files = data.f_ffree = data.f_favail = 1 << 20
        data.f_namemax = 255
        return data

    async def flush(self, fh: int) -> None:
        """close(2) promises nothing."""


def main(directory: str, log: str) -> None:
    with Path(log).open("wb", buffering=0) as file:  # SIGTERM ends it

        def append(record: Record) -> None:
            raw = msgspec.msgpack.encode(record)
            file.write(LENGTH.pack(len(raw)) + raw)

        options = {"fsname=crash-posix"}
        pyfuse3.init(Recorder(append), directory, options)
        print("ready", flush=True)
        try:
            trio.run(pyfuse3.main)
        finally:
            pyfuse3.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
