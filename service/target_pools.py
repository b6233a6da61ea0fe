"""iSCSI targets as storage pools of hosts: what `host rescan` looks for besides directories.

A host logs in by a name of its own, ``initiator_of``: a target whose rules name initiators has to
name that one for the host to get a pool.  MISSION.md F1.
"""

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from engine import Store, Volume, errors
from hypervisor import pools
from hypervisor.pools import Pool, pool_name
from service import share_records as records
from service.share_records import Table, Target

LOCAL = {None, "", "localhost", "127.0.0.1", "::1"}


def initiator_of(host: str) -> str:
    """The IQN that a host, by its name here, logs in with."""
    return f"iqn.2026-01.io.ramet:{re.sub(r'[^a-z0-9.-]', '-', host.lower())}"


def pools_of_targets(store: Store, host: str, uri: str) -> list[Pool]:
    """A pool for each target with LUNs that the host reaches and, by its name, may log in to."""
    table, found = Table(store), []
    used = {lun.target_key for lun in table.luns() if lun.online}
    for target in table.targets():
        address = _reached(target, uri)
        if target.key not in used or address is None or not _admitted(target, host):
            continue
        try:
            volume = store.volume_by_id(target.volume_id)
        except errors.Stale:
            continue
        found.append(Pool(_name(volume, target), pools.Target(
            records.iqn(store, target), address, records.parsed(target.listen).port,
            initiator_of(host), target.chap_user, table.secret(target),
        )))  # fmt: skip
    return found


def _name(volume: Volume, target: Target) -> str:
    """An empty part is no directory's name."""
    more = [target.name] if target.name else []
    return pool_name(*str(volume).split("@"), "", "lun", *more)


def _reached(target: Target, uri: str) -> str | None:
    """The address at which a hypervisor finds it; None: ours is not in its reach."""
    listen = ipaddress.ip_address(records.parsed(target.listen).host)
    local = urlsplit(uri).hostname in LOCAL
    if listen.is_loopback:
        return str(listen) if local else None
    if listen.is_unspecified:
        return ("::1" if listen.version == 6 else "127.0.0.1") if local else socket.gethostname()
    return str(listen)


def _admitted(target: Target, host: str) -> bool:
    """Networks are taken to be the host's: only it knows its address there."""
    names = {each for each in target.initiators if each.startswith(("iqn.", "eui.", "naa."))}
    networks = set(target.initiators) - names
    return bool(networks) or initiator_of(host) in names
