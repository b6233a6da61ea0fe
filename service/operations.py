"""The public commands, each once: with a daemon they run in it, without one in the command itself.

Each takes a context and plain values and returns what ``--json`` prints, or the steps to it
(``service.steps``); keys end in their unit.  None commits: the caller makes durable what it is
about to report.
"""

import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from engine import Inode, Volume, errors
from engine.gc import GcResult
from hypervisor import images
from service.addresses import Context, parse
from service.closes import closes_arrive
from service.host_files import check_host_file, check_new_file, owner_only, sync_name
from service.image_reader import ImageReader, Piece
from service.share_records import Table
from service.steps import Steps

Result = dict[str, Any] | list[dict[str, Any]]
COPY_BYTES = 1 << 20


def iso(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat()


# --- volumes and snapshots


def told_volume(volume: Volume) -> dict[str, Any]:
    return {
        "name": str(volume),
        "files": volume.files,
        "logical_bytes": volume.logical_bytes,
        "referenced_bytes": volume.referenced_bytes,
        "quota_bytes": volume.quota_bytes or None,
        "dedup_domain": "own" if volume.record.domain else "shared",
        "created": iso(volume.created_ns),
    }


def as_of(context: Context) -> str | None:
    """The time that unique and shared figures hold for; None: there are none yet."""
    unique = context.store.unique
    return None if unique is None else iso(unique.as_of_ns)


def _with_unique(context: Context, volume: Volume) -> dict[str, Any]:
    unique = context.store.unique
    found = None if unique is None else unique.of_volume(volume.id)
    return told_volume(volume) | {"unique_bytes": found, "as_of": as_of(context)}


def volume_create(context: Context, name: str, quota_bytes: int, own_domain: bool) -> Result:
    made = context.store.create_volume(name, quota_bytes=quota_bytes, own_domain=own_domain)
    return told_volume(made)


def volume_quota(context: Context, name: str, quota_bytes: int) -> Result:
    context.store.set_quota(name, quota_bytes)
    return told_volume(context.store.volume(name))


def volume_ls(context: Context) -> Result:
    return [_with_unique(context, v) for v in context.store.volumes()]


def volume_rename(context: Context, old: str, new: str) -> Result:
    context.store.rename_volume(old, new)
    return told_volume(context.store.volume(new))


def snapshot_create(context: Context, volume: str, name: str) -> Result:
    return told_volume(context.store.create_snapshot(context.store.volume(volume), name))


def snapshot_ls(context: Context, volume: str) -> Result:
    return [told_volume(s) for s in context.store.snapshots(context.store.volume(volume))]


def snapshot_rm(context: Context, volume: str, name: str, dry_run: bool) -> Steps[Result]:
    store = context.store
    yield from closes_arrive(context, store.snapshot(store.volume(volume), name))
    Table(store).check_not_shared(store.snapshot(store.volume(volume), name))
    snapshot = store.check_remove_snapshot(store.volume(volume), name)
    if not dry_run:
        store.remove_snapshot(store.volume(volume), name)
    return {"removed": f"{volume}@{name}", "files": snapshot.files, "dry_run": dry_run}


def snapshot_restore(
    context: Context, volume: str, name: str, force: bool, dry_run: bool
) -> Steps[Result]:  # fmt: skip
    store = context.store
    yield from closes_arrive(context, store.volume(volume))
    snapshot = store.check_restore(store.volume(volume), name, force=force)
    if not dry_run:
        store.restore(store.volume(volume), name, force=force)
    return told_volume(store.volume(volume)) | {"restored": str(snapshot), "dry_run": dry_run}


# --- files


def _inode(name: str, inode: Inode) -> dict[str, Any]:
    return {
        "name": name,
        "mode": stat.filemode(inode.mode),
        "size_bytes": inode.size,
        "referenced_bytes": inode.blocks * 4096,
        "modified": iso(inode.mtime_ns),
    }


def _children(volume: Volume, ino: int) -> list[tuple[str, Inode]]:
    found, cookie = [], 0
    while entries := volume.readdir(ino, cookie):
        found += [(e.name.decode(errors="replace"), volume.inode(e.ino)) for e in entries]
        cookie = entries[-1].cookie
    return sorted(found, key=lambda pair: pair[0])


def _children_if_there(volume: Volume, ino: int) -> list[tuple[str, Inode]]:
    """None when the directory was removed meanwhile."""
    try:
        volume.inode(ino)
    except errors.Stale:
        return []
    return _children(volume, ino)


def ls(context: Context, address: str) -> Result:
    volume, path = parse(context, address)
    inode = volume.resolve(path)
    if not inode.is_dir:
        return [_inode(path, inode)]
    return [_inode(name, child) for name, child in _children(volume, inode.ino)]


def du(context: Context, address: str) -> Steps[Result]:
    """Sizes of each entry of a directory with all below it (hard links once), and their sum.

    Unique bytes are what deleting the entry frees; those of the sum, what deleting all of them
    frees, which may be more.  What is removed meanwhile is left out.
    """
    volume, path = parse(context, address)
    inode, era = volume.resolve(path), volume.era
    tops = _children(volume, inode.ino) if inode.is_dir else [(path, inode)]
    rows: list[dict[str, Any]] = []
    for name, top in tops:
        files = logical = referenced = 0
        pending, seen = [top], {top.ino}
        while pending:
            each = pending.pop()
            if each.is_dir:
                below = [child for _, child in _children_if_there(volume, each.ino)]
                pending += [child for child in below if child.ino not in seen]
                seen |= {child.ino for child in below}
                yield None
                if volume.era != era:
                    raise errors.Stale(f"{volume} was restored or removed meanwhile; ask again")
            else:
                files += 1
                logical += each.size
                referenced += each.blocks * 4096
        rows.append({
            "name": name, "files": files, "logical_bytes": logical,
            "referenced_bytes": referenced, "unique_bytes": unique_of(context, volume, top),
            "as_of": as_of(context),
        })  # fmt: skip
    keys = ("files", "logical_bytes", "referenced_bytes")
    total = {key: sum(row[key] for row in rows) for key in keys}
    of_all = {"unique_bytes": unique_of(context, volume, inode), "as_of": as_of(context)}
    return [*rows, {"name": "total"} | total | of_all]


def unique_of(context: Context, volume: Volume, inode: Inode) -> int | None:
    """A file without blocks has nothing to itself; None: not known."""
    unique = context.store.unique
    if unique is None:
        return None
    found = unique.of_inode(volume.id, inode.ino)
    empty = not inode.is_dir and not inode.blocks
    return 0 if found is None and empty else found


def rm(context: Context, address: str, recursive: bool, dry_run: bool) -> Steps[Result]:
    """Remove a name, with all below it if ``recursive``; stopped half-way, the rest is there."""
    volume, path = parse(context, address)
    volume.check_writable()
    parent, name = volume.resolve_parent(path)
    if volume.lookup(parent.ino, name).is_dir and not recursive:
        raise errors.IsADirectory(f"{address} is a directory; use -r to remove all below it")
    if dry_run:
        return {"removed": address, "dry_run": True}
    names = yield from context.store.removal(volume, parent.ino, name)
    return {"removed": address, "names": names, "dry_run": False}


def make_parents(volume: Volume, path: str) -> None:
    """``mkdir -p`` for the directory that will hold ``path``."""
    at = ""
    for part in [p for p in path.split("/") if p][:-1]:
        at += "/" + part
        try:
            volume.resolve(at)
        except errors.NotFound:
            parent, name = volume.resolve_parent(at)
            volume.mkdir(parent.ino, name, 0o755, 0, 0)


# --- in and out


def import_file(
    context: Context, path: str, address: str, form: str | None, parents: bool
) -> Steps[Result]:
    """Bring an image in as raw: holes stay holes, no name exists until all of it is there.

    Who may read and write it is as of the image.
    """
    volume, to = parse(context, address)
    if parents:
        make_parents(volume, to)
    parent, name = volume.resolve_parent(to)
    if volume.entry(parent.ino, name) is not None:
        raise errors.AlreadyExists(f"{address} exists; remove it first or choose another name")
    scratch = context.store.path / "run"
    yield partial(check_host_file, context.own_mount, path)
    opened = yield lambda: images.open_raw(Path(path), form, scratch)
    with opened as image:
        size = os.fstat(image.fileno()).st_size
        staged, era = volume.create_staged(opened.mode, 0, 0), volume.era
        reader = ImageReader(image.fileno(), context.store.pool.slabs.begin_write_back)
        try:
            while pieces := (yield from _next_pieces(reader)):
                for at, data in pieces:
                    volume.write(staged.ino, at, data)
            volume.setattr(staged.ino, size=size)
            inode = volume.publish(staged.ino, parent.ino, name)
        except BaseException:
            volume.release_of(era, staged.ino)
            raise
        finally:
            reader.stop()
    return _inode(to, inode) | {"format": opened.form}


def _next_pieces(reader: ImageReader) -> Steps[list[Piece]]:
    """A turn for others; on a thread only if there is something to wait for."""
    if not reader.ready:
        waited: list[Piece] = yield reader.take
        return waited
    yield None
    return reader.take()


def export_file(context: Context, address: str, path: str) -> Steps[Result]:
    """Write a file out as a sparse raw image; refuses to overwrite, leaves nothing half-done.

    It is durable, its name too, when this returns.  Until it is whole it is its owner's alone.
    """
    yield partial(check_new_file, context.own_mount, path)
    volume, source = parse(context, address)
    inode = volume.hold(volume.file(volume.resolve(source).ino).ino)
    era = volume.era
    try:
        file = open(path, "xb", opener=owner_only)  # noqa: SIM115 - it is removed again on errors
        try:
            with file:
                yield from _copy_out(volume, inode, era, file.fileno())
                size = inode.size
                file.truncate(size)
                os.fchmod(file.fileno(), inode.mode & 0o777)
                yield partial(os.fsync, file.fileno())
            yield partial(sync_name, path)
        except BaseException:
            Path(path).unlink()
            raise
    finally:
        volume.release_of(era, inode.ino)
    return {"path": path, "size_bytes": size}


def _copy_out(volume: Volume, inode: Inode, era: int, fd: int) -> Steps[None]:
    at: int | None = 0
    while at is not None and (at := volume.seek_data(inode.ino, at)) is not None:
        end = volume.seek_hole(inode.ino, at)
        assert end is not None
        while at < end:
            data = volume.read(inode.ino, at, min(COPY_BYTES, end - at))
            if not data:
                return  # truncated meanwhile
            yield partial(os.pwrite, fd, data, at)
            if volume.era != era:
                raise errors.Stale(f"{volume} was restored or removed meanwhile; export again")
            at += len(data)


# --- the store


def df(context: Context) -> Result:
    """``unique``: blocks in one file only; ``shared``: in more than one."""
    space, unique = context.store.space(), context.store.unique
    return {
        "logical_bytes": space.logical_bytes,
        "referenced_bytes": space.referenced_bytes,
        "physical_bytes": space.physical_bytes,
        "unique_bytes": None if unique is None else unique.reached_bytes - unique.shared_bytes,
        "shared_bytes": None if unique is None else unique.shared_bytes,
        "dedup_saved_bytes": None if unique is None else unique.dedup_saved_bytes,
        "clone_saved_bytes": None if unique is None else unique.clone_saved_bytes,
        "as_of": as_of(context),
        "metadata_bytes": space.metadata_bytes,
        "free_bytes": space.free_bytes,
        "volumes": space.volumes,
        "snapshots": space.snapshots,
        "files": space.files,
    }


def tree(context: Context) -> Result:
    """Volumes with their snapshots, and what each was cloned from."""
    store = context.store
    names = {v.id: str(v) for v in store.volumes()}
    for volume in store.volumes():
        names |= {s.id: str(s) for s in store.snapshots(volume)}
    return [
        _with_unique(context, each) | {"cloned_from": names.get(each.origin_id)}
        for volume in store.volumes()
        for each in (volume, *store.snapshots(volume))
    ]


def gc(context: Context) -> Result:
    return gc_figures(context.store.gc())


def gc_figures(result: GcResult) -> dict[str, Any]:
    return {
        "freed_bytes": result.slots_freed * 4096,
        "punched_bytes": result.punched_bytes,
        "nodes_visited": result.nodes_visited,
        "nodes_freed": result.nodes_freed,
    }


Operation = Callable[..., Result | Steps[Result]]
READS: tuple[Operation, ...] = (volume_ls, snapshot_ls, ls, du, df, tree, export_file)
CHANGES: tuple[Operation, ...] = (
    volume_create, volume_quota, volume_rename, snapshot_create, snapshot_rm,
    snapshot_restore, rm, import_file,
)  # fmt: skip
