"""A persistent B+tree of byte strings under the epoch rule: one volume's namespace.

A node may be changed in place iff it was born after the tree was last shared; otherwise the path
to it is copied.  Sharing a tree is copying its root (DESIGN.md, Ownership by epoch), so a snapshot
costs the same with 10 files or 10 million.

Invariants: keys ascend; child i of an interior node holds keys >= keys[i] and < keys[i+1]
(keys[0] counts as minus infinity); all leaves are at level 0; a node owned by the tree has only
owned ancestors; a node's records fit its body.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from engine import errors
from engine.nodes import BODY_BYTES, Node, NodeCache, record_bytes

Path = list[tuple[Node, int]]  # (interior node, index of the child taken), from the root down

UNDERFULL_BYTES = BODY_BYTES // 4
MERGED_BYTES_MAX = BODY_BYTES * 7 // 8


class BTree:
    """One tree: a root and the epoch at which it was last shared.

    ``records_max`` limits the records of a node below what its bytes would hold; tests set it to
    get deep trees from few records.
    """

    __slots__ = ("_cache", "records_max", "root", "shared_epoch")

    def __init__(
        self, cache: NodeCache, root: int, shared_epoch: int, records_max: int = 1 << 16
    ) -> None:
        self._cache = cache
        self.root = root
        self.shared_epoch = shared_epoch
        self.records_max = records_max

    def get(self, key: bytes) -> bytes | None:
        node_id = self.root
        if not node_id:
            return None
        node = self._cache.get(node_id)
        while node.level:
            node = self._child(node, max(bisect_right(node.keys, key) - 1, 0))
        keys = node.keys
        index = bisect_left(keys, key)
        if index < len(keys) and keys[index] == key:
            return node.vals[index]  # type: ignore[return-value]
        return None

    def scan(self, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Records with key >= start, in order, while they begin with ``prefix``.

        The tree must not be changed while the scan is in use.
        """
        if not self.root:
            return
        path, leaf = self._descend(start)
        index = bisect_left(leaf.keys, start)
        last = b""
        while True:
            keys, vals = leaf.keys, leaf.vals
            for position in range(index, len(keys)):
                key = keys[position]
                if not key.startswith(prefix):
                    return
                yield key, vals[position]  # type: ignore[misc]
                last = key
            following = self._next_leaf(path)
            if following is None:
                return
            leaf, index = following, 0
            if leaf.keys and leaf.keys[0] <= last:  # or one leaf could come again without end
                raise errors.Corrupt(f"namespace node {leaf.id} is out of order; run `ramet fsck`")

    def put(self, key: bytes, value: bytes) -> None:
        if not self.root:
            self.root = self._cache.create(0).id
        path, leaf = self._descend(key)
        leaf = self._own(path, leaf)
        keys = leaf.keys
        vals: list[bytes] = leaf.vals  # type: ignore[assignment]
        index = bisect_left(keys, key)
        if index < len(keys) and keys[index] == key:
            leaf.size += len(value) - len(vals[index])
            vals[index] = value
        else:
            keys.insert(index, key)
            vals.insert(index, value)
            leaf.size += record_bytes(0, key, value)
        if leaf.size > BODY_BYTES or len(keys) > self.records_max:
            self._split(path, leaf, index)

    def delete(self, key: bytes) -> bool:
        """Remove a record; False when there is none."""
        if not self.root:
            return False
        path, leaf = self._descend(key)
        index = bisect_left(leaf.keys, key)
        if index == len(leaf.keys) or leaf.keys[index] != key:
            return False
        leaf = self._own(path, leaf)
        leaf.size -= record_bytes(0, key, leaf.vals[index])
        del leaf.keys[index]
        del leaf.vals[index]
        if leaf.size < UNDERFULL_BYTES:
            self._shrink(path, leaf)
        return True

    def load(self, key: bytes, *, delete: bool = False) -> None:
        """Load all that a put, or a delete, of the key may need: after it neither meets damage."""
        if not self.root:
            return
        path, _ = self._descend(key)
        for node, index in path if delete else ():
            for beside in (index - 1, index + 1):
                if 0 <= beside < len(node.vals):
                    self._child(node, beside)

    def _descend(self, key: bytes) -> tuple[Path, Node]:
        node = self._cache.get(self.root)
        path: Path = []
        while node.level:
            index = max(bisect_right(node.keys, key) - 1, 0)
            path.append((node, index))
            node = self._child(node, index)
        return path, node

    def _child(self, node: Node, index: int) -> Node:
        """One level down, exactly: a walk ends even where damaged nodes lead in a circle."""
        if not node.keys:
            raise errors.Corrupt(f"namespace node {node.id} is empty; run `ramet fsck`")
        child = self._cache.get(node.vals[index])  # type: ignore[arg-type]
        if child.level != node.level - 1:
            raise errors.Corrupt(f"namespace node {child.id}: wrong level; run `ramet fsck`")
        return child

    def _next_leaf(self, path: Path) -> Node | None:
        """Move a scan's path to the next leaf to the right."""
        while path:
            node, index = path.pop()
            if index + 1 < len(node.keys):
                path.append((node, index + 1))
                child = self._child(node, index + 1)
                while child.level:
                    path.append((child, 0))
                    child = self._child(child, 0)
                return child
        return None

    def _own(self, path: Path, node: Node) -> Node:
        """Make ``node`` changeable; when it moves, so do its ancestors (path is updated)."""
        cache, shared = self._cache, self.shared_epoch
        if node.birth > shared:
            return cache.own(node, shared)
        for depth, (ancestor, index) in enumerate(path):
            owned = cache.own(ancestor, shared)
            if owned.id != ancestor.id:
                self._point(path, depth, owned.id)
            path[depth] = (owned, index)
        owned = cache.own(node, shared)
        self._point(path, len(path), owned.id)
        return owned

    def _point(self, path: Path, depth: int, node_id: int) -> None:
        """The node at ``depth`` now has this id: tell its parent (already owned) or the root."""
        if depth == 0:
            self.root = node_id
        else:
            parent, index = path[depth - 1]
            parent.vals[index] = node_id  # type: ignore[call-overload]

    def _own_parent(self, path: Path) -> tuple[Node, int]:
        """The parent of an owned node is owned as well; make it dirty."""
        parent, index = path.pop()
        assert parent.birth > self.shared_epoch
        return self._cache.own(parent, self.shared_epoch), index

    def _split(self, path: Path, node: Node, inserted: int) -> None:
        while node.size > BODY_BYTES or len(node.keys) > self.records_max:
            right = self._cache.create(node.level)
            cut = self._cut(node, inserted)
            right.keys, node.keys = node.keys[cut:], node.keys[:cut]
            right.vals, node.vals = node.vals[cut:], node.vals[:cut]
            right.size = sum(map(record_bytes, [node.level] * len(right.keys), right.keys,
                                 right.vals))  # fmt: skip
            node.size -= right.size
            if path:
                parent, index = self._own_parent(path)
                inserted = index + 1
            else:
                parent, inserted = self._cache.create(node.level + 1), 1
                parent.keys, parent.vals = [node.keys[0]], [node.id]
                parent.size = record_bytes(1, node.keys[0], node.id)
                self.root = parent.id
            parent.keys.insert(inserted, right.keys[0])
            parent.vals.insert(inserted, right.id)  # type: ignore[arg-type]
            parent.size += record_bytes(1, right.keys[0], right.id)
            node = parent

    @staticmethod
    def _cut(node: Node, inserted: int) -> int:
        """Where to split: the middle by bytes, or the end when records arrive in order."""
        last = len(node.keys) - 1
        if inserted == last:
            return last
        left = 0
        for index, key in enumerate(node.keys):
            left += record_bytes(node.level, key, node.vals[index])
            if left * 2 >= node.size:
                return min(max(index, 1), last)
        return last

    def _shrink(self, path: Path, node: Node) -> None:
        """After a delete: drop an empty node, merge an underfull one with a sibling."""
        cache, shared = self._cache, self.shared_epoch
        while path:
            parent, index = path[-1]
            if node.keys:
                merged = self._merge(parent, index, node)
                if merged is None:
                    return
                dropped, gone = merged
            else:
                dropped, gone = index, node
            parent, _ = self._own_parent(path)
            parent.size -= record_bytes(1, parent.keys[dropped], 0)
            del parent.keys[dropped]
            del parent.vals[dropped]
            cache.discard(gone, shared)
            node = parent
            if node.keys and node.size >= UNDERFULL_BYTES:
                break
        self._lower_root()

    def _merge(self, parent: Node, index: int, node: Node) -> tuple[int, Node] | None:
        """Move the records of a right neighbour into its left one.

        Returns the index to drop from the parent and the node that is now empty, or None when no
        neighbour has room.
        """
        cache, shared = self._cache, self.shared_epoch
        for left_index in (index - 1, index):
            if left_index < 0 or left_index + 1 >= len(parent.keys):
                continue
            other_index = left_index if left_index != index else index + 1
            other = self._child(parent, other_index)
            count = len(node.keys) + len(other.keys)
            if node.size + other.size > MERGED_BYTES_MAX or count > self.records_max:
                continue
            left, right = (other, node) if other_index < index else (node, other)
            owned = cache.own(left, shared)
            if owned.id != left.id:
                parent = cache.own(parent, shared)
                parent.vals[left_index] = owned.id  # type: ignore[call-overload]
            keys = right.keys
            if right.level:  # its first key counts as minus infinity: take the separator instead
                keys = [parent.keys[left_index + 1], *right.keys[1:]]
            owned.keys.extend(keys)
            owned.vals.extend(right.vals)  # type: ignore[arg-type]
            owned.size = sum(map(record_bytes, [owned.level] * len(owned.keys), owned.keys,
                                 owned.vals))  # fmt: skip
            return left_index + 1, right
        return None

    def _lower_root(self) -> None:
        """A root with one child gives way to it; a root with none is an empty tree."""
        while self.root:
            node = self._cache.get(self.root)
            if node.level and len(node.keys) == 1:
                self.root = node.vals[0]  # type: ignore[assignment]
            elif not node.keys:
                self.root = 0
            else:
                return
            self._cache.discard(node, self.shared_epoch)
