"""``ramet host rescan``: hypervisors see what the store presents now, and what has changed is told.

MISSION.md F1 and F2: new block objects (LUNs, as volumes of iscsi-direct pools) and new files and
shares (volumes of directory pools, sources of netfs pools).
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from engine import errors
from hypervisor.connection import connected
from hypervisor.pools import Pool, Pools, Presented, StorageVolume, possible_names
from service import hosts
from service.addresses import Context
from service.deadline import Tick, beside
from service.hosts import Host, Seen
from service.operations import Operation, Result, iso
from service.steps import HypervisorCall, Steps

LISTED_MAX = 20_000  # changes in one answer; all are counted
Row = dict[str, Any]


class Plan(NamedTuple):
    """What a host should show.  Not ``mounted``: nothing is presented, and its pools are left."""

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
        "unlisted": _limit(rows),
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
            if plan.mounted and pools.drop(name)
        }  # fmt: skip
        server = plan.host.nfs_server
        tick()
        return Scan(shown, dropped, pools.sources("netfs", server) if server else [])


# --- and back: what is remembered, and what is told


def _settle(context: Context, plan: Plan, scan: Scan | Exception) -> Row:
    store, host = context.store, plan.host
    before = hosts.seen(store, host.name)
    row: Row = {"host": host.name, "uri": host.uri, "mounted": plan.mounted}
    if isinstance(scan, Exception):
        if not isinstance(scan, errors.RametError):
            raise scan
        if host in hosts.everyone(store):
            hosts.remember(store, host.name, Seen(before.pools, before.sources, before.time_ns,
                                                  str(scan)))  # fmt: skip
        return row | {"error": str(scan), "rescanned": None, "pools": [], "netfs": None}
    now = Seen({} if plan.mounted else dict(before.pools), scan.sources, time.time_ns())
    told = [_pool(context, pool, scan.shown[pool.name], before, now) for pool in plan.pools]
    for name in before.pools.keys() | scan.dropped.keys():
        if name not in now.pools:
            gone = sorted(before.pools.get(name, {}))
            told.append(_row(name, scan.dropped.get(name), None, "gone", gone=gone))
    if host in hosts.everyone(store):  # else: removed meanwhile
        hosts.remember(store, host.name, now)
    return row | {
        "error": None,
        "rescanned": iso(now.time_ns),
        "pools": told,
        "netfs": _sources(host, before.sources, scan.sources),
    }


def _row(
    name: str, kind: str | None, source: str | None, state: str, *, volumes: int = 0,
    new: Sequence[Row] = (), changed: Sequence[Row] = (), gone: Sequence[str] = (),
    note: str | None = None,
) -> Row:  # fmt: skip
    return {
        "pool": name, "kind": kind, "source": source, "state": state, "volumes": volumes,
        "counts": {"new": len(new), "changed": len(changed), "gone": len(gone)},
        "new": list(new), "changed": list(changed), "gone": list(gone), "note": note,
    }  # fmt: skip


def _limit(hosts_told: list[Row]) -> int:
    """Cut the lists of changes to what one answer can carry; how many are not listed."""
    left, cut = LISTED_MAX, 0
    for pool in (pool for host in hosts_told for pool in host["pools"]):
        for key in ("new", "changed", "gone"):
            cut += max(0, len(pool[key]) - left)
            pool[key] = pool[key][:left]
            left -= len(pool[key])
    return cut


def _pool(
    context: Context, pool: Pool, shown: Presented | errors.RametError, before: Seen, now: Seen
) -> Row:  # fmt: skip
    """One pool's changes; ``now`` is told what it has, or had when it cannot be read."""
    row = partial(_row, kind=pool.kind, source=pool.source)
    if isinstance(shown, errors.RametError):
        for name in possible_names(pool.name, context.store.uuid):
            if name in before.pools:
                now.pools[name] = before.pools[name]
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


def _volume(name: str, volume: StorageVolume) -> Row:
    return {"name": name} | volume._asdict()


def _volume_before(volume: StorageVolume) -> Row:
    return {
        "old_capacity_bytes": volume.capacity_bytes,
        "old_allocation_bytes": volume.allocation_bytes,
    }


def _sources(host: Host, before: list[str], now: list[str]) -> Row | None:
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
