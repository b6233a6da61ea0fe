"""``ramet volume map``: the files of a volume, how each is presented, whose it is, where it lies.

Files come by pages in the order of their inode numbers: a volume of any size takes constant memory.
MISSION.md A2.
"""

from collections.abc import Iterator
from functools import partial

from engine import Inode, Volume, errors
from hypervisor import machines, sources
from service import hosts
from service.addresses import Context, parse, parse_volume
from service.extents import Call, Row, file_row, slabs
from service.maps import device_of, find
from service.operations import Operation, Result
from service.shares import urls_of
from service.steps import TOLD_TO_STOP, Steps

FILES_STEP = 64


def file_map(context: Context, address: str) -> Steps[Result]:
    """One file: where it is presented, whose it is, and the sums of its extents."""
    volume, path = parse(context, address)
    inode = volume.file(volume.resolve(path).ino)
    row = yield from _volume_row(context, volume, inode, path)
    return row | slabs(context)


def volume_map(context: Context, name: str) -> Result:
    """What a volume is as a whole; its files come by ``volume_map_page``."""
    volume = parse_volume(context, name)
    mounted = None if context.mountpoint is None else str(context.mounted_path(volume, "/"))
    return {
        "volume": str(volume), "mounted": mounted, "shares": urls_of(context, volume),
        "logical_bytes": volume.logical_bytes, "referenced_bytes": volume.referenced_bytes,
        **slabs(context),
    }  # fmt: skip


def volume_map_page(context: Context, name: str, after: int) -> Steps[Result]:
    """Rows of the next files by inode number; ``after`` None: no more."""
    volume = parse_volume(context, name)
    inodes = volume.inodes_after(after, FILES_STEP)
    rows: list[Row] = []
    for inode in inodes:
        if inode.is_file:
            try:
                path = volume.path_of(inode.ino)
                rows.append((yield from _volume_row(context, volume, inode, path)))
            except errors.Stale:
                if context.store.volume_by_id(volume.id) is volume:
                    continue  # the file was removed meanwhile
                raise
    done = len(inodes) < FILES_STEP
    return {"files": rows, "after": None if done else inodes[-1].ino}


def _volume_row(
    context: Context, volume: Volume, inode: Inode, path: str | None
) -> Steps[Row]:  # fmt: skip
    row = yield from file_row(context, volume, inode, path)
    return row | {"vm": _machine_of(volume, inode), "shares": urls_of(context, volume, inode.ino)}


def _machine_of(volume: Volume, inode: Inode) -> str | None:
    """The name of the VM whose directory the file is in."""
    seen = set()
    at = inode.parent
    while at not in seen:
        seen.add(at)
        payload = volume.get_mark(at, machines.MARK)
        if payload is not None:
            try:
                return machines.read_mark(payload).name
            except errors.Corrupt:
                return None
        at = volume.inode(at).parent
    return None


def files(call: Call, name: str, totals: Row) -> Iterator[Row]:
    """All files of a volume, in constant memory; ``totals`` are their sums when it ends."""
    totals |= {"files": 0, "size_bytes": 0, "extent_count": 0, "mapped_bytes": 0,
               "shared_bytes": 0}  # fmt: skip
    after: int | None = 0
    while after is not None:
        page = call(volume_map_page, name, after)
        after = page["after"]
        for row in page["files"]:
            totals["files"] += 1
            for key in ("size_bytes", "extent_count", "mapped_bytes", "shared_bytes"):
                totals[key] += row[key]
            yield row


def volume_domains(context: Context, name: str) -> Steps[Result]:
    """The domains of all known hosts that have files of a volume, and the hosts that do not answer.

    One row a disk's image.
    """
    volume = parse_volume(context, name)
    device = yield partial(device_of, context.own_mount)
    rows: list[Row] = []
    silent: list[str] = []
    for host in hosts.everyone(context.store):
        try:
            found = yield hosts.answered(partial(sources.everyone, host.uri))
        except TOLD_TO_STOP:
            raise
        except errors.RametError as error:
            silent.append(f"{host.name}: {error}")
            continue
        for each in found:
            for image in each.images:
                at, _ = find(context, host.uri, image.place, device)
                if at is not None and at.volume is volume:
                    rows.append({
                        "host": host.name, "domain": each.name, "state": each.state,
                        "target": image.target, "file": f"{volume}:{at.path}",
                    })  # fmt: skip
    return {"domains": rows, "not_answered": silent}


READS: tuple[Operation, ...] = (file_map, volume_map, volume_map_page, volume_domains)
CHANGES: tuple[Operation, ...] = ()
