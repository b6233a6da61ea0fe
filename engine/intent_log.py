"""The intent log: what was written and synced since the last commit, made durable by one sync.

A commit syncs the slabs, LMDB's pages and LMDB's root, in that order, one after the other.  A sync
of a little data need not wait for three: it goes here in one piece, and the next commit, which
comes in its own time, makes it superfluous.  When the store is opened after a crash, what the last
commit does not have yet is written again (``Store.open``).

The file has two regions of fixed size, written before they are used, so that a sync of them is one
write to the disk.  Records that the commit of number N will have are in region N % 2, from its
start on; there are never records of more than two commits: of the one under way and of the next.
A record has its own number, which begins at 0 for each commit, and says how many there are of the
commit before: none can be missing unseen (docs/FORMAT.md, invariant F21).

The file is made when it is first wanted and removed when the store is closed.
"""

import contextlib
import itertools
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from engine import errors
from engine.superblock import BLOCK_BYTES

LOG_FILE = "intents"
UNMADE = ".new"  # while it is made
ASIDE = ".aside"  # what could not be written again, for somebody to look at
REGION_BYTES_MIN = 1 << 20
PAGE_BYTES = 4096
SPARE = 16  # of what the host has free the log takes this part at most
ZEROES = bytes(1 << 20)

_MAGIC = b"RAMETIL1"
_HEADER = struct.Struct("<8sQIIIIQQ")  # magic, commit, number, before, writes, 0, bytes, checksum
_CHECKSUM_OFFSET = _HEADER.size - 8
_WRITE = struct.Struct("<QQQQqQQ")


class Logged(NamedTuple):
    """One write of a record.  ``generation``, ``change``, ``mtime_ns``: the inode's."""

    volume_id: int
    ino: int
    generation: int
    change: int
    mtime_ns: int
    offset: int
    data: memoryview


class Record(NamedTuple):
    """Where its bytes go."""

    at: int
    raw: bytearray


class NoLog(Exception):
    """The log cannot be made, or takes no record: nothing was promised, a commit has to do."""


class IntentLog:
    """Of one store that is open for writing.  ``prepare`` and ``write`` may run on a thread of
    their own, one at a time; all else is the engine thread's."""

    def __init__(self, root: Path, seed: int, region_bytes: int) -> None:
        self._path = root / LOG_FILE
        self._unmade = root / (LOG_FILE + UNMADE)
        self._seed = seed
        self._region_bytes = region_bytes
        self._fd = -1
        self._commit = self._number = self._before = self._used = self._blocks = 0
        self.wanted = False  # somebody has it made
        self.ready = False

    # --- writing

    def take_share(self) -> int:
        """Settle its size by what the host has free: how many blocks its records have at most.
        NoLog."""
        try:
            host = os.statvfs(self._path.parent)
        except OSError as error:
            raise NoLog from error
        while 2 * self._region_bytes > host.f_bavail * host.f_frsize // SPARE:
            self._region_bytes //= 2
            if self._region_bytes < REGION_BYTES_MIN:
                raise NoLog
        return 2 * self._blocks_max

    @property
    def _blocks_max(self) -> int:
        """Of the records of a region."""
        return self._region_bytes // BLOCK_BYTES

    def prepare(self) -> None:
        """Make the file, whole before it has its name.  NoLog."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._fd = os.open(self._unmade, flags, 0o600)
            self._fill(2 * self._region_bytes)
            self._unmade.rename(self._path)
            _sync_directory(self._path.parent)
        except OSError as error:
            self.close(remove=True)
            raise NoLog from error
        self.ready = True

    def _fill(self, size: int) -> None:
        """Its blocks are written, not only allocated: else each sync would change the host's own
        metadata as well."""
        for at in range(0, size, len(ZEROES)):
            _write_all(self._fd, at, ZEROES[: size - at])
        os.fsync(self._fd)

    @property
    def crowded(self) -> bool:
        """Whether a commit should come soon: the next one's records have a region of their own."""
        return max(self._used, self._blocks * BLOCK_BYTES) > self._region_bytes // 2

    def record(self, commit: int, writes: Sequence[Logged]) -> Record | None:
        """The next record, of writes that the commit of this number will have; None when there is
        no room.  Whoever asks has it written, before the next."""
        if commit != self._commit:
            self._before = self._number if commit == self._commit + 1 else 0
            self._commit, self._number, self._used, self._blocks = commit, 0, 0, 0
        raw = self._encode(commit, writes)
        blocks = self._blocks + sum(-(-len(write.data) // BLOCK_BYTES) for write in writes)
        if self._used + len(raw) > self._region_bytes or blocks > self._blocks_max:
            return None
        self._blocks = blocks
        at = commit % 2 * self._region_bytes + self._used
        self._used += len(raw)
        self._number += 1
        return Record(at, raw)

    def _encode(self, commit: int, writes: Sequence[Logged]) -> bytearray:
        length = _HEADER.size + sum(_WRITE.size + len(write.data) for write in writes)
        raw = bytearray(-(-length // PAGE_BYTES) * PAGE_BYTES)
        _HEADER.pack_into(
            raw, 0, _MAGIC, commit, self._number, self._before, len(writes), 0, length, 0
        )
        at = _HEADER.size
        for write in writes:
            _WRITE.pack_into(raw, at, *write[:-1], len(write.data))
            at += _WRITE.size
            raw[at : at + len(write.data)] = write.data
            at += len(write.data)
        checksum = xxhash.xxh3_64_intdigest(raw, self._seed)
        raw[_CHECKSUM_OFFSET : _HEADER.size] = checksum.to_bytes(8, "little")
        return raw

    def write(self, record: Record) -> None:
        """Make it durable.  NoLog: nothing was promised, and the log takes no more; OSError:
        call ``Store.fail``."""
        try:
            _write_all(self._fd, record.at, record.raw)
        except OSError as error:
            if error.errno not in errors.DISK_FULL:
                raise
            self.ready = False
            raise NoLog from error
        os.fdatasync(self._fd)

    def close(self, *, remove: bool) -> None:
        """``remove`` it when a commit has all that it holds."""
        self.ready = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for path in (self._path, self._unmade) if remove else ():
            with contextlib.suppress(OSError):  # what it has is of past commits: nobody heeds it
                path.unlink(missing_ok=True)

    # --- reading

    def pending(self, commits: int) -> list[Logged]:
        """What the log has beyond the commit of this number, in order.  Corrupt."""
        scan = Scan(self._path, self._seed)
        writes = [write for record in scan.records(commits) for write in record]
        if scan.problem is not None:
            raise errors.Corrupt(
                f"{scan.problem}: writes that were synced would be lost; run `ramet fsck`"
            )
        return writes

    def keep_aside(self) -> None:
        """Also under a name that nobody heeds, for somebody to look at."""
        keep_aside(self._path)


def keep_aside(path: Path) -> Path:
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}{ASIDE}-{number}")
        with contextlib.suppress(FileExistsError):
            os.link(path, aside)
            break
    _sync_directory(path.parent)
    return aside


class Scan:
    """What a log holds, also one that is damaged: ``problem`` says how, ``good_bytes`` how much of
    it, by region, comes before the damage (None: of no region)."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self._seed = seed
        self.problem: str | None = None
        self.good_bytes: list[int] | None = None
        self._raw = memoryview(b"")
        try:
            self._raw = memoryview(path.read_bytes())
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problem = f"{path} cannot be read ({error.strerror})"
        self.region_bytes = len(self._raw) // 2
        pieces = self.region_bytes // REGION_BYTES_MIN
        if len(self._raw) != 2 * pieces * REGION_BYTES_MIN or pieces & (pieces - 1):
            self.problem = f"{path} has another size than it was made with"
        if self.problem is None:
            self.good_bytes = [0, 0]

    @property
    def used(self) -> bool:
        """Whether there ever was a record."""
        starts = (0, self.region_bytes)
        return any(self._raw[at : at + len(_MAGIC)] == _MAGIC for at in starts)

    def records(self, commits: int) -> Iterator[list[Logged]]:
        """The whole records that the commit of this number has not, up to the first that is
        missing."""
        number = 0
        for commit in (commits + 1, commits + 2) if self.good_bytes is not None else ():
            before, number = number, 0
            region = commit % 2
            start = at = region * self.region_bytes
            while (found := self._record(at, commit, number)) is not None:
                size, said_before, writes = found
                if not number and commit > commits + 1 and said_before != before:
                    self.problem = (
                        f"{self.path} has {before} of {said_before} records of commit {commit - 1}"
                    )
                    return
                at += size
                number += 1
                assert self.good_bytes is not None
                self.good_bytes[region] = at - start
                yield writes
            if self._goes_on(at, start + self.region_bytes, commit, number):
                self.problem = f"record {number} of commit {commit} in {self.path} is damaged"
                return

    def _goes_on(self, at: int, end: int, commit: int, number: int) -> bool:
        """Whether there is a later record: the one that is not whole was written, then."""
        for page in range(at, end, PAGE_BYTES):
            if self._raw[page : page + len(_MAGIC)] == _MAGIC:
                later = _HEADER.unpack_from(self._raw, page)[2]
                if later >= number and self._record(page, commit, later) is not None:
                    return True
        return False

    def _record(self, at: int, commit: int, number: int) -> tuple[int, int, list[Logged]] | None:
        """(bytes, records of the commit before, writes); None: not whole, or of another time."""
        if at + _HEADER.size > len(self._raw):
            return None
        magic, own_commit, own_number, before, count, _, length, checksum = _HEADER.unpack_from(
            self._raw, at
        )
        size = -(-length // PAGE_BYTES) * PAGE_BYTES
        room = self.region_bytes - at % self.region_bytes
        if (magic, own_commit, own_number) != (_MAGIC, commit, number) or size > room:
            return None
        raw = bytearray(self._raw[at : at + size])
        raw[_CHECKSUM_OFFSET : _HEADER.size] = bytes(8)
        if xxhash.xxh3_64_intdigest(raw, self._seed) != checksum:
            return None
        try:
            return size, before, list(_writes(memoryview(raw)[:length], count))
        except (struct.error, ValueError):
            return None

    def cut(self, commits: int) -> str:
        """Take away what comes after the damage, so that the rest can be written again; or put the
        file aside.  Returns what was done."""
        for _ in self.records(commits):
            pass
        if self.good_bytes is None:
            aside = keep_aside(self.path)
            self.path.unlink()
            return f"kept as {aside}"
        with self.path.open("r+b") as file:
            for region, good in enumerate(self.good_bytes):
                file.seek(region * self.region_bytes + good)
                file.write(bytes(self.region_bytes - good))
            file.flush()
            os.fsync(file.fileno())
        return "cut there"


def _writes(raw: memoryview, count: int) -> Iterable[Logged]:
    at = _HEADER.size
    for _ in range(count):
        volume_id, ino, generation, change, mtime_ns, offset, length = _WRITE.unpack_from(raw, at)
        at += _WRITE.size
        data = raw[at : at + length]
        if len(data) != length:
            raise ValueError(length)
        yield Logged(volume_id, ino, generation, change, mtime_ns, offset, data)
        at += length


def _write_all(fd: int, at: int, data: "bytes | bytearray") -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
