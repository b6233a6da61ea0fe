"""What a power cut leaves of a file system that keeps POSIX's promises only (crash_posix.py).

Per file: the bytes of its last fsync, and of the writes since then the sectors that a coin says.
Per directory: the names of its last fsync, and of the changes since then those that a coin says; a
rename is one change, if both its names are in one directory.  Nothing orders one file against
another, and a file's fsync says nothing about its name.
"""

import contextlib
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import crash_log
import msgspec
from crash_disk import serving
from crash_posix import LENGTH, ROOT, Record, is_directory

SECTOR = 512
SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass
class Kept:
    """An inode: what is durable, and what was done since."""

    data: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, int] = field(default_factory=dict)
    pending: list[Record] = field(default_factory=list)


def read_records(path: Path) -> Iterator[Record]:
    decode = msgspec.msgpack.Decoder(Record).decode
    raw, at = memoryview(path.read_bytes()), 0
    while at + LENGTH.size <= len(raw):
        (length,) = LENGTH.unpack_from(raw, at)
        at += LENGTH.size
        yield decode(raw[at : at + length])
        at += length


def as_log(records: list[Record]) -> list[crash_log.Record]:
    """The same as crash_log knows them; ``end`` counts records instead of bytes."""
    decode = msgspec.msgpack.Decoder(crash_log.Note).decode
    kinds = {"fsync": crash_log.FSYNC, "note": crash_log.NOTE}
    return [
        crash_log.Record(
            kinds.get(record.what, crash_log.WRITE), end,
            decode(record.data) if record.what == "note" else None,
        )
        for end, record in enumerate(records, 1)
    ]  # fmt: skip


class Image:
    """The file system at some point of the log."""

    def __init__(self) -> None:
        self._inodes: dict[int, Kept] = {}

    def _inode(self, ino: int) -> Kept:
        return self._inodes.setdefault(ino, Kept())

    def add(self, record: Record) -> None:
        """Go on by one record."""
        if record.what == "fsync":
            inode = self._inode(record.ino)
            for each in inode.pending:
                apply(inode.data, inode.entries, record.ino, each)
            inode.pending.clear()
        elif record.what == "names":
            for directory in {entry[0] for entry in record.entries}:
                self._inode(directory).pending.append(record)
        elif record.what != "note":
            self._inode(record.ino).pending.append(record)

    def cut(self, rng: random.Random, target: Path) -> None:
        """Put into an empty directory what a cut here may leave."""
        self._write(ROOT, target, rng, rng.choice(SHARES))

    def _write(self, ino: int, path: Path, rng: random.Random, share: float) -> None:
        kept = self._inode(ino)
        data, entries = bytearray(kept.data), dict(kept.entries)
        for record in kept.pending:
            torn = record.what == "write" and rng.random() < 0.5
            if torn:
                for piece in sectors(record):
                    if rng.random() < share:
                        apply(data, entries, ino, piece)
            elif rng.random() < share:
                apply(data, entries, ino, record)
        if not is_directory(ino):
            path.write_bytes(data)
            path.chmod(0o600)
            return
        path.mkdir(exist_ok=True)
        for name, child in entries.items():
            self._write(child, path / name.decode(), rng, share)


def sectors(record: Record) -> Iterator[Record]:
    for at in range(0, len(record.data), SECTOR):
        piece = record.data[at : at + SECTOR]
        yield Record("write", record.ino, record.offset + at, piece)


def apply(data: bytearray, entries: dict[bytes, int], ino: int, record: Record) -> None:
    if record.what == "write":
        data.extend(bytes(max(0, record.offset - len(data))))
        data[record.offset : record.offset + len(record.data)] = record.data
    elif record.what == "size":
        del data[record.offset :]
        data.extend(bytes(record.offset - len(data)))
    else:
        for directory, name, child in record.entries:
            if directory == ino and child:
                entries[name] = child
            elif directory == ino:
                entries.pop(name, None)


class Posix:
    """The medium."""

    name = "posix"

    @contextlib.contextmanager
    def recorded(self, directory: Path, log: Path) -> Iterator[crash_log.Place]:
        root = directory / "root"
        root.mkdir()
        command = [sys.executable, Path(__file__).with_name("crash_posix.py"), root, log]
        with serving(command, root):
            yield crash_log.Place(root, root / "notes")

    def records(self, log: Path) -> list[crash_log.Record]:
        return as_log(list(read_records(log)))

    @contextlib.contextmanager
    def replayed(self, directory: Path, log: Path) -> Iterator[crash_log.Cutter]:
        records, image, root = list(read_records(log)), Image(), directory / "left"
        at = 0

        @contextlib.contextmanager
        def cut(end: int, seed: int) -> Iterator[Path]:
            nonlocal at
            for record in records[at:end]:
                image.add(record)
            at = end
            image.cut(random.Random(seed), root)
            try:
                yield root
            finally:
                shutil.rmtree(root)

        yield cut
