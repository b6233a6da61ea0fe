"""``rm -r``: a name, and all below it, removed from the bottom up in short steps.

Why not in one: a name takes about 25 us, and a tree may have millions; between two steps others
have their turn.  Why not by cutting the tree off: its names are records of the volume's namespace,
where snapshots and clones find them too; a hidden place for what is cut off would be in each of
these.  So it is what rm(1) does: a crash, an error or a stop leaves what was not removed yet, in
its place, and the same command again removes the rest.  What has WHOLE_NAMES names or fewer (any
VM) goes in one step, all of it or nothing.

Nothing is remembered from step to step but what the name stood for: what has been moved out of the
tree meanwhile is not touched, what has been made in it goes too.
"""

from collections.abc import Generator, Iterator

from engine import errors
from engine.inode import Inode
from engine.keys import DirEntry
from engine.namespace import Namespace

WHOLE_NAMES = 64
STEP_NAMES = 16  # about 0.5 ms: what a request beside it may have to wait for
READ_ENTRIES = 16


def removal(volume: Namespace, parent: int, name: bytes) -> Generator[None, None, int]:
    """Remove a file, or a directory with all below it; returns how many names went.

    NotFound, ReadOnly; Corrupt for a directory below itself, which stays.  Stale when the volume
    was restored or removed between two steps, or somebody else has taken the name.
    """
    volume.check_writable()
    inode = volume.lookup(parent, name)
    volume.check_not_presented(inode)
    era, removed = volume.era, 0
    order, done = _next_names(volume, parent, name, inode, WHOLE_NAMES)
    while True:
        for directory, entry in order if done else order[:STEP_NAMES]:
            if entry.kind == 0o040000:
                volume.rmdir(directory, entry.name)
            else:
                volume.unlink(directory, entry.name)
            removed += 1
        if done:
            return removed
        yield
        if volume.era != era:
            raise errors.Stale(f"{volume} was restored or removed meanwhile; look what is there")
        volume.check_writable()
        found = volume.entry(parent, name)
        if found is None or found.ino != inode.ino:
            raise errors.Stale("somebody else has removed or moved it meanwhile; look again")
        order, done = _next_names(volume, parent, name, inode, STEP_NAMES)


def remove_tree(volume: Namespace, parent: int, name: bytes) -> int:
    """``removal`` without a pause: one atomic change, unless it meets damage on the way."""
    steps = removal(volume, parent, name)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        removed: int = end.value
        return removed


def _next_names(
    volume: Namespace, parent: int, name: bytes, top: Inode, limit: int
) -> tuple[list[tuple[int, DirEntry]], bool]:
    """At most ``limit`` names in an order that empties directories first; whether that is all."""
    order: list[tuple[int, DirEntry]] = []
    above = volume.entry(parent, name)
    assert above is not None
    path, on_path = [(parent, above)], {top.ino}
    pending = [_entries(volume, top.ino) if top.is_dir else iter(())]
    while path:
        if len(order) == limit:
            return order, False
        entry = next(pending[-1], None)
        if entry is not None:
            directory = path[-1][1].ino
            if entry.kind != 0o040000:
                order.append((directory, entry))
                continue
            if entry.ino in on_path:
                raise errors.Corrupt(f"directory {entry.ino} is below itself; run `ramet fsck`")
            on_path.add(entry.ino)
            path.append((directory, entry))
            pending.append(_entries(volume, entry.ino))
        else:
            pending.pop()
            order.append(path.pop())
            on_path.discard(order[-1][1].ino)
    return order, True


def _entries(volume: Namespace, ino: int) -> Iterator[DirEntry]:
    cookie = 0
    while entries := volume.readdir(ino, cookie, READ_ENTRIES):
        yield from entries
        cookie = entries[-1].cookie
