"""The inode: its record in the namespace tree, and the object that stands for it in memory.

The record has from the first day what NFS will need (generation, change counter, exclusive-create
verifier) and the file's lineage.  ``root``, ``height`` and ``blocks`` describe the extent map;
while a file is in use they live in ``tree``, the C descriptor, and are copied back on each change.
``parent``/``parent_cookie`` name the last directory entry made for the inode, so a path can be
told in O(depth).
"""

import stat
import struct

from engine import errors
from native import Tree

_RECORD = struct.Struct("<IIIIQQQBxxxIQQQQQqqqqQQQQQQq")
RECORD_BYTES = _RECORD.size
FILE_BYTES_MAX = 1 << 50
HEIGHT_MAX = 20  # a fan-out of four needs as many levels for the largest file
_COUNT_MAX = 1 << 63

FLAG_MARKED = 1  # has entries in the mark index


class Inode:
    """One inode.  Callers outside the engine treat it as read-only."""

    __slots__ = (
        "__weakref__",
        "atime_ns",
        "blocks",
        "btime_ns",
        "change",
        "cloned_ns",
        "ctime_ns",
        "dirty",
        "entries",
        "flags",
        "generation",
        "gid",
        "height",
        "ino",
        "mode",
        "mtime_ns",
        "next_cookie",
        "nlink",
        "origin_ino",
        "origin_volume",
        "orphan",
        "parent",
        "parent_cookie",
        "rdev",
        "root",
        "shared_epoch",
        "size",
        "tree",
        "uid",
        "verifier",
    )  # fmt: skip

    def __init__(self, ino: int, mode: int, uid: int, gid: int, now_ns: int) -> None:
        self.ino = ino
        self.mode = mode
        self.nlink = 1
        self.uid = uid
        self.gid = gid
        self.rdev = 0
        self.size = 0
        self.root = 0
        self.height = 0
        self.flags = 0
        self.blocks = 0
        self.shared_epoch = 0
        self.generation = 0
        self.change = 0
        self.verifier = 0
        self.atime_ns = self.mtime_ns = self.ctime_ns = self.btime_ns = now_ns
        self.parent = 0
        self.parent_cookie = 0
        self.next_cookie = 3
        self.entries = 0
        self.origin_volume = 0
        self.origin_ino = 0
        self.cloned_ns = 0
        self.tree: Tree | None = None
        self.dirty = False
        self.orphan = False

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def kind(self) -> int:
        """The S_IFMT part of the mode."""
        return stat.S_IFMT(self.mode)

    def pack(self) -> bytes:
        """The record as it is stored; docs/FORMAT.md has its table."""
        return _RECORD.pack(
            self.mode, self.nlink, self.uid, self.gid, self.rdev, self.size, self.root,
            self.height, self.flags, self.blocks, self.shared_epoch, self.generation, self.change,
            self.verifier, self.atime_ns, self.mtime_ns, self.ctime_ns, self.btime_ns,
            self.parent, self.parent_cookie, self.next_cookie, self.entries,
            self.origin_volume, self.origin_ino, self.cloned_ns,
        )  # fmt: skip

    @classmethod
    def unpack(cls, ino: int, record: bytes, *, sound: bool = True) -> "Inode":
        """Inverse of ``pack``; Corrupt on what ``pack`` cannot have made.

        fsck and repair, which have to look at what is not ``sound``, only want it to parse.
        """
        if len(record) != RECORD_BYTES:
            raise errors.Corrupt(f"the record of inode {ino} is damaged; run `ramet fsck`")
        inode = cls.__new__(cls)
        inode.ino = ino
        (
            inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, inode.size, inode.root,
            inode.height, inode.flags, inode.blocks, inode.shared_epoch, inode.generation,
            inode.change, inode.verifier, inode.atime_ns, inode.mtime_ns, inode.ctime_ns,
            inode.btime_ns, inode.parent, inode.parent_cookie, inode.next_cookie, inode.entries,
            inode.origin_volume, inode.origin_ino, inode.cloned_ns,
        ) = _RECORD.unpack(record)  # fmt: skip
        inode.tree = None
        inode.dirty = False
        inode.orphan = False
        if sound:
            inode._check()
        return inode

    def _check(self) -> None:
        """What would make a later step fail half-way, or go on without end, ends here."""
        mapped = bool(self.root)
        if (
            mapped != bool(self.height)
            or (self.blocks and not mapped)
            or self.height > HEIGHT_MAX
            or self.blocks > FILE_BYTES_MAX
            or self.size > FILE_BYTES_MAX
            or max(self.next_cookie, self.entries, self.nlink << 32) >= _COUNT_MAX
        ):
            raise errors.Corrupt(f"the record of inode {self.ino} makes no sense; run `ramet fsck`")

    def data_tree(self, shared_epoch: int, domain: int) -> Tree:
        """The extent map's descriptor, with the epoch that is in force for this operation."""
        tree = self.tree
        if tree is None:
            tree = self.tree = Tree(self.root, self.height, self.blocks, shared_epoch, domain)
        else:
            tree.shared_epoch = shared_epoch
        return tree

    def take_tree(self) -> int:
        """Copy the descriptor back after a change; returns by how many blocks the map grew."""
        tree = self.tree
        assert tree is not None
        grown = tree.blocks - self.blocks
        self.root, self.height, self.blocks = tree.root, tree.height, self.blocks + grown
        return grown
