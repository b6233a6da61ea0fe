"""Whole ranges of a B+tree moved to another: a cut down one path, whatever is in them.

A tree is cut at a key by cutting the nodes on the way to it in two; a range that another tree has
nothing in is put there as one more child of a node on the way.  So moving a million records is a
few dozen changes of nodes (a directory that was built aside becomes visible, engine/staging.py).

Invariants of both trees hold at the end of each call (engine/btree.py).  What may be damaged is
loaded before anything changes.  A moved node keeps its birth: a tree that was shared since does not
take it for its own, so at worst it is copied before a change and left to gc.
"""

from bisect import bisect_left
from typing import Any

from engine.btree import BTree, Path
from engine.nodes import BODY_BYTES, Node, NodeCache, record_bytes

OVERFULL_BYTES = 64  # of a node that has got two children more, and is about to be split
Parts = tuple[Node | None, Node | None]
Children = list[tuple[bytes, int]]


def split(tree: BTree, key: bytes) -> int:
    """Cut the records with keys >= ``key`` off; returns the root of theirs, 0 if there are none.

    Corrupt, and then nothing has changed.
    """
    if not tree.root:
        return 0
    tree.load(key)
    top = tree._cache.get(tree.root).level
    path, left, right = _cut(tree, key, top)
    assert not path
    tree.root = left.id if left is not None else 0
    return right.id if right is not None else 0


def graft(tree: BTree, root: int, start: bytes, end: bytes) -> None:
    """Put the tree at ``root``, with keys from ``start`` to before ``end``, into a tree that has
    none of these.  Corrupt, and then nothing has changed."""
    if not root:
        return
    if not tree.root:
        tree.root = root
        return
    cache = tree._cache
    piece = cache.get(root)
    tree.load(start)
    while cache.get(tree.root).level <= piece.level:
        _raise(tree)
    path, left, right = _cut(tree, start, piece.level)
    parent, index = tree._own_parent(path)
    found = [(parent.keys[index], left.id)] if left is not None else []
    found.append((start, root))
    if right is not None:
        found.append((end, right.id))
    vals: list[Any] = parent.vals
    parent.keys[index : index + 1] = [key for key, _ in found]
    vals[index : index + 1] = [child for _, child in found]
    _measure(parent)
    tree._split(path, parent, -1)


def _raise(tree: BTree) -> None:
    """A root above the root."""
    old = tree._cache.get(tree.root)
    top = tree._cache.create(old.level + 1)
    top.keys, top.vals = [old.keys[0]], [old.id]
    _measure(top)
    tree.root = top.id


def _cut(tree: BTree, key: bytes, level: int) -> tuple[Path, Node | None, Node | None]:
    """Cut the nodes on the way to ``key``, from the leaf up to ``level``, in two.

    Returns the rest of the way, whose last node still has the one that was cut for a child, and
    what is left and right of the key; one of them is None when there is nothing.
    """
    cache = tree._cache
    path, leaf = tree._descend(key)
    leaf = tree._own(path, leaf)
    index = bisect_left(leaf.keys, key)
    left, right = _halves(cache, leaf, [], index, [], index)
    while (left or right or leaf).level < level:
        node, at = tree._own_parent(path)
        before = [(node.keys[at], left.id)] if left is not None else []
        after = [(node.keys[at] if left is None else key, right.id)] if right is not None else []
        left, right = _halves(cache, node, before, at, after, at + 1)
    return path, left, right


def _halves(
    cache: NodeCache, node: Node, before: Children, end: int, after: Children, start: int
) -> Parts:
    """The node's records up to ``end`` and those in ``before``; those in ``after`` and the node's
    from ``start`` on.  The node itself becomes the one or the other."""
    keys: list[bytes] = node.keys
    vals: list[Any] = node.vals
    left = [*keys[:end], *(k for k, _ in before)], [*vals[:end], *(v for _, v in before)]
    right = [*(k for k, _ in after), *keys[start:]], [*(v for _, v in after), *vals[start:]]
    node.keys, node.vals = left if left[0] else right
    _measure(node)
    if not left[0]:
        return None, node
    if not right[0]:
        return node, None
    twin = cache.create(node.level)
    twin.keys, twin.vals = right
    _measure(twin)
    return node, twin


def _measure(node: Node) -> None:
    node.size = sum(map(record_bytes, [node.level] * len(node.keys), node.keys, node.vals))
    assert node.size <= BODY_BYTES + OVERFULL_BYTES
