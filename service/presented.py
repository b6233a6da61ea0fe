"""What the store presents as disks and shares, as hosts and maps ask for it.

The records are those of ``ramet share`` (service/share_records.py).  A target is a pool of a host
if the host can reach where it listens and may log in; which LUN is which file, only we know.
"""

import ipaddress
import socket
from collections.abc import Iterator

from engine import Inode, Volume, errors
from hypervisor.pools import Pool, Target, pool_name
from hypervisor.sources import is_local
from service import share_records as records
from service.addresses import Context
from service.hosts import Host, initiator_of
from service.share_records import Lun, Table
from service.shares import address_of


def lun_pools(context: Context, host: Host) -> list[Pool]:
    """A pool for each target with LUNs that the host can reach and may use."""
    table = Table(context.store)
    used = {lun.target_key for lun in table.luns() if lun.online}
    pools = []
    for target in table.targets():
        door = _door(host, target.listen)
        if target.key not in used or door is None or not _may_log_in(host, target):
            continue
        try:
            volume = context.store.volume_by_id(target.volume_id)
        except errors.Stale:
            continue
        place = Target(
            records.iqn(context.store, target), *door, initiator_of(host), target.chap_user,
            table.secret(target),
        )  # fmt: skip
        words = [str(volume), "", "lun", *([target.name] if target.name else [])]
        pools.append(Pool(pool_name(*words), place))
    return pools


def _door(host: Host, listen: str) -> tuple[str, int] | None:
    """Where a host connects to; None: another machine's loopback is out of its reach."""
    at = records.parsed(listen)
    address = ipaddress.ip_address(at.host)
    local = is_local(host.uri)
    if address.is_loopback and not local:
        return None
    if not address.is_unspecified:
        return at.host, at.port
    if not local:
        return socket.gethostname(), at.port
    return "127.0.0.1" if address.version == 4 else "::1", at.port


def _may_log_in(host: Host, target: records.Target) -> bool:
    """Not when only others are named; where networks are, logging in tells."""
    rules = target.initiators
    return any(
        each in (records.ANYBODY, initiator_of(host)) or _is_network(each) for each in rules
    )  # fmt: skip


def _is_network(rule: str) -> bool:
    try:
        ipaddress.ip_network(rule)
    except ValueError:
        return False
    return True


def files_of_target(context: Context, pool: Pool) -> dict[str, str]:
    """The addresses of a target's LUNs, by the names of libvirt's volumes of them."""
    if not isinstance(pool.place, Target):
        return {}
    table = Table(context.store)
    return {
        f"unit:0:0:{lun.number}": address_of(context, lun)
        for target in table.targets() if records.iqn(context.store, target) == pool.place.iqn
        for lun in table.luns() if lun.target_key == target.key
    }  # fmt: skip


def file_of_lun(context: Context, iqn: str, number: int) -> tuple[Volume, Inode] | None:
    """The file behind a LUN of ours; None for another's.  Stale when it is gone."""
    lun = Table(context.store).lun_at(iqn, number)
    if lun is None:
        return None
    volume = context.store.volume_by_id(lun.volume_id)
    return volume, volume.file(lun.ino)


def urls_of_files(context: Context, volume: Volume) -> dict[int, list[str]]:
    """The LUNs of a volume's files, by inode number."""
    table = Table(context.store)
    found: dict[int, list[str]] = {}
    for lun in table.luns():
        if lun.volume_id == volume.id:
            found.setdefault(lun.ino, []).extend(_url(context, table, lun))
    return found


def _url(context: Context, table: Table, lun: Lun) -> Iterator[str]:
    target = table.target(lun.target_key)
    if target is not None:
        yield f"iscsi://{target.listen}/{records.iqn(context.store, target)}/{lun.number}"


def urls_of_volume(context: Context, volume: Volume) -> list[str]:
    """The SMB shares of a volume."""
    shares = Table(context.store).smbs()
    return [f"smb://{each.listen}/{each.name}" for each in shares if each.volume_id == volume.id]
