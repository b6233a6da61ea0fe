"""Clones of files and directories: metadata is copied instead of data (ranges: engine/ranges.py).

The whole trick is in the epochs (DESIGN.md, Ownership by epoch): start a new epoch, say of both
sides that they were shared in the old one, and copy a root.  From then on neither side changes a
node of the other's in place.  A read-only source (a snapshot) needs no mark: it never changes.
"""

from engine import errors, keys
from engine.inode import Inode
from engine.pool import now_ns
from engine.removal import remove_tree
from engine.reserve import CALL_PAGES
from engine.volume import Volume

TREE_ENTRIES_MAX = 100_000  # of a directory in one step: about 20 us each, 2 s
ENTRY_RECORDS = 6  # of a file: an inode, two of its name, some of its attributes
NODE_RECORDS = 16  # in a node that is half full


def share_inode(source: Volume, inode: Inode, epoch: int) -> None:
    """From ``epoch`` on the inode's map is shared: it copies before it changes."""
    if not source.read_only:
        inode.shared_epoch = epoch
        source.mark_dirty(inode)


def _twin(source: Volume, inode: Inode, target: Volume, epoch: int) -> Inode:
    """A new inode in ``target`` with the same contents, mode and owner."""
    twin = target.new_inode(inode.mode, inode.uid, inode.gid)
    twin.size, twin.rdev = inode.size, inode.rdev
    twin.root, twin.height, twin.blocks = inode.root, inode.height, inode.blocks
    twin.shared_epoch = epoch
    twin.mtime_ns = inode.mtime_ns
    twin.origin_volume, twin.origin_ino = source.id, inode.ino
    twin.cloned_ns = twin.btime_ns
    return twin


def clone_file(
    source: Volume,
    source_ino: int,
    target: Volume,
    parent: int,
    name: bytes,
    *,
    replace: bool = False,
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
) -> Inode:
    """A new file with the source's contents; O(1) in its size, fragmentation and generation.

    Raises AlreadyExists (unless ``replace``), NotFound, IsADirectory, ReadOnly.
    """
    target.check_writable()
    target.pool.check_room()
    inode = source.file(source_ino)
    directory = target.live_directory(parent)
    keys.check_name(parent, name)
    _load_for_twin(source, source_ino, target, directory, name)
    existing = target.entry(parent, name)
    if existing is not None:
        if not replace:
            raise errors.AlreadyExists(f"{name.decode(errors='replace')!r} exists")
        if existing.ino == source_ino and source is target:
            return inode
        target.check_quota(inode.blocks - _freed_blocks(target, existing.ino))
        target.unlink(parent, name)
    else:
        target.check_quota(inode.blocks)
    epoch = source.pool.bump_epoch()
    share_inode(source, inode, epoch)
    twin = _twin(source, inode, target, epoch)
    if mode is not None:
        twin.mode = twin.kind | (mode & 0o7777)
    twin.uid = twin.uid if uid is None else uid
    twin.gid = twin.gid if gid is None else gid
    target._enter(directory, name, twin)
    _copy_xattrs(source, source_ino, target, twin.ino)
    return twin


def _load_for_twin(
    source: Volume, source_ino: int, target: Volume, directory: Inode, name: bytes
) -> None:  # fmt: skip
    """All that a new inode with the source's attributes needs, so that damage is met before."""
    target._load_for_entry(directory, name)
    target.tree.load(keys.xattr_prefix(target.pool.state.next_ino))
    prefix = keys.xattr_prefix(source_ino)
    for _ in source.tree.scan(prefix, prefix):
        pass


def _freed_blocks(volume: Volume, ino: int) -> int:
    """Blocks that the volume references less when one name of the inode goes."""
    inode = volume.inode(ino)
    return inode.blocks if inode.nlink == 1 else 0


def _copy_xattrs(source: Volume, source_ino: int, target: Volume, ino: int) -> None:
    prefix = keys.xattr_prefix(source_ino)
    for key, value in list(source.tree.scan(prefix, prefix)):
        target.tree.put(keys.xattr_prefix(ino) + key[len(prefix) :], value)


class TreeCopy:
    """A directory's clone as it grows: what has been made of what.

    ``view`` is where it is read: the source itself, in one step, or what the source was at one
    instant, which nobody changes (``origin`` is then what the clones say they come from).
    """

    def __init__(self, view: Volume, origin: Volume, target: Volume, epoch: int) -> None:
        self._view = view
        self._origin = origin
        self._target = target
        self._epoch = epoch
        self._made: dict[int, int] = {}  # of directories, and of files with several names

    def directory(self, inode: Inode, parent: int, name: bytes) -> Inode:
        """An empty directory like ``inode``."""
        view, target = self._view, self._target
        _load_for_twin(view, inode.ino, target, target.directory(parent), name)
        twin = target.mkdir(parent, name, inode.mode, inode.uid, inode.gid)
        twin.gid = inode.gid
        twin.origin_volume, twin.origin_ino = self._origin.id, inode.ino
        twin.cloned_ns = now_ns()
        target.touch(twin)
        _copy_xattrs(view, inode.ino, target, twin.ino)
        self._made[inode.ino] = twin.ino
        return twin

    def entry(self, directory: int, entry: keys.DirEntry) -> None:
        """An entry of a directory that was made before."""
        view, target = self._view, self._target
        inode = view.inode(entry.ino)
        into = target.directory(self._made[directory])
        if inode.is_dir:
            self.directory(inode, into.ino, entry.name)
        elif inode.ino in self._made:
            target.link(self._made[inode.ino], into.ino, entry.name)
        elif inode.is_symlink:
            link = view.readlink(inode.ino)
            target.symlink(into.ino, entry.name, link, inode.uid, inode.gid)
        else:
            self._file(inode, into, entry.name)

    def _file(self, inode: Inode, into: Inode, name: bytes) -> None:
        view, target = self._view, self._target
        _load_for_twin(view, inode.ino, target, into, name)
        if view is self._origin:
            share_inode(view, inode, self._epoch)
        twin = _twin(self._origin, inode, target, self._epoch)
        target._enter(into, name, twin)
        _copy_xattrs(view, inode.ino, target, twin.ino)
        if inode.nlink > 1:
            self._made[inode.ino] = twin.ino


def clone_tree(
    source: Volume, source_dir: int, target: Volume, parent: int, name: bytes, *,
    freed_blocks: int = 0,
) -> Inode:  # fmt: skip
    """Clone a directory with all that is below it, in one atomic step.

    Hard links inside the directory stay hard links.  Marks are not copied: what they index (a VM)
    is given its own.  ``freed_blocks``: what the caller gives back to the target's quota in the
    same step.  Raises what ``clone_file`` raises, and InvalidArgument for a target inside the
    source or a directory of more than TREE_ENTRIES_MAX entries.
    """
    target.check_writable()
    origin = source.directory(source_dir)
    if target.entry(parent, name) is not None:
        raise errors.AlreadyExists(f"{name.decode(errors='replace')!r} exists")
    if source is target:
        target._check_not_below(origin, target.directory(parent))
    plan = _plan_tree(source, source_dir)
    files = {entry.ino for _, entry in plan}  # hard links once
    target.check_quota(sum(source.inode(ino).blocks for ino in files) - freed_blocks)
    target.pool.check_room(tree_pages(len(plan), target.pool.superblock.records_max))
    copy = TreeCopy(source, source, target, source.pool.bump_epoch())
    try:
        top = copy.directory(origin, parent, name)
        for directory, entry in plan:
            copy.entry(directory, entry)
    except BaseException:  # NoSpace for long names or large attributes; damage; a failed read
        if target.entry(parent, name) is not None:
            remove_tree(target, parent, name)
        raise
    return top


def tree_pages(entries: int, records_max: int) -> int:
    """Pages of metadata that so many new entries take, about."""
    return CALL_PAGES + 2 * ENTRY_RECORDS * entries // min(NODE_RECORDS, records_max // 2)


def _plan_tree(source: Volume, top: int) -> list[tuple[int, keys.DirEntry]]:
    """All entries below ``top``, parents first, read before anything changes."""
    plan: list[tuple[int, keys.DirEntry]] = []
    pending = [top]
    while pending:
        directory = pending.pop()
        for entry in source.readdir(directory, limit=TREE_ENTRIES_MAX + 1):
            plan.append((directory, entry))
            if entry.kind == 0o040000:
                pending.append(entry.ino)
        if len(plan) > TREE_ENTRIES_MAX:
            raise errors.InvalidArgument(
                f"more than {TREE_ENTRIES_MAX} entries; clone the whole volume instead"
            )
    return plan
