"""A directory put in the place of another, in one step: the revert of one VM.

The clone is built under a name of its own, changes places with the old tree, and the old tree is
removed: all inside one call, so a reader, another door or a crash sees the old directory or the
new one.  What could fail is looked at before anything is removed; what fails while the clone is
built, or before the first of the old tree is removed, takes the clone back.

The old tree's inodes are gone afterwards: handles of NFS on them are stale.  Files of it that are
open stop the call, or, forced, live on without a name for those who have them open.
"""

from collections.abc import Callable

from engine import errors, keys
from engine.clones import TREE_ENTRIES_MAX, clone_tree
from engine.inode import Inode
from engine.namespace import RENAME_EXCHANGE
from engine.removal import remove_tree
from engine.volume import Volume


def replace_tree(
    source: Volume, source_dir: int, target: Volume, parent: int, name: bytes, *,
    force: bool = False, prepare: Callable[[Inode], object] | None = None,
) -> Inode:  # fmt: skip
    """Clone a directory to where another is, which goes; nothing there yet is as good.

    ``prepare`` may change the clone before it is seen; what it raises takes the clone back.  Raises
    what ``clone_tree`` raises, NotADirectory for something else in its place, Busy while files
    below it are open (unless ``force``) or one is a LUN, and InvalidArgument for a source that
    would go too.
    """
    target.check_writable()
    existing = target.entry(parent, name)
    freed, built = 0, name
    if existing is not None:
        old = target.inode(existing.ino)
        if not old.is_dir:
            raise errors.NotADirectory(f"{name.decode(errors='replace')!r} is no directory")
        if source is target:
            _check_survives(target, old, source_dir)
        target.check_not_presented(old)
        freed = _freed_blocks(target, old, force=force)
        built = b".replacing-%d" % target.pool.state.next_ino
    made = clone_tree(source, source_dir, target, parent, built, freed_blocks=freed)
    if prepare is not None:
        try:
            prepare(made)
        except BaseException:
            remove_tree(target, parent, built)
            raise
    if existing is not None:
        target.rename(parent, built, parent, name, RENAME_EXCHANGE)
        _remove_old(target, parent, built, name)
    return made


def _remove_old(target: Volume, parent: int, built: bytes, name: bytes) -> None:
    """Remove what has changed places; it goes back if not one name of it could be removed."""
    state = target.pool.state
    changes = state.next_change
    try:
        remove_tree(target, parent, built)
    except BaseException:
        if state.next_change == changes:
            target.rename(parent, built, parent, name, RENAME_EXCHANGE)
            remove_tree(target, parent, built)
        raise


def _check_survives(volume: Volume, old: Inode, source_dir: int) -> None:
    ino = source_dir
    while ino != keys.ROOT_INO:
        if ino == old.ino:
            raise errors.InvalidArgument("the source lies in the directory that it would replace")
        ino = volume.directory(ino).parent


def _freed_blocks(volume: Volume, top: Inode, *, force: bool) -> int:
    """Blocks that the volume references less when the tree is gone; Busy, Corrupt.

    A file with other names elsewhere frees nothing.
    """
    names: dict[int, int] = {}
    pending, entries = [top.ino], 0
    while pending:
        for entry in volume.readdir(pending.pop(), limit=TREE_ENTRIES_MAX + 1):
            entries += 1
            inode = volume.inode(entry.ino)
            if volume.is_held(entry.ino) and not force:
                raise errors.Busy(
                    f"{volume}:{volume.path_of(entry.ino)} is open; close it, or force"
                )
            if inode.is_dir:
                pending.append(entry.ino)
            else:
                names[entry.ino] = names.get(entry.ino, 0) + 1
        if entries > TREE_ENTRIES_MAX:
            raise errors.InvalidArgument(
                f"more than {TREE_ENTRIES_MAX} entries to replace; remove the directory first"
            )
    found = [(volume.inode(ino), count) for ino, count in names.items()]
    return sum(inode.blocks for inode, count in found if inode.nlink == count)
