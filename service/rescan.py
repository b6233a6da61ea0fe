"""``ramet host rescan``: hypervisors see what the store presents now, and what has changed is told.

MISSION.md F1 and F2: new block objects (LUNs, as volumes of iscsi-direct pools) and new files and
shares (volumes of directory pools, sources of netfs pools).
"""

import time
from functools import partial
from typing import Any, NamedTuple

from engine import errors
from hypervisor.connection import connected
from hypervisor.pools import Pool, Pools, Presented, StorageVolume
from service import hosts
from service.addresses import Context
from service.deadline import Tick, beside
from service.hosts import Host, Seen
from service.operations import Operation, Result, iso
from service.steps import HypervisorCall, Steps


class Plan(NamedTuple):
    """What a host should show.  ``mounted``: pools of directories are in it, as far as wanted."""

    host: Host
    pools: list[Pool]
    mounted: bool


class Scan(NamedTuple):
    """What it shows: of each wanted pool (an error where that failed), which of ours went."""

    shown: dict[str, Presented | errors.RametError]
    dropped: dict[str, str]
    sources: list[str]


def host_rescan(context: Context, name: str | None, silent_s: float) -> Steps[Result]:
    """Rescan one host or all, side by side; each that does not answer is named, with its reason.

    ``silent_s``: how long a host may take for one pool.
    """
    store = context.store
    chosen = hosts.everyone(store) if name is None else [hosts.find(store, name)]
    if not chosen:
        raise errors.NotFound("no host is known; add one with `ramet host add URI`")
    mounted = context.mountpoint is not None
    plans = [Plan(host, hosts.wanted(context, host), mounted) for host in chosen]
    works = {plan.host.name: partial(_visit, plan, store.uuid) for plan in plans}
    scans: dict[str, Scan | Exception] = yield HypervisorCall(partial(beside, works, silent_s))
    rows = [_settle(context, plan, scans[plan.host.name]) for plan in plans]
    return {
        "hosts": rows,
        "not_answered": [row["host"] for row in rows if row["error"]],
        "failed_pools": [
            f"{row['host']}: {pool['pool']}"
            for row in rows for pool in row["pools"] if pool["state"] == "failed"
        ],
    }  # fmt: skip


# --- on a thread


def _visit(plan: Plan, store: Any, tick: Tick) -> Scan:
    """Make the host's pools as planned.  RametError when it is lost on the way."""
    with connected(plan.host.uri) as connection:
        pools = Pools(connection, store)
        shown: dict[str, Presented | errors.RametError] = {}
        for pool in plan.pools:
            tick()
            try:
                shown[pool.name] = pools.present(pool)
            except errors.RametError as error:
                if not pools.alive():
                    raise
                shown[pool.name] = error
        tick()
        dropped = {
            name: kind for name, kind in pools.stale(plan.pools).items()
            if (plan.mounted or kind != "dir") and pools.drop(name)
        }  # fmt: skip
        server = plan.host.nfs_server
        tick()
        return Scan(shown, dropped, pools.sources("netfs", server) if server else [])


# --- and back: what is remembered, and what is told


def _settle(context: Context, plan: Plan, scan: Scan | Exception) -> dict[str, Any]:
    store, host = context.store, plan.host
    before = hosts.seen(store, host.name)
    row: dict[str, Any] = {"host": host.name, "uri": host.uri, "mounted": plan.mounted}
    if isinstance(scan, Exception):
        if not isinstance(scan, errors.RametError):
            raise scan
        if host in hosts.everyone(store):
            hosts.remember(store, host.name, Seen(before.pools, before.sources, before.time_ns,
                                                  str(scan)))  # fmt: skip
        return row | {"error": str(scan), "rescanned": None, "pools": [], "netfs": None}
    now = Seen(dict(before.pools), scan.sources, time.time_ns())
    told = [_pool(pool, scan.shown[pool.name], before, now) for pool in plan.pools]
    for name, kind in scan.dropped.items():
        gone = now.pools.pop(name, {})
        told.append(_row(name, kind, None, "gone", gone=sorted(gone)))
    if host in hosts.everyone(store):  # else: removed meanwhile
        hosts.remember(store, host.name, now)
    return row | {
        "error": None,
        "rescanned": iso(now.time_ns),
        "pools": told,
        "netfs": _sources(host, before.sources, scan.sources),
    }


def _row(
    name: str, kind: str, source: str | None, state: str, *, volumes: int = 0,
    new: list[dict[str, Any]] | None = None, changed: list[dict[str, Any]] | None = None,
    gone: list[str] | None = None, note: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "pool": name, "kind": kind, "source": source, "state": state, "volumes": volumes,
        "new": new or [], "changed": changed or [], "gone": gone or [], "note": note,
    }  # fmt: skip


def _pool(
    pool: Pool, shown: Presented | errors.RametError, before: Seen, now: Seen
) -> dict[str, Any]:  # fmt: skip
    """One pool's changes; ``now`` is told what it has."""
    row = partial(_row, kind=pool.kind, source=pool.source)
    if isinstance(shown, errors.RametError):
        return row(pool.name, state="failed", note=str(shown))
    if shown.others is not None:
        note = f"others made this pool; `virsh pool-refresh {shown.others}` reads it again"
        return row(shown.others, state="others", note=note)
    old = {} if shown.new else before.pools.get(shown.name, {})
    now.pools[shown.name] = shown.volumes
    return row(
        shown.name, state="new" if shown.new else "same", volumes=len(shown.volumes),
        new=[_volume(n, v) for n, v in sorted(shown.volumes.items()) if n not in old],
        changed=[
            _volume(n, v) | _volume_before(old[n]) for n, v in sorted(shown.volumes.items())
            if n in old and old[n] != v
        ],
        gone=sorted(old.keys() - shown.volumes.keys()),
    )  # fmt: skip


def _volume(name: str, volume: StorageVolume) -> dict[str, Any]:
    return {"name": name} | volume._asdict()


def _volume_before(volume: StorageVolume) -> dict[str, Any]:
    return {
        "old_capacity_bytes": volume.capacity_bytes,
        "old_allocation_bytes": volume.allocation_bytes,
    }


def _sources(host: Host, before: list[str], now: list[str]) -> dict[str, Any] | None:
    if host.nfs_server is None:
        return None
    return {
        "server": host.nfs_server,
        "sources": now,
        "new": sorted(set(now) - set(before)),
        "gone": sorted(set(before) - set(now)),
    }


READS: tuple[Operation, ...] = ()
CHANGES: tuple[Operation, ...] = (host_rescan,)
