"""The public commands, each once: with a daemon they run in it, without one in the command itself.

Each takes an open store and plain values and returns what ``--json`` prints; keys end in
their unit.  None commits: the caller makes durable what it is about to report.
"""

import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import Inode, Store, Volume, errors, fsck
from engine.gc import GcResult
from service.addresses import parse

Result = dict[str, Any] | list[dict[str, Any]]
COPY_BYTES = 1 << 20
CLONES_MAX = 100_000


def iso(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat()


def _volume(volume: Volume) -> dict[str, Any]:
    return {
        "name": str(volume),
        "files": volume.files,
        "logical_bytes": volume.logical_bytes,
        "referenced_bytes": volume.referenced_bytes,
        "created": iso(volume.created_ns),
    }


def volume_create(store: Store, name: str) -> Result:
    return _volume(store.create_volume(name))


def volume_ls(store: Store) -> Result:
    return [_volume(v) for v in store.volumes()]


def volume_clone(store: Store, source: str, name: str) -> Result:
    head, at, snapshot = source.partition("@")
    volume = store.volume(head)
    return _volume(store.clone_volume(store.snapshot(volume, snapshot) if at else volume, name))


def volume_rename(store: Store, old: str, new: str) -> Result:
    store.rename_volume(old, new)
    return _volume(store.volume(new))


def volume_rm(store: Store, name: str) -> Result:
    store.remove_volume(name)
    return {"removed": name}


def snapshot_create(store: Store, volume: str, name: str) -> Result:
    return _volume(store.create_snapshot(store.volume(volume), name))


def snapshot_ls(store: Store, volume: str) -> Result:
    return [_volume(s) for s in store.snapshots(store.volume(volume))]


def snapshot_rm(store: Store, volume: str, name: str) -> Result:
    store.remove_snapshot(store.volume(volume), name)
    return {"removed": f"{volume}@{name}"}


def snapshot_restore(store: Store, volume: str, name: str, force: bool) -> Result:
    store.restore(store.volume(volume), name, force=force)
    return _volume(store.volume(volume))


def _inode(name: str, inode: Inode) -> dict[str, Any]:
    return {
        "name": name,
        "mode": stat.filemode(inode.mode),
        "size_bytes": inode.size,
        "referenced_bytes": inode.blocks * 4096,
        "modified": iso(inode.mtime_ns),
    }


def ls(store: Store, address: str) -> Result:
    volume, path = parse(store, address)
    inode = volume.resolve(path)
    if not inode.is_dir:
        return [_inode(path, inode)]
    found, cookie = [], 0
    while entries := volume.readdir(inode.ino, cookie):
        found += [_inode(e.name.decode(errors="replace"), volume.inode(e.ino)) for e in entries]
        cookie = entries[-1].cookie
    return sorted(found, key=lambda entry: str(entry["name"]))


def rm(store: Store, address: str, recursive: bool) -> Result:
    volume, path = parse(store, address)
    parent, name = volume.resolve_parent(path)
    if volume.lookup(parent.ino, name).is_dir and not recursive:
        raise errors.IsADirectory(f"{address} is a directory; use -r to remove all below it")
    return {"removed": address, "names": store.remove_tree(volume, parent.ino, name)}


def clone(
    store: Store, source: str, target: str, count: int, start: int, replace: bool
) -> Result:  # fmt: skip
    """Clone a file or directory; with ``{n}`` in the target, ``count`` times."""
    if not 1 <= count <= CLONES_MAX:
        raise errors.InvalidArgument(f"count must be 1 to {CLONES_MAX}")
    origin, path = parse(store, source)
    inode = origin.resolve(path)
    names = [expand(target, n) for n in range(start, start + count)]
    if len(set(names)) < count:
        raise errors.InvalidArgument("the target needs {n}, as in lab:/web-{n:03d}")
    for each in names:
        volume, to = parse(store, each)
        parent, name = volume.resolve_parent(to)
        if inode.is_dir:
            if replace:
                raise errors.InvalidArgument("--replace works on files; remove the directory first")
            store.clone_tree(origin, inode.ino, volume, parent.ino, name)
        else:
            store.clone_file(origin, inode.ino, volume, parent.ino, name, replace=replace)
    return {"source": source, "clones": names, "bytes_copied": 0}


def expand(pattern: str, n: int) -> str:
    """Replace ``{n}`` and ``{n:03d}``; no other field, no attribute, no index."""
    head, brace, rest = pattern.partition("{n")
    if not brace:
        return pattern
    form, closing, tail = rest.partition("}")
    digits = form[1:].removesuffix("d")
    if not closing or (form and (form[0] != ":" or not digits.isdecimal() or len(digits) > 2)):
        raise errors.InvalidArgument(f"{pattern!r}: write {{n}} or {{n:03d}}")
    width = int(digits) if digits else 0
    return f"{head}{n:0{width}d}{tail}"


def import_file(store: Store, path: str, address: str) -> Result:
    """Bring a raw image in: holes stay holes, and no name exists until all of it is there."""
    volume, to = parse(store, address)
    parent, name = volume.resolve_parent(to)
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        staged = volume.create_staged(0o644, 0, 0)
        try:
            _copy_data(file.fileno(), size, lambda at, data: volume.write(staged.ino, at, data))
            volume.setattr(staged.ino, size=size)
            inode = volume.publish(staged.ino, parent.ino, name)
        except BaseException:
            volume.release(staged.ino)
            raise
    return _inode(to, inode)


def _copy_data(fd: int, size: int, write: Callable[[int, bytes], object]) -> None:
    at = 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, at, os.SEEK_HOLE)
        while at < end:
            data = os.pread(fd, min(COPY_BYTES, end - at), at)
            if not data:
                return
            write(at, data)
            at += len(data)


def export_file(store: Store, address: str, path: str) -> Result:
    """Write a file out as a sparse raw image; refuses to overwrite."""
    volume, source = parse(store, address)
    inode = volume.resolve(source)
    with Path(path).open("xb") as file:
        at: int | None = 0
        while at is not None and (at := volume.seek_data(inode.ino, at)) is not None:
            end = volume.seek_hole(inode.ino, at)
            assert end is not None
            while at < end:
                data = volume.read(inode.ino, at, min(COPY_BYTES, end - at))
                os.pwrite(file.fileno(), data, at)
                at += len(data)
        file.truncate(inode.size)
        os.fsync(file.fileno())
    return {"path": path, "size_bytes": inode.size}


def df(store: Store) -> Result:
    space = store.space()
    return {
        "logical_bytes": space.logical_bytes,
        "referenced_bytes": space.referenced_bytes,
        "physical_bytes": space.physical_bytes,
        "metadata_bytes": space.metadata_bytes,
        "free_bytes": space.free_bytes,
        "volumes": space.volumes,
        "snapshots": space.snapshots,
        "files": space.files,
    }


def tree(store: Store) -> Result:
    """Volumes with their snapshots, and what each was cloned from."""
    names = {v.id: str(v) for v in store.volumes()}
    for volume in store.volumes():
        names |= {s.id: str(s) for s in store.snapshots(volume)}
    return [
        _volume(each) | {"cloned_from": names.get(each.origin_id)}
        for volume in store.volumes()
        for each in (volume, *store.snapshots(volume))
    ]


def gc(store: Store) -> Result:
    return gc_figures(store.gc())


def gc_figures(result: GcResult) -> dict[str, Any]:
    return {
        "freed_bytes": result.slots_freed * 4096,
        "nodes_visited": result.nodes_visited,
        "nodes_freed": result.nodes_freed,
    }


def check(store: Store, data: bool) -> Result:
    store.commit()
    return check_figures(fsck.check(store, data=data))


def check_figures(report: fsck.Report) -> dict[str, Any]:
    return {
        "clean": report.clean,
        "findings": [f"{f.check} {f.where}: {f.problem}" for f in report.findings],
        "nodes": report.nodes,
        "mapped_bytes": report.blocks * 4096,
        "garbage_bytes": report.garbage_slots * 4096,
    }
