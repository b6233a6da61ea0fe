"""Where the bytes of a file are: its extents, to be told to people and scripts.

Extents come by pages, each one bounded call, so that a map of any size takes constant memory and no
guest waits for it.  The file may change between two pages; what is told is true of its page.
"""

from collections.abc import Callable, Iterator
from typing import Any

from engine import Inode, Volume, errors
from native import Extent
from service.addresses import Context, parse_volume
from service.operations import Operation, Result, as_of, unique_of
from service.steps import Steps

BLOCK = 4096
Call = Callable[..., Any]
Row = dict[str, Any]


def map_page(context: Context, volume_name: str, ino: int, block: int) -> Result:
    """Extents of a file by its inode number, at or after a block; ``next_block`` None: no more."""
    volume = parse_volume(context, volume_name)
    found, following = volume.extents_page(ino, block)
    slots = context.store.pool.superblock.slab_slots
    return {
        "extents": [_extent(each, slots) for each in found],
        "next_block": following,
        "size_bytes": volume.file(ino).size,
    }


def _extent(extent: Extent, slab_slots: int) -> Row:
    slab, slot = divmod(extent.address, slab_slots)
    return {
        "offset_bytes": extent.block * BLOCK, "length_bytes": extent.count * BLOCK,
        "slab": slab, "slot": slot, "hole": False, "shared": extent.shared,
    }  # fmt: skip


def extents(call: Call, volume_name: str, ino: int) -> Iterator[Row]:
    """All extents of a file and the holes between, in order.

    ``call`` runs an operation (``cli.running.session``, or a wrapper of ``service.rpc.Client``).
    Runs that go on in the next page are one.  Lengths are of whole blocks, so the last extent may
    pass the end of the file; the last hole ends with it.
    """
    block: int | None = 0
    held: Row | None = None
    end = size = 0
    while block is not None:
        page = call(map_page, volume_name, ino, block)
        block, size = page["next_block"], page["size_bytes"]
        for each in page["extents"]:
            if held is not None and _goes_on(held, each):
                held["length_bytes"] += each["length_bytes"]
            else:
                if held is not None:
                    yield held
                if each["offset_bytes"] > end:
                    yield _hole(end, each["offset_bytes"])
                held = each
            end = each["offset_bytes"] + each["length_bytes"]
    if held is not None:
        yield held
    if end < size:
        yield _hole(end, size)


def _goes_on(held: Row, each: Row) -> bool:
    count, rest = divmod(held["length_bytes"], BLOCK)
    assert not rest
    return bool(
        held["offset_bytes"] + held["length_bytes"] == each["offset_bytes"]
        and (held["slab"], held["slot"] + count) == (each["slab"], each["slot"])
        and held["shared"] == each["shared"]
    )


def _hole(start: int, end: int) -> Row:
    return {
        "offset_bytes": start, "length_bytes": end - start, "slab": None, "slot": None,
        "hole": True, "shared": False,
    }  # fmt: skip


def _totals(volume: Volume, ino: int) -> Steps[Row]:
    """Sums over a file's extents, by pages; Stale when the volume is restored meanwhile."""
    era, count, mapped, shared = volume.era, 0, 0, 0
    last = Extent(-1, -1, 0, False)
    block: int | None = 0
    volume.hold(ino)
    try:
        while block is not None:
            found, block = volume.extents_page(ino, block)
            for each in found:
                joined = (last.block + last.count, last.address + last.count, last.shared)
                count += joined != (each.block, each.address, each.shared)
                mapped += each.count
                shared += each.count * each.shared
                last = each
            yield None
            if volume.era != era:
                raise errors.Stale(f"{volume} was restored or removed meanwhile; try again")
    finally:
        volume.release_of(era, ino)
    return {"extent_count": count, "mapped_bytes": mapped * BLOCK, "shared_bytes": shared * BLOCK}


def file_row(context: Context, volume: Volume, inode: Inode, path: str | None) -> Steps[Row]:
    """A file's own part of a row.  ``shared``: another file, snapshot or clone may have it too."""
    size, ino = inode.size, inode.ino
    totals = yield from _totals(volume, ino)
    return {
        "file": f"{volume}:{path or f'(inode {ino})'}", "volume": str(volume), "inode": ino,
        "size_bytes": size, **totals, "unique_bytes": unique_of(context, volume, inode),
        "as_of": as_of(context),
    }  # fmt: skip


def slabs(context: Context) -> Row:
    """Where slot S of slab N is: at S * ``slot_bytes`` of the file ``slab_files`` % N."""
    return {"slab_files": context.store.pool.slabs.pattern, "slot_bytes": BLOCK}


READS: tuple[Operation, ...] = (map_page,)
CHANGES: tuple[Operation, ...] = ()
