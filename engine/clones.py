"""Clones: everything that copies metadata instead of data.

The whole trick is in the epochs (DESIGN.md, Ownership by epoch): start a new epoch, say of both
sides that they were shared in the old one, and copy a root.  From then on neither side changes a
node of the other's in place.  A read-only source (a snapshot) needs no mark: it never changes.
"""

from engine import errors, keys
from engine.inode import Inode
from engine.namespace import Namespace
from engine.pool import now_ns
from engine.reserve import CALL_PAGES
from engine.superblock import BLOCK_BYTES
from engine.volume import Volume

COPY_BYTES_MAX = 16 << 20  # a range that cannot be shared is copied at most this far in one call
TREE_ENTRIES_MAX = 100_000
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


def _freed_blocks(volume: Volume, ino: int) -> int:
    """Blocks that the volume references less when one name of the inode goes."""
    inode = volume.inode(ino)
    return inode.blocks if inode.nlink == 1 else 0


def _copy_xattrs(source: Volume, source_ino: int, target: Volume, ino: int) -> None:
    prefix = keys.xattr_prefix(source_ino)
    for key, value in list(source.tree.scan(prefix, prefix)):
        target.tree.put(keys.xattr_prefix(ino) + key[len(prefix) :], value)


def clone_tree(
    source: Volume, source_dir: int, target: Volume, parent: int, name: bytes
) -> Inode:  # fmt: skip
    """Clone a directory with all that is below it, in one atomic step.

    Hard links inside the directory stay hard links.  Marks are not copied: what they index (a VM)
    is given its own.  Raises what ``clone_file`` raises, and InvalidArgument for a target inside
    the source or a directory of more than TREE_ENTRIES_MAX entries.
    """
    target.check_writable()
    origin = source.directory(source_dir)
    if target.entry(parent, name) is not None:
        raise errors.AlreadyExists(f"{name.decode(errors='replace')!r} exists")
    if source is target:
        target._check_not_below(origin, target.directory(parent))
    plan = _plan_tree(source, source_dir)
    files = {entry.ino for _, entry in plan}  # hard links once
    target.check_quota(sum(source.inode(ino).blocks for ino in files))
    target.pool.check_room(tree_pages(len(plan), target.pool.superblock.records_max))
    epoch = source.pool.bump_epoch()
    top = _clone_directory(source, origin, target, parent, name)
    try:
        _fill_tree(source, source_dir, target, top.ino, plan, epoch)
    except errors.NoSpace:  # more than was asked for: long names, large attributes
        remove_tree(target, parent, name)
        raise
    return top


def _fill_tree(
    source: Volume, source_dir: int, target: Volume, top: int,
    plan: list[tuple[int, keys.DirEntry]], epoch: int,
) -> None:  # fmt: skip
    made = {source_dir: top}
    for directory, entry in plan:
        inode = source.inode(entry.ino)
        into = target.directory(made[directory])
        if inode.is_dir:
            made[inode.ino] = _clone_directory(source, inode, target, into.ino, entry.name).ino
        elif inode.ino in made:
            target.link(made[inode.ino], into.ino, entry.name)
        elif inode.is_symlink:
            link = source.readlink(inode.ino)
            target.symlink(into.ino, entry.name, link, inode.uid, inode.gid)
        else:
            share_inode(source, inode, epoch)
            twin = _twin(source, inode, target, epoch)
            target._enter(into, entry.name, twin)
            _copy_xattrs(source, inode.ino, target, twin.ino)
            made[inode.ino] = twin.ino


def tree_pages(entries: int, records_max: int) -> int:
    """Pages of metadata that so many new entries take, about."""
    return CALL_PAGES + 2 * ENTRY_RECORDS * entries // min(NODE_RECORDS, records_max // 2)


def _clone_directory(
    source: Volume, inode: Inode, target: Volume, parent: int, name: bytes
) -> Inode:  # fmt: skip
    twin = target.mkdir(parent, name, inode.mode, inode.uid, inode.gid)
    twin.gid = inode.gid
    twin.origin_volume, twin.origin_ino, twin.cloned_ns = source.id, inode.ino, now_ns()
    target.touch(twin)
    _copy_xattrs(source, inode.ino, target, twin.ino)
    return twin


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


def clone_range(
    source: Volume,
    source_ino: int,
    source_offset: int,
    target: Volume,
    target_ino: int,
    target_offset: int,
    length: int,
) -> int:
    """Make a byte range of one file appear in another (or the same); returns the bytes done.

    Whole blocks at congruent offsets are shared, the rest is copied, at most COPY_BYTES_MAX a call
    (then the result is short).  Stops at the source's end.  InvalidArgument for ranges of one file
    that overlap (copy_file_range(2)).
    """
    target.check_writable()
    target.pool.check_room()
    inode, into = source.file(source_ino), target.file(target_ino)
    if min(source_offset, target_offset, length) < 0:
        raise errors.InvalidArgument("negative offset or length")
    length = min(length, inode.size - source_offset)
    if length <= 0:
        return 0
    target._check_range(target_offset, length)
    if not into.orphan:
        growth = target._growth(into, target_offset, length)
        if not target.has_room(growth):  # holes of the source take nothing
            growth = min(growth, source.mapped_blocks(inode, source_offset, length))
        target.check_quota(growth)
    same = inode is into
    if same and abs(source_offset - target_offset) < length:
        raise errors.InvalidArgument("the ranges overlap")
    if (source_offset - target_offset) % BLOCK_BYTES:
        length = min(length, COPY_BYTES_MAX)
        _copy(source, inode, source_offset, target, into, target_offset, length)
        return length
    head = min(-source_offset % BLOCK_BYTES, length)
    _copy(source, inode, source_offset, target, into, target_offset, head)
    body = (length - head) // BLOCK_BYTES * BLOCK_BYTES
    tail = length - head - body
    at_end = source_offset + length == inode.size and target_offset + length >= into.size
    if tail and at_end:  # past the source's end its last block is zero: share it whole
        body, tail = body + BLOCK_BYTES, 0
    if body:
        end = target_offset + min(head + body, length)
        if end > into.size:  # first: a share that fails half-way leaves nothing past the end
            target._set_size(into, end)
        _share(source, inode, source_offset + head, target, into, target_offset + head, body)
    if tail:
        done = head + body
        _copy(source, inode, source_offset + done, target, into, target_offset + done, tail)
    if target_offset + length > into.size:
        target._set_size(into, target_offset + length)
    into.mtime_ns = into.ctime_ns = now_ns()
    target.touch(into)
    target.pool.notify(target.id, into.ino, "data")
    return length


def _share(
    source: Volume, inode: Inode, source_offset: int, target: Volume, into: Inode,
    target_offset: int, length: int,
) -> None:  # fmt: skip
    epoch = source.pool.bump_epoch()
    share_inode(source, inode, epoch)
    into.shared_epoch = epoch
    target.mark_dirty(into)
    source_tree = source.data_tree(inode)
    if inode is into:
        source_tree = type(source_tree)(inode.root, inode.height, inode.blocks, epoch)
    target_tree = target.data_tree(into)
    try:
        with target.sound_nodes(into):
            target.pool.core.share(
                target_tree, target_offset // BLOCK_BYTES,
                source_tree, source_offset // BLOCK_BYTES, length // BLOCK_BYTES,
            )  # fmt: skip
    finally:
        target._take_tree(into)


def _copy(
    source: Volume, inode: Inode, source_offset: int, target: Volume, into: Inode,
    target_offset: int, length: int,
) -> None:  # fmt: skip
    step = 1 << 20
    for done in range(0, length, step):
        piece = source.read(inode.ino, source_offset + done, min(step, length - done))
        target.write(into.ino, target_offset + done, piece)


def remove_tree(volume: Namespace, parent: int, name: bytes) -> int:
    """Remove a file, or a directory with all below it; returns how many names went."""
    volume.check_writable()
    inode = volume.lookup(parent, name)
    if not inode.is_dir:
        volume.unlink(parent, name)
        return 1
    volume.check_not_presented(inode)
    removed = 0
    pending = [inode.ino]
    seen: set[int] = set()
    order: list[tuple[int, keys.DirEntry]] = []
    while pending:
        directory = pending.pop()
        if directory in seen:
            raise errors.Corrupt(f"directory {directory} is below itself; run `ramet fsck`")
        seen.add(directory)
        cookie = 0
        while entries := volume.readdir(directory, cookie):
            cookie = entries[-1].cookie
            for entry in entries:
                if entry.kind == 0o040000:
                    pending.append(entry.ino)
                order.append((directory, entry))
    for directory, entry in reversed(order):
        if entry.kind == 0o040000:
            volume.rmdir(directory, entry.name)
        else:
            volume.unlink(directory, entry.name)
        removed += 1
    volume.rmdir(parent, name)
    return removed + 1
