"""Accounting: what deleting a file, a directory, a volume or a snapshot would free.

A mark pass over one commit.  Files lie in directories, these in volumes and snapshots, these in the
store: a tree of owners.  Each block gets the lowest owner that everything lies below that maps it
(native/owners.c).  *Unique* bytes of an owner are the blocks whose owner it is, or one below it:
what is freed if it is deleted now, all of it and nothing else.  A snapshot lies in its volume,
since it goes with it; a file with several names lies below the directory that all of them are in;
what an open file without a name holds is nobody's.

The pass visits a node as often as the owners it is reached from differ in height, so a golden image
with a thousand clones costs little more than the image.  Memory: 4 bytes a slot, 20 a node, about
30 an inode, and none of it in objects of its own: to free a million of these would keep everybody
waiting.
"""

import array
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import native
from engine import errors, keys
from engine.inode import Inode
from engine.meta import STATE_KEY, Reader
from engine.nodes import decode
from engine.pool import Pool
from engine.superblock import BLOCK_BYTES, State
from engine.volume_record import FLAG_SNAPSHOT, VolumeRecord
from native.owners import STORE

NODE_IDS_STEP = 4_096
PAGE_INODES = 64


class ByInode:
    """A number for each inode of a namespace; 0: none.  Inode numbers lie dense, mostly."""

    def __init__(self, kind: str) -> None:
        self._empty = array.array(kind, [0]) * PAGE_INODES
        self._pages: dict[int, array.array[int]] = {}

    def get(self, ino: int) -> int:
        page = self._pages.get(ino // PAGE_INODES)
        return 0 if page is None else page[ino % PAGE_INODES]

    def set(self, ino: int, number: int) -> None:
        page = self._pages.get(ino // PAGE_INODES)
        if page is None:
            page = self._pages[ino // PAGE_INODES] = self._empty[:]
        page[ino % PAGE_INODES] = number


@dataclass(frozen=True)
class Unique:
    """The figures of one pass, in bytes; they hold as of its commit."""

    as_of_ns: int
    commit: int
    reached_bytes: int  # all blocks that anything maps
    shared_bytes: int  # of these, in more than one file
    referenced_bytes: int  # all blocks, counted in every file, volume and snapshot that maps them
    dedup_saved_bytes: int  # written again, and found to be stored already
    _sums: "array.array[int]"
    _volumes: dict[int, int]
    _inodes: dict[int, ByInode]

    @property
    def clone_saved_bytes(self) -> int:
        """What clones and snapshots share without having written it."""
        return self.referenced_bytes - self.reached_bytes - self.dedup_saved_bytes

    def _bytes(self, owner: int | None) -> int | None:
        return None if owner is None else self._sums[owner] * BLOCK_BYTES

    def of_volume(self, volume_id: int) -> int | None:
        """Of a volume with its snapshots, or of one snapshot; None when the pass had it not."""
        return self._bytes(self._volumes.get(volume_id))

    def of_inode(self, volume_id: int, ino: int) -> int | None:
        """Of a file, or of a directory with all below it; None when the pass had it not."""
        inodes = self._inodes.get(volume_id)
        return self._bytes(None if inodes is None else inodes.get(ino) or None)


@dataclass
class _Names:
    """The directories that each inode of one namespace has names in."""

    top: int  # the owner of the root directory
    owners: ByInode
    parents: ByInode = field(default_factory=lambda: ByInode("Q"))
    count: int = 0
    more: dict[int, list[int]] = field(default_factory=dict)  # of inodes with several names

    def add(self, ino: int, parent: int) -> None:
        self.count += 1
        if self.parents.get(ino):
            self.more.setdefault(ino, []).append(parent)
        else:
            self.parents.set(ino, parent)


class Accounting:
    """One pass.  Made on the engine thread, right after a commit; ``run`` on any one thread."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._owners = pool.core.owners()
        self._reader: Reader | None = pool.reader()
        self._volumes: dict[int, int] = {}
        self._inodes: dict[int, ByInode] = {}
        self._files = array.array("I")
        self._referenced = 0
        self._nodes = 0

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._owners.close()

    def run(self) -> Unique:
        """The whole pass.  Corrupt when a node is damaged or missing."""
        assert self._reader is not None
        try:
            self._walk(self._reader)
            return self._result(self._reader)
        except KeyError as error:
            raise errors.Corrupt(f"node {error.args[0]} is missing; run `ramet fsck`") from None
        except (native.CorruptNode, RecursionError) as error:  # directories in each other
            raise errors.Corrupt(f"{error}; run `ramet fsck`") from error

    def _result(self, reader: Reader) -> Unique:
        sums = self._owners.sums()
        state = State.unpack(reader.get("super", STATE_KEY))
        alone = sum(sums[owner] for owner in self._files)
        return Unique(
            time.time_ns(), state.commits, sums[STORE] * BLOCK_BYTES,
            (sums[STORE] - alone) * BLOCK_BYTES, self._referenced * BLOCK_BYTES,
            self._owners.deduped * BLOCK_BYTES, sums, self._volumes, self._inodes,
        )  # fmt: skip

    def _walk(self, reader: Reader) -> None:
        ids = reader.node_ids()
        while portion := list(itertools.islice(ids, NODE_IDS_STEP)):
            self._owners.add_ids(array.array("Q", portion).tobytes())
            self._nodes += len(portion)
        records = [VolumeRecord.unpack(raw) for _, raw in reader.items("volumes")]
        for record in records:
            if not record.flags & FLAG_SNAPSHOT:
                self._volumes[record.id] = self._owners.add(STORE)
        for record in records:
            group = self._volumes.get(record.parent_id, STORE)
            if record.flags & FLAG_SNAPSHOT:
                top = self._volumes[record.id] = self._owners.add(group)
            else:
                top = self._owners.add(self._volumes[record.id])
            owners = self._inodes[record.id] = ByInode("I")
            self._namespace(reader, record, _Names(top, owners))
        for key, raw in reader.items("orphans"):
            inode = Inode.unpack(int.from_bytes(key[8:], "big"), raw)
            self._referenced += inode.blocks
            self._map(reader, inode.root, STORE)

    def _namespace(self, reader: Reader, record: VolumeRecord, names: _Names) -> None:
        """Records come in the order of their keys: all names before any inode."""
        names.owners.set(keys.ROOT_INO, names.top)
        self._referenced += record.blocks
        for key, value in self._records(reader, record.root):
            if key[:1] == b"D":
                entry = keys.unpack_by_name(key[9:], value)
                names.add(entry.ino, int.from_bytes(key[1:9], "big"))
            elif key[:1] == b"I":
                inode = Inode.unpack(keys.ino_of_inode_key(key), value)
                if inode.root:
                    owner = self._owner(names, inode.ino)
                    self._files.append(owner)
                    self._map(reader, inode.root, owner)

    def _records(self, reader: Reader, root: int) -> Iterator[tuple[bytes, bytes]]:
        seen = 0  # a namespace has each of its nodes once, so no more than there are
        pending = [root] if root else []
        while pending:
            node_id = pending.pop()
            node = decode(node_id, reader.node(node_id), self._pool.superblock.hash_seed)
            seen += 1
            if seen > self._nodes:
                raise errors.Corrupt(f"node {node_id} leads in a circle; run `ramet fsck`")
            if node.level:
                pending.extend(reversed(node.vals))  # type: ignore[arg-type]
            else:
                yield from zip(node.keys, node.vals, strict=True)  # type: ignore[misc]

    def _owner(self, names: _Names, ino: int) -> int:
        """The owner that an inode is, made with those of the directories above it."""
        chain: list[int] = []
        at = ino
        while at and not names.owners.get(at):
            if len(chain) > names.count:
                raise errors.Corrupt("directories lie in each other; run `ramet fsck`")
            chain.append(at)
            at = names.parents.get(at)
        owner = names.owners.get(at) if at else names.top
        for each in reversed(chain):
            for parent in names.more.get(each, ()):
                owner = self._owners.common(owner, self._owner(names, parent))
            owner = self._owners.add(owner)
            names.owners.set(each, owner)
        return owner

    def _map(self, reader: Reader, root: int, owner: int) -> None:
        pending = [root] if root and self._owners.enter(root, owner) else []
        while pending:
            portion = pending[-native.VISIT_NODES_MAX :]
            del pending[-native.VISIT_NODES_MAX :]
            nodes = [(node_id, reader.node(node_id)) for node_id in portion]
            pending += self._owners.visit(owner, nodes)
