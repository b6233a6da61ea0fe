"""Extended attributes, and marks: a small index of inodes by tag.

Attribute values are cut into chunks that fit a node.  A mark (tag, inode -> payload) finds, for
example, all VM directories of a volume without a walk; being records of the namespace tree, marks
are cloned and snapshotted with the volume.
"""

import itertools

from engine import errors, keys
from engine.inode import FLAG_MARKED, Inode
from engine.namespace import Namespace
from engine.pool import now_ns

XATTR_CREATE = 1
XATTR_REPLACE = 2
XATTRS_BYTES_MAX = 1 << 20  # of an inode: names and values; they are listed, and go, in one step
PAYLOAD_MAX = 1024


class Attributes(Namespace):
    """Attribute operations of a volume."""

    def get_xattr(self, ino: int, name: bytes) -> bytes:
        self.inode(ino)
        prefix = keys.xattr_name_prefix(ino, name)
        chunks = [value for _, value in self.tree.scan(prefix, prefix)]
        if not chunks:
            raise errors.NoAttribute(f"no attribute {name.decode(errors='replace')!r}")
        return b"".join(chunks)

    def look_at_xattr(self, ino: int, name: bytes) -> None:
        """``look_at_name`` of an attribute that is set or removed."""
        self.inode(ino)
        prefix = keys.xattr_name_prefix(ino, name)
        self.tree.load(prefix)
        for key, _ in self.tree.scan(prefix, prefix):
            self.tree.load(key, delete=True)
        self._xattrs_bytes(ino)

    def list_xattrs(self, ino: int) -> list[bytes]:
        self.inode(ino)
        prefix = keys.xattr_prefix(ino)
        return [
            key[len(prefix) : -3]
            for key, _ in self.tree.scan(prefix, prefix)
            if key.endswith(b"\0\0\0")
        ]

    def set_xattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        self.check_writable()
        self.pool.check_room()
        inode = self.inode(ino)
        if not name or b"\0" in name or len(name) > keys.NAME_MAX:
            raise errors.InvalidArgument(f"{name!r} is no attribute name")
        if len(value) > keys.XATTR_VALUE_MAX:
            raise errors.TooLarge(f"an attribute holds at most {keys.XATTR_VALUE_MAX} bytes")
        if inode.orphan:
            raise errors.NotFound("the file was deleted")
        prefix = keys.xattr_name_prefix(ino, name)
        replaced = list(self.tree.scan(prefix, prefix))
        old = [key for key, _ in replaced]
        if old and flags & XATTR_CREATE:
            raise errors.AlreadyExists(f"attribute {name!r} exists")
        if not old and flags & XATTR_REPLACE:
            raise errors.NoAttribute(f"no attribute {name!r}")
        self._check_room_for_xattr(ino, name, len(value), sum(len(each) for _, each in replaced))
        for key in old:
            self.tree.delete(key)
        for chunk, start in enumerate(range(0, max(len(value), 1), keys.CHUNK_BYTES)):
            piece = bytes(value[start : start + keys.CHUNK_BYTES])
            self.tree.put(keys.xattr_key(ino, name, chunk), piece)
        self._changed(inode)

    def _check_room_for_xattr(self, ino: int, name: bytes, size: int, replaced: int) -> None:
        """NoSpace past XATTRS_BYTES_MAX; what does not grow is let be."""
        if replaced and size <= replaced:
            return
        if self._xattrs_bytes(ino) - replaced + len(name) + size > XATTRS_BYTES_MAX:
            raise errors.NoSpace(
                f"the attributes of a file take at most {XATTRS_BYTES_MAX >> 20} MiB; remove some"
            )

    def _xattrs_bytes(self, ino: int) -> int:
        prefix = keys.xattr_prefix(ino)
        return sum(
            len(key) - len(prefix) + len(each) for key, each in self.tree.scan(prefix, prefix)
        )

    def remove_xattr(self, ino: int, name: bytes) -> None:
        self.check_writable()
        inode = self.inode(ino)
        prefix = keys.xattr_name_prefix(ino, name)
        old = [key for key, _ in self.tree.scan(prefix, prefix)]
        if not old:
            raise errors.NoAttribute(f"no attribute {name.decode(errors='replace')!r}")
        for key in old:
            self.tree.delete(key)
        self._changed(inode)

    def _changed(self, inode: Inode) -> None:
        inode.ctime_ns = now_ns()
        self.touch(inode)
        self.pool.notify(self.id, inode.ino, "attr")

    def set_mark(self, ino: int, tag: bytes, payload: bytes) -> None:
        """Put the inode into the index of ``tag``, with up to 1,024 bytes to go with it."""
        self.check_writable()
        self.pool.check_room()
        if not tag or b"\0" in tag or len(tag) > 32:
            raise errors.InvalidArgument(f"{tag!r} is no tag")
        if len(payload) > PAYLOAD_MAX:
            raise errors.TooLarge(f"a mark holds at most {PAYLOAD_MAX} bytes")
        inode = self.inode(ino)
        if inode.orphan:
            raise errors.NotFound("the file was deleted")
        self.tree.put(keys.mark_key(tag, ino), payload)
        self.tree.put(keys.mark_of_inode_key(ino, tag), b"")
        inode.flags |= FLAG_MARKED
        self.touch(inode)
        self.pool.notify(self.id, ino, "mark")

    def marks(
        self, tag: bytes, after: int = 0, limit: int | None = None
    ) -> list[tuple[int, bytes]]:  # fmt: skip
        """(Inode number, payload) of a tag, by inode number: at most ``limit`` past ``after``."""
        prefix = keys.mark_prefix(tag)
        found = self.tree.scan(keys.mark_key(tag, after + 1), prefix)
        return [
            (int.from_bytes(key[len(prefix) :], "big"), payload)
            for key, payload in itertools.islice(found, limit)
        ]

    def get_mark(self, ino: int, tag: bytes) -> bytes | None:
        return self.tree.get(keys.mark_key(tag, ino))

    def clear_mark(self, ino: int, tag: bytes) -> None:
        self.check_writable()
        self.tree.delete(keys.mark_key(tag, ino))
        self.tree.delete(keys.mark_of_inode_key(ino, tag))
        self.pool.notify(self.id, ino, "mark")
