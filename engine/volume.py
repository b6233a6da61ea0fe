"""A volume: one namespace tree of the store, as its users see it.

The operations come from a chain of classes, each on top of the one before: InodeTable (inodes in
memory), Namespace (directories), Attributes (xattrs, marks), FileData (contents).
"""

import itertools
import stat

from engine import errors, keys
from engine.filedata import FileData
from engine.inode import Inode
from engine.keys import ROOT_INO
from engine.pool import Pool
from engine.volume_record import VolumeRecord

SYMLINKS_MAX = 40


class Volume(FileData):
    """A datastore, or a snapshot of one (``read_only``)."""

    def __init__(self, pool: Pool, record: VolumeRecord, parent: "Volume | None" = None) -> None:
        super().__init__(pool, record)
        self.parent = parent

    def __str__(self) -> str:
        return f"{self.parent.name}@{self.name}" if self.parent else self.name

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def origin_id(self) -> int:
        """The volume this one was cloned from; 0: none."""
        return self.record.origin_id

    @property
    def created_ns(self) -> int:
        return self.record.created_ns

    @property
    def files(self) -> int:
        """Inodes in the volume, its root directory included."""
        return self.record.files

    @property
    def referenced_bytes(self) -> int:
        """Bytes of all mapped blocks, shared ones counted in every file."""
        return self.record.blocks * self.pool.superblock.block_bytes

    @property
    def quota_bytes(self) -> int:
        """The most its files may reference; 0: no limit."""
        return self.record.quota_bytes

    @property
    def logical_bytes(self) -> int:
        """The sum of all file sizes."""
        return self.record.logical_bytes

    def make_root(self) -> None:
        """The root directory of a new volume."""
        inode = self.new_inode(stat.S_IFDIR | 0o755, 0, 0)
        inode.ino = ROOT_INO
        inode.nlink = 2
        inode.parent = ROOT_INO
        self.record.files = 1
        self.store_inode(inode)
        self.flush()

    def resolve(self, path: str, *, follow: bool = True) -> Inode:
        """The inode at an absolute path, symlinks followed inside the volume only."""
        pending = [p for p in reversed(_encode(path).split(b"/")) if p not in (b"", b".")]
        ino, links = ROOT_INO, 0
        while pending:
            part = pending.pop()
            directory = self.directory(ino)
            if part == b"..":
                ino = directory.parent
                continue
            inode = self.lookup(ino, part)
            if inode.is_symlink and (pending or follow):
                links += 1
                if links > SYMLINKS_MAX:
                    raise errors.InvalidArgument(f"{path}: too many symlinks")
                target = self.readlink(inode.ino)
                if target.startswith(b"/"):
                    ino = ROOT_INO
                pending += [p for p in reversed(target.split(b"/")) if p not in (b"", b".")]
                continue
            ino = inode.ino
        return self.inode(ino)

    def inodes_after(self, ino: int, limit: int) -> list[Inode]:
        """Up to ``limit`` inodes with a number past ``ino``, in order: all of them, by pages.

        What is made or removed meanwhile may be in a later page or not; nothing comes twice.
        """
        if not self.is_snapshot:
            self.flush()
        found = self.tree.scan(keys.inode_key(ino + 1), keys.inode_prefix())
        return [self.inode(keys.unpack_inode_key(key)) for key, _ in itertools.islice(found, limit)]

    def resolve_parent(self, path: str) -> tuple[Inode, bytes]:
        """The directory that holds ``path``, and its last name, which need not exist."""
        parts = [p for p in _encode(path).split(b"/") if p not in (b"", b".")]
        if not parts or parts[-1] == b"..":
            raise errors.InvalidArgument(f"{path!r} names no entry of a directory")
        parent = self.resolve("/" + b"/".join(parts[:-1]).decode(errors="surrogateescape"))
        keys.check_name(parent.ino, parts[-1])
        return self.directory(parent.ino), parts[-1]


def _encode(path: str) -> bytes:
    if "\0" in path:
        raise errors.InvalidArgument("a path has no NUL")
    return path.encode(errors="surrogateescape")
