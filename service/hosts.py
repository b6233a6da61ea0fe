"""``ramet host``: the hypervisors that this store is presented to, and what they see of it.

A host is a libvirt URI and where the store is mounted there.  A rescan asks for the pools that the
store's volumes and targets should be (``wanted``), makes the host's pools so, and tells what is
new, changed and gone in them since the last one, which the store remembers with the host.

Invariants:
- only pools that this store made are touched (hypervisor/pools.py knows them);
- a host that does not answer changes nothing that is remembered of it but the error, and keeps no
  other host from its rescan: each has a thread and a deadline of its own;
- what is presented needs the mount, so while the store is not mounted its pools are left alone.
"""

import zlib
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeVar

import msgspec

from engine import Store, Volume, errors
from hypervisor.connection import connected, translated
from hypervisor.identity import check_name
from hypervisor.machine_index import index_of
from hypervisor.machines import Directory
from hypervisor.pools import Pool, Pools, StorageVolume, pool_name
from service.addresses import Context
from service.deadline import ANSWER_S, within
from service.operations import Operation, Result, iso
from service.steps import TOLD_TO_STOP, HypervisorCall, Steps
from service.target_pools import pools_of_targets

CHUNK_BYTES = 3000  # a record is a page of LMDB at most
HOST, SCAN = "host/", "host-scan/"
R = TypeVar("R")
D = TypeVar("D", "Host", "Seen")


class Host(msgspec.Struct, frozen=True):
    """A hypervisor.  ``mount_path``: where it has the store's mount; None: where we have it.

    ``nfs_server``: the address at which it would find our exports; None: none is looked up.
    """

    name: str
    uri: str
    mount_path: str | None = None
    nfs_server: str | None = None


class Seen(msgspec.Struct):
    """What a host showed when it was rescanned last: volumes by pool, exports, how that went."""

    pools: dict[str, dict[str, StorageVolume]] = {}
    sources: list[str] = []
    time_ns: int = 0
    error: str | None = None


# --- records


def everyone(store: Store) -> list[Host]:
    return [_decode(value, Host) for _, value in store.records.items(HOST)]


def find(store: Store, name: str) -> Host:
    value = store.records.get(HOST + name)
    if value is None:
        raise errors.NotFound(f"no host {name!r}; see `ramet host ls`")
    return _decode(value, Host)


def seen(store: Store, name: str) -> Seen:
    """What is remembered; nothing when it is damaged, since a rescan says it again."""
    raw = b"".join(value for _, value in store.records.items(f"{SCAN}{name}/"))
    try:
        return msgspec.msgpack.decode(zlib.decompress(raw), type=Seen) if raw else Seen()
    except (zlib.error, msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return Seen()


def remember(store: Store, name: str, seen: Seen | None) -> None:
    raw = b"" if seen is None else zlib.compress(msgspec.msgpack.encode(seen))
    keys = {
        f"{SCAN}{name}/{n:06d}": raw[at : at + CHUNK_BYTES]
        for n, at in enumerate(range(0, len(raw), CHUNK_BYTES))
    }
    for key, _ in store.records.items(f"{SCAN}{name}/"):
        if key not in keys:
            store.records.delete(key)
    for key, value in keys.items():
        store.records.put(key, value)


def _decode(raw: bytes, kind: type[D]) -> D:
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise errors.Corrupt(f"the record of a host is damaged ({error}); add it again") from None


# --- what a host should see


def at(store: Store, uri: str) -> Host | None:
    """The host with this URI."""
    return next((host for host in everyone(store) if host.uri == uri), None)


def mount_path(context: Context, host: Host | None) -> PurePosixPath | None:
    """Where a host has the store's mount; None while the store is not mounted at all."""
    if context.mountpoint is None:
        return None
    if host is None or host.mount_path is None:
        return PurePosixPath(context.mountpoint)
    return PurePosixPath(host.mount_path)


def placing(context: Context, uri: str | None) -> Callable[[Volume, str], PurePosixPath | None]:
    """Where a host has a file of a volume (no ``uri``: this host); None: nothing is mounted."""
    root = mount_path(context, None if uri is None else at(context.store, uri))

    def place(volume: Volume, path: str) -> PurePosixPath | None:
        if root is None or context.mountpoint is None:
            return None
        return root / context.mounted_path(volume, path).relative_to(context.mountpoint)

    return place


def directory_pool(root: PurePosixPath, volume: Volume, path: str) -> Pool:
    """The pool of a directory of a volume, on a mount at ``root``."""
    parts = [part for part in path.split("/") if part]
    return Pool(pool_name(volume.name, *parts), root.joinpath(volume.name, *parts))


def pool_of_vm(root: PurePosixPath, volume: Volume, path: str) -> Pool:
    """The pool that shows a VM's directory: that of the directory which holds it."""
    return directory_pool(root, volume, path.strip("/").rpartition("/")[0])


def pool_name_of_vm(volume: Volume, path: str) -> str:
    return pool_of_vm(PurePosixPath("/"), volume, path).name


def pools_of_vms(context: Context, vms: Iterable[Directory], uri: str) -> list[Pool]:
    """The pools that show these VMs to the host at ``uri``; the store is mounted."""
    root = mount_path(context, at(context.store, uri))
    assert root is not None, "what is to be registered is mounted"
    return sorted({pool_of_vm(root, each.volume, each.path) for each in vms})


def unused_pools(
    store: Store, uri: str, places: Iterable[tuple[Volume, int]], *, but: Collection[str] = ()
) -> set[str]:
    """Of the pools of directories (volume, inode number), the names of those that show no VM that
    is registered at ``uri``, other than those UUIDs."""
    index = index_of(store)
    names: set[str] = set()
    for volume, ino in places:
        if not index.shows_vms_of(uri, (volume.id, ino), but=but):
            path = volume.path_of(ino)
            if path is not None:
                names.add(directory_pool(PurePosixPath("/"), volume, path).name)
    return names


def wanted(context: Context, host: Host) -> list[Pool]:
    """A pool for each target that it may log in to, each volume, and each directory that holds
    VMs; none while the store is not mounted, for then nothing is presented."""
    root = mount_path(context, host)
    if root is None:
        return []
    pools = pools_of_targets(context.store, host.name, host.uri)
    pools += [directory_pool(root, volume, "/") for volume in context.store.volumes()]
    for volume_id, ino in index_of(context.store).places():
        volume = context.store.volume_by_id(volume_id)
        path = volume.path_of(ino)
        if path is not None:
            pools.append(directory_pool(root, volume, path))
    return sorted({pool.name: pool for pool in pools}.values(), key=lambda pool: pool.name)


def on_pools(uri: str, store: Store, work: Callable[[Pools], R]) -> Callable[[], R]:
    """A call for a thread: connect, work on this store's pools, close."""
    uuid = store.uuid

    def call() -> R:
        with connected(uri) as connection:
            return work(Pools(connection, uuid))

    return HypervisorCall(call)


def answered(work: Callable[[], Any]) -> HypervisorCall:
    """A call of a hypervisor for a thread, given up when nothing comes of it."""
    return HypervisorCall(partial(within, ANSWER_S, work))


# --- commands


def _told(host: Host, seen: Seen) -> dict[str, Any]:
    return {
        "name": host.name,
        "uri": host.uri,
        "mount_path": host.mount_path,
        "nfs_server": host.nfs_server,
        "pools": len(seen.pools),
        "volumes": sum(map(len, seen.pools.values())),
        "rescanned": iso(seen.time_ns) if seen.time_ns else None,
        "error": seen.error,
    }


def host_add(
    context: Context, uri: str, name: str | None, mount: str | None, nfs_server: str | None
) -> Steps[Result]:
    """Note a hypervisor that answers; its pools come with the first rescan."""
    if mount is not None and not mount.startswith("/"):
        raise errors.InvalidArgument(f"the mount path {mount!r} is not absolute; write /DIR")
    try:
        found = yield answered(lambda: _hostname(uri))
    except TOLD_TO_STOP:
        raise
    except errors.RametError as error:
        raise errors.RametError(f"{uri} is not added: {error}") from None
    host = Host(check_name(name or found), uri, mount and str(PurePosixPath(mount)), nfs_server)
    for other in everyone(context.store):
        if host.name == other.name or host.uri == other.uri:
            raise errors.AlreadyExists(f"{other.uri} is host {other.name}; see `ramet host ls`")
    context.store.records.put(HOST + host.name, msgspec.msgpack.encode(host))
    return _told(host, Seen())


def _hostname(uri: str) -> str:
    with connected(uri) as connection, translated(f"cannot ask {uri} for its name"):
        return str(connection.getHostname())


def host_ls(context: Context) -> Result:
    store = context.store
    return [_told(host, seen(store, host.name)) for host in everyone(store)]


def host_rm(context: Context, name: str, force: bool, dry_run: bool) -> Steps[Result]:
    """Forget a host, and remove the pools that this store has made there; no file is touched.

    ``force``: also when it does not answer; then its pools stay.
    """
    host = find(context.store, name)
    reached, dropped = True, []
    try:
        call = on_pools(host.uri, context.store, partial(_drop_ours, dry_run=dry_run))
        dropped = yield answered(call)
    except TOLD_TO_STOP:
        raise
    except errors.RametError as error:
        if not force:
            raise errors.Busy(
                f"host {name}: {error}; with --force it is forgotten and its pools stay"
            ) from None
        reached = False
    if not dry_run:
        remember(context.store, name, None)
        context.store.records.delete(HOST + name)
    return {"removed": name, "answered": reached, "pools": dropped, "dry_run": dry_run}


def _drop_ours(pools: Pools, *, dry_run: bool) -> list[str]:
    found = sorted(pools.ours())
    if not dry_run:
        pools.drop_all(found)
    return found


READS: tuple[Operation, ...] = (host_ls,)
CHANGES: tuple[Operation, ...] = (host_add, host_rm)
