"""The LMDB environment: which tables there are, and the only code that opens it.

Default sync, no WRITEMAP (a full disk would be SIGBUS), no NOSYNC, a huge map from the start
(growing it later would invalidate readers).  One environment a process: liblmdb is linked nowhere
else, because a second copy drops the first one's locks when it closes.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import lmdb

from engine import errors

MAP_BYTES = 1 << 42
TABLES = ("super", "nodes", "volumes", "slots", "orphans", "reclaim", "records")
SUPERBLOCK_KEY = b"superblock"
STATE_KEY = b"state"

_ID = struct.Struct("=Q")
_CHUNK = struct.Struct(">II")  # slab, chunk


class Reader:
    """A read transaction held open: one commit's state, for gc's mark and for fsck."""

    def __init__(self, meta: "Meta") -> None:
        self._meta = meta
        self._txn = meta.env.begin(buffers=True)

    def node(self, node_id: int) -> memoryview:
        """A stored node; KeyError when there is none.  Valid until ``close``."""
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
                yield _ID.unpack(key)[0]

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(self._meta.table(table)) as cursor:
            for key, value in cursor:
                yield bytes(key), bytes(value)

    def close(self) -> None:
        self._txn.abort()


class Meta:
    """The store's tables.  ``read_node`` runs on the engine thread, ``write`` on any one thread."""

    def __init__(self, path: Path, *, create: bool = False, read_only: bool = False) -> None:
        try:
            self.env = lmdb.open(
                str(path), map_size=MAP_BYTES, max_dbs=len(TABLES), create=create,
                readonly=read_only, mode=0o600, readahead=False, meminit=False,
            )  # fmt: skip
        except lmdb.Error as error:
            raise errors.Corrupt(f"cannot open the metadata in {path}: {error}") from error
        try:
            self._tables = {
                name: self.env.open_db(name.encode(), create=create, integerkey=name == "nodes")
                for name in TABLES
            }
        except lmdb.Error as error:
            self.env.close()
            raise errors.Corrupt(f"the metadata in {path} is no store's: {error}") from error
        self.nodes = self._tables["nodes"]

    def table(self, name: str) -> "lmdb._Database":
        return self._tables[name]

    def get(self, table: str, key: bytes) -> bytes | None:
        with self.env.begin() as txn:
            value: bytes | None = txn.get(key, db=self._tables[table])
            return value

    def items(self, table: str) -> list[tuple[bytes, bytes]]:
        with self.env.begin() as txn, txn.cursor(self._tables[table]) as cursor:
            return list(cursor)

    def last_node(self) -> int:
        """The largest id of a stored node; 0 when there is none."""
        with self.env.begin() as txn, txn.cursor(self.nodes) as cursor:
            return _ID.unpack(cursor.key())[0] if cursor.last() else 0

    def read_node(self, node_id: int) -> bytes:
        """The stored node; KeyError when there is none."""
        with self.env.begin() as txn:
            raw: bytes | None = txn.get(_ID.pack(node_id), db=self.nodes)
        if raw is None:
            raise KeyError(node_id)
        return raw

    def write(
        self,
        nodes: Iterable[tuple[int, "bytes | memoryview"]],
        dead_nodes: Iterable[int],
        puts: Iterable[tuple[str, bytes, bytes]],
        deletes: Iterable[tuple[str, bytes]],
    ) -> None:
        """One durable transaction.  OSError or lmdb.Error: nothing of it is visible."""
        tables = self._tables
        with self.env.begin(write=True) as txn:
            for node_id, raw in nodes:
                txn.put(_ID.pack(node_id), raw, db=self.nodes)
            for node_id in dead_nodes:
                txn.delete(_ID.pack(node_id), db=self.nodes)
            for name, key in deletes:
                txn.delete(key, db=tables[name])
            for name, key, value in puts:
                txn.put(key, value, db=tables[name])

    @property
    def map_bytes(self) -> int:
        """The most that the metadata can grow to."""
        return MAP_BYTES

    def used_bytes(self) -> int:
        """Bytes of the metadata file in use."""
        info, stat = self.env.info(), self.env.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    def close(self) -> None:
        self.env.close()


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
