"""The LMDB environment: which tables there are, and the only code that opens it.

Default sync, no WRITEMAP (a full disk would be SIGBUS), no NOSYNC, a huge map from the start
(growing it later would invalidate readers).  One environment a process: liblmdb is linked nowhere
else, because a second copy drops the first one's locks when it closes.

LMDB's lock file is for other processes, and here is only one.  LMDB maps it writable and stores in
it for each transaction, reads too; on a full disk such a store can be SIGBUS (in a hole; on btrfs
in any page).  So the lock file is made in memory.
"""

import contextlib
import errno
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb

import native
from engine import errors
from engine.turns import Turns

MAP_BYTES = 1 << 42
TABLES = ("super", "nodes", "volumes", "slots", "orphans", "reclaim", "records")
SUPERBLOCK_KEY = b"superblock"
STATE_KEY = b"state"

_ID = struct.Struct("=Q")
_CHUNK = struct.Struct(">II")  # slab, chunk
DATA_FILE = "data.mdb"
MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
LOCK_BYTES = 8192  # LMDB's: a header and 126 readers, in whole pages


@dataclass(frozen=True)
class MetaSize:
    """Pages of the metadata file, by what is in them."""

    used_pages: int
    leaf_pages: int  # of the nodes' table, branches included
    slot_pages: int  # of the slots' table, all
    nodes: int


class Reader:
    """A read transaction held open: one commit's state, for gc's mark and for fsck.

    All but ``get`` raise Busy once ``Meta.interrupt`` was called: passes over a store run on
    threads, which nobody else can stop; and all but ``get`` leave the interpreter to others from
    time to time (``turns``).
    """

    def __init__(self, meta: "Meta") -> None:
        self._meta = meta
        self.turns = Turns(beside=meta.beside)
        self._txn = meta.env.begin(buffers=True)
        meta.readers += 1

    def node(self, node_id: int) -> memoryview:
        """A stored node; KeyError when there is none.  Valid until ``close``."""
        self._meta.check_going_on()
        self.turns.give()
        raw = self._txn.get(_ID.pack(node_id), db=self._meta.nodes)
        if raw is None:
            raise KeyError(node_id)
        return raw  # type: ignore[no-any-return]

    def get(self, table: str, key: bytes) -> bytes | None:
        value: memoryview | None = self._txn.get(key, db=self._meta.table(table))
        return None if value is None else bytes(value)

    def node_ids(self) -> Iterator[int]:
        with self._txn.cursor(self._meta.nodes) as cursor:
            for key in cursor.iternext(keys=True, values=False):
                self._meta.check_going_on()
                self.turns.give()
                yield _ID.unpack(key)[0]

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(self._meta.table(table)) as cursor:
            for key, value in cursor:
                self._meta.check_going_on()
                self.turns.give()
                yield bytes(key), bytes(value)

    def close(self) -> None:
        self._txn.abort()
        self._meta.drop_reader()


class Meta:
    """The store's tables.  ``read_node`` runs on the engine thread, ``write`` on any one thread."""

    def __init__(self, path: Path, *, create: bool = False, read_only: bool = False) -> None:
        self._path = path
        self.readers = 0
        self.beside = False  # whether passes and commits are on threads, beside an engine thread
        self._refuses = False
        self._interrupted = False
        try:
            self._open(create=create, read_only=read_only)
        except lmdb.Error as error:
            if create:
                raise disk_error(error, "run init again") from error
            raise errors.Corrupt(f"cannot open the metadata in {path}: {error}") from error
        self.page_bytes: int = self.env.stat()["psize"]

    def interrupt(self) -> None:
        """End the passes over the store that run on threads, now and from now on."""
        self._interrupted = True

    def check_going_on(self) -> None:
        """Busy after ``interrupt``; any thread, often enough that nobody waits for a pass."""
        if self._interrupted:
            raise errors.Busy("the store is about to close; run it again when it is open")

    def _open(self, *, create: bool, read_only: bool) -> None:
        with _lock_in_memory(self._path) as (path, subdir):
            self.env = lmdb.open(
                str(path), subdir=subdir, map_size=MAP_BYTES, max_dbs=len(TABLES), create=create,
                readonly=read_only, mode=0o600, readahead=False, meminit=False,
            )  # fmt: skip
        try:
            self._tables = {
                name: self.env.open_db(name.encode(), create=create, integerkey=name == "nodes")
                for name in TABLES
            }
        except BaseException:
            self.env.close()
            raise
        self.nodes = self._tables["nodes"]

    def recover_reads(self) -> None:
        """A commit has failed: make sure that reading goes on.

        LMDB refuses even to read when it could not write its root page.  What was committed is
        there and whole, so it is opened again, read-only, when the last reader has gone.
        """
        try:
            self.env.begin().abort()
        except lmdb.PanicError:
            self._refuses = self.readers > 0
            if not self._refuses:
                self.env.close()
                self._open(create=False, read_only=True)

    def drop_reader(self) -> None:
        self.readers -= 1
        if self._refuses:
            self.recover_reads()

    def table(self, name: str) -> "lmdb._Database":
        return self._tables[name]

    def get(self, table: str, key: bytes) -> bytes | None:
        """StoreFailed when LMDB does not read (``recover_reads``)."""
        with self._reading() as txn:
            return txn.get(key, db=self._tables[table])  # type: ignore[return-value]

    @contextlib.contextmanager
    def _reading(self) -> "Iterator[lmdb.Transaction]":
        try:
            with self.env.begin() as txn:
                yield txn
        except lmdb.Error as error:
            raise errors.StoreFailed(f"the metadata cannot be read: {error}; reopen it") from error

    def items(self, table: str) -> list[tuple[bytes, bytes]]:
        with self.env.begin() as txn, txn.cursor(self._tables[table]) as cursor:
            return list(cursor)

    def last_node(self) -> int:
        """The largest id of a stored node; 0 when there is none."""
        with self.env.begin() as txn, txn.cursor(self.nodes) as cursor:
            return _ID.unpack(cursor.key())[0] if cursor.last() else 0

    def read_node(self, node_id: int) -> bytes:
        """The stored node; KeyError when there is none, StoreFailed as ``get``."""
        with self._reading() as txn:
            raw = txn.get(_ID.pack(node_id), db=self.nodes)
        if raw is None:
            raise KeyError(node_id)
        return raw  # type: ignore[return-value]

    def warm_node(self, node_id: int) -> None:
        """Have a node's pages read; any thread, while ``readers`` counts it.  Tells of no error:
        who loads the node afterwards meets it."""
        with contextlib.suppress(KeyError, errors.StoreFailed):
            self.read_node(node_id)

    def write(
        self,
        nodes: Iterable[tuple[int, "bytes | memoryview"]],
        dead_nodes: Iterable[int],
        puts: Iterable[tuple[str, bytes, bytes]],
        deletes: Iterable[tuple[str, bytes]],
    ) -> None:
        """One durable transaction.  OSError or lmdb.Error: nothing of it is visible."""
        tables, turns = self._tables, Turns(beside=self.beside)
        with self.env.begin(write=True) as txn:
            for node_id, raw in nodes:
                txn.put(_ID.pack(node_id), raw, db=self.nodes)
                turns.give()
            for node_id in dead_nodes:
                txn.delete(_ID.pack(node_id), db=self.nodes)
                turns.give()
            for name, key in deletes:
                txn.delete(key, db=tables[name])
                turns.give()
            for name, key, value in puts:
                txn.put(key, value, db=tables[name])
                turns.give()

    @property
    def map_bytes(self) -> int:
        """The most that the metadata can grow to."""
        return MAP_BYTES

    def used_bytes(self) -> int:
        """Bytes of the metadata file in use."""
        return int((self.env.info()["last_pgno"] + 1) * self.page_bytes)

    def size(self) -> MetaSize:
        with self.env.begin() as txn:
            nodes, slots = txn.stat(self.nodes), txn.stat(self._tables["slots"])
        return MetaSize(
            used_pages=self.env.info()["last_pgno"] + 1,
            leaf_pages=nodes["leaf_pages"] + nodes["branch_pages"],
            slot_pages=slots["leaf_pages"] + slots["branch_pages"] + slots["overflow_pages"],
            nodes=nodes["entries"],
        )

    def close(self) -> None:
        self.env.close()


@contextlib.contextmanager
def _lock_in_memory(path: Path) -> Iterator[tuple[Path, bool]]:
    """Where to open the environment (path, whether it is a directory) so that its lock file is in
    memory: beside a symlink to the data.  Without a tmpfs it stays where LMDB puts it."""
    try:
        scratch = Path(tempfile.mkdtemp(prefix="ramet-", dir=MEMORY))
    except OSError:
        _allocate_lock(path / "lock.mdb")
        yield path, True
        return
    try:
        data = scratch / "data"
        data.symlink_to(path.absolute() / DATA_FILE)
        _allocate_lock(scratch / "data-lock")
        yield data, False
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # LMDB holds what it needs open


def _allocate_lock(path: Path) -> None:
    """NoSpace when its two pages have no room; a file system that cannot is left to LMDB."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_blocks * 512 < LOCK_BYTES:
                native.allocate(fd, 0, LOCK_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in errors.DISK_FULL:
            raise errors.NoSpace(errors.HOST_IS_FULL) from error
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def disk_error(error: Exception, todo: str) -> errors.RametError:
    """What to tell about a write to the metadata that failed: NoSpace, or StoreFailed."""
    full = isinstance(error, lmdb.DiskError) or (
        isinstance(error, OSError) and error.errno in errors.DISK_FULL
    )
    if full:
        return errors.NoSpace(f"the disk is full ({error}); free space, then {todo}")
    return errors.StoreFailed(f"writing to the store's disk failed ({error}); {todo}")


def id_key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def orphan_key(volume_id: int, ino: int) -> bytes:
    return id_key(volume_id) + id_key(ino)


def unpack_orphan_key(key: bytes) -> tuple[int, int]:
    """(volume id, inode number); Corrupt."""
    if len(key) != 16:
        raise errors.Corrupt(f"an orphan under a damaged key {key.hex()}; run `ramet fsck`")
    return int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")


def chunk_key(slab: int, chunk: int) -> bytes:
    return _CHUNK.pack(slab, chunk)


def unpack_chunk_key(key: bytes) -> tuple[int, int]:
    if len(key) != _CHUNK.size:
        raise errors.Corrupt(f"slots under a damaged key {key.hex()}; run `ramet fsck`")
    slab, chunk = _CHUNK.unpack(key)
    return slab, chunk
