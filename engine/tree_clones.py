"""A directory cloned in short steps, as it was at one instant, and seen when it is whole.

In one step (engine/clones.py) an entry takes about 20 us, and a directory may have a hundred
thousand; between two steps others have their turn.  What they change meanwhile does not show: the
first step makes a hidden view of the source volume, at the cost of a snapshot, and it is that which
is read.  What is made is on a hidden stage until the last step moves all of it to its place
(engine/staging.py).  Whatever ends it before, an error, a stop or a crash, view and stage are
removed in no time, and nothing of the clone was ever there.

What has WHOLE_ENTRIES entries or fewer (any VM) is cloned in one step, without a view: the volume's
other files do not lose the ownership of their blocks by it.
"""

from collections.abc import Generator, Iterator
from itertools import islice
from typing import NamedTuple

from engine import errors
from engine.clones import TreeCopy, clone_tree, tree_pages
from engine.inode import Inode
from engine.keys import ROOT_INO, DirEntry
from engine.staging import Staged
from engine.volume import Volume
from engine.volumes import Volumes

WHOLE_ENTRIES = 64
STEP_ENTRIES = 16  # about 0.5 ms: what a request beside it may have to wait for
COUNTED_ENTRIES = 256  # in one step, which only reads
READ_ENTRIES = 64


class TreeClone(NamedTuple):
    """The new directory, and the blocks that its files map."""

    inode: Inode
    blocks: int


def clone_in_steps(
    volumes: Volumes, source: Volume, source_dir: int, target: Volume, parent: int, name: bytes
) -> Generator[None, None, TreeClone]:
    """Clone a directory with all that is below it; like ``clone_tree``, but of any size.

    Raises what ``clone_tree`` raises; the target is looked at again in the last step.
    """
    target.check_writable()
    origin = source.directory(source_dir)
    if target.entry(parent, name) is not None:
        raise errors.AlreadyExists(f"{name.decode(errors='replace')!r} exists")
    if len(list(islice(_walk(source, source_dir), WHOLE_ENTRIES + 1))) <= WHOLE_ENTRIES:
        before = target.record.blocks
        made = clone_tree(source, source_dir, target, parent, name)
        return TreeClone(made, target.record.blocks - before)
    if source is target:
        target._check_not_below(origin, target.directory(parent))
    target.pool.check_room()
    view = volumes.hidden_view(source)
    try:
        inodes = yield from _count(view, source_dir)
        stage = volumes.hidden_stage(target, inodes)
        try:
            yield from _fill(stage, view, source, source_dir, name)
            return TreeClone(stage.appear(parent, name), stage.record.blocks)
        finally:
            volumes.drop_hidden(stage)
    finally:
        volumes.drop_hidden(view)


def _walk(view: Volume, top: int) -> Iterator[tuple[int, DirEntry]]:
    """All entries below ``top`` with the directory each is in, parents first."""
    pending, seen = [top], {top}
    while pending:
        directory, cookie = pending.pop(), 0
        while entries := view.readdir(directory, cookie, READ_ENTRIES):
            cookie = entries[-1].cookie
            for entry in entries:
                if entry.kind == 0o040000:
                    if entry.ino in seen:
                        raise errors.Corrupt(
                            f"directory {entry.ino} stands in two places; run `ramet fsck`"
                        )
                    seen.add(entry.ino)
                    pending.append(entry.ino)
                yield directory, entry


def _count(view: Volume, top: int) -> Generator[None, None, int]:
    """How many inodes a clone has, at most: its own and one for each entry."""
    count = 1
    for _ in _walk(view, top):
        count += 1
        if count % COUNTED_ENTRIES == 0:
            yield
    return count


def _fill(
    stage: Staged, view: Volume, source: Volume, top: int, name: bytes
) -> Generator[None, None, None]:
    pool = stage.target.pool
    pages = tree_pages(STEP_ENTRIES, pool.superblock.records_max)
    pool.check_room(pages)
    copy = TreeCopy(view, source, stage, view.record.shared_epoch)
    copy.directory(view.directory(top), ROOT_INO, name)
    for n, (directory, entry) in enumerate(_walk(view, top), 1):
        copy.entry(directory, entry)
        if n % STEP_ENTRIES == 0:
            stage.settle()
            view.drop_caches()
            stage.target.check_quota(stage.record.blocks)
            yield
            stage.target.check_writable()
            pool.check_room(pages)
            stage.follow()
