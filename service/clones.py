"""Clones of files, directories and volumes: jobs of one or many items, all or none.

None undoes what it did: what fails is taken back by ``service.work``, from the record of what was
made.  A clone is one atomic change; between some of them, and while a large directory's is built
aside (engine/tree_clones.py), others have their turn.
"""

from engine import Volume, errors
from engine.block_range import BlockRange
from hypervisor import patterns
from service.addresses import Address, Context, parse
from service.reverts import replace_directory
from service.steps import TOLD_TO_STOP, Steps
from service.work import JobCommand, Result, Work

CLONES_MAX = 100_000
NAMES_STEP = 512
CLONES_STEP = 32  # of files, about 40 us each


def clone(
    context: Context, work: Work, source: str, target: str, count: int, start: int, replace: bool,
    force: bool = False,
) -> Steps[Result]:  # fmt: skip
    """Clone a file or directory; with ``{n}`` in the target, ``count`` times: all or none.

    What was replaced cannot be brought back: a batch that fails with ``replace`` is PartlyDone.
    A directory is replaced alone, in one step (service/reverts.py, which asks ``force``).
    """
    origin, path = parse(context, source)
    inode = origin.resolve(path)
    if inode.is_dir and replace:
        if count != 1:
            raise errors.InvalidArgument("--replace puts back one directory; give one target")
        return (
            yield from replace_directory(context, work, Address(origin, path), target, force)
        )  # fmt: skip
    names = yield from expand_all(target, start, count)
    inode = origin.resolve(path)  # as it is now
    work.plan(count, 0 if inode.is_dir else inode.blocks * count)
    store, places = context.store, Places(context)
    for n, each in enumerate(names):
        try:
            volume, parent, name = places.find(each)
            if inode.is_dir:
                twin, blocks = yield from store.tree_clone(
                    origin, inode.ino, volume, parent, name
                )  # fmt: skip
                places.forget()
            else:
                twin = store.clone_file(origin, inode.ino, volume, parent, name, replace=replace)
                blocks = twin.blocks
        except TOLD_TO_STOP:
            raise
        except errors.RametError as error:
            work.failed(each, error)
            if replace and n:
                raise errors.PartlyDone(f"{error}; {n} of {count} were replaced already") from error
            raise
        if not replace:  # what was replaced is gone; the new clones stay
            work.made(volume, twin, parent, name)
        if not n:
            work.plan(count, blocks * count)
        work.done(blocks)
        if inode.is_dir or n % CLONES_STEP == CLONES_STEP - 1:
            places.forget()
            try:
                yield None
            except TOLD_TO_STOP as error:
                if replace:
                    raise errors.PartlyDone(
                        f"told to stop; {n + 1} of {count} were replaced already, and stay so"
                    ) from error
                raise
    return {"source": source, "clones": names, "bytes_copied": 0}


class Places:
    """Where targets go: a directory is looked up once, until others have had a turn."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._found: tuple[str, Volume, int] | None = None

    def forget(self) -> None:
        self._found = None

    def find(self, address: str) -> tuple[Volume, int, bytes]:
        """The volume, the directory and the name in it.  NotFound, InvalidArgument."""
        head, _, last = address.rpartition("/")
        plain = last not in ("", ".", "..")
        if plain and self._found is not None and self._found[0] == head:
            return self._found[1], self._found[2], last.encode(errors="surrogateescape")
        volume, path = parse(self._context, address)
        directory, name = volume.resolve_parent(path)
        self._found = (head, volume, directory.ino) if plain else None
        return volume, directory.ino, name


def clone_ranges(
    context: Context, work: Work, source: str, target: str, ranges: list[list[int]], extend: bool
) -> Steps[Result]:
    """Clone block ranges (source block, target block, count) into a file: all or none, in one step.

    The target keeps its size unless ``extend``, which also makes it if it is not there, with the
    source's permissions.
    """
    origin, path = parse(context, source)
    volume, to = parse(context, target)
    blocks = [BlockRange(*each) for each in ranges]
    work.plan(1, sum(each.count for each in blocks))
    parent, name = volume.resolve_parent(to)
    new = volume.entry(parent.ino, name) is None
    if new and not extend:
        raise errors.NotFound(f"{target} is not there; --extend makes it")
    try:
        given = origin.resolve(path)
        mode = given.mode & 0o777
        ino = (volume.create(parent.ino, name, mode, 0, 0) if new else volume.resolve(to)).ino
        done = context.store.clone_ranges(origin, given.ino, volume, ino, blocks, extend=extend)
    except errors.RametError as error:
        if new and volume.entry(parent.ino, name) is not None:
            volume.unlink(parent.ino, name)
        work.failed(target, error)
        raise
    work.done(done)
    yield from ()  # what it did to the target cannot be undone: nobody stops it in between
    size = volume.inode(ino).size
    return {
        "source": source, "target": target, "ranges": len(blocks), "blocks": done,
        "size_bytes": size, "bytes_copied": 0,
    }  # fmt: skip


def expand_all(pattern: str, start: int, count: int) -> Steps[list[str]]:
    """The targets of a batch; InvalidArgument when they are not all different."""
    if not 1 <= count <= CLONES_MAX or start < 0:
        raise errors.InvalidArgument(f"count must be 1 to {CLONES_MAX}, start 0 or more")
    names: dict[str, None] = {}
    for n in range(start, start + count):
        names[expand(pattern, n)] = None
        if len(names) <= n - start:
            raise errors.InvalidArgument("the target needs {n}, as in lab:/web-{n:03d}")
        if len(names) % NAMES_STEP == 0:
            yield None
    return list(names)


def expand(pattern: str, n: int) -> str:
    """Fill in ``{n}`` or ``{n:03d}``."""
    return patterns.expand(pattern, {"n": n})


JOBS: tuple[JobCommand, ...] = (clone, clone_ranges)
