"""``ramet share nfs``: volumes and snapshots exported by NFS, from the daemon itself."""

from engine import errors
from service import share_records as records
from service.addresses import Context, parse_volume
from service.gateway import Gateway
from service.operations import Operation, Result
from service.share_plan import FAILED
from service.share_records import Nfs, Table
from service.shares import change_shares, row_of, settled_by
from service.steps import Steps


def share_nfs_add(
    context: Context, volume_name: str, listen: str | None, clients: list[str]
) -> Steps[Result]:
    """Export a volume or snapshot; it serves when this returns."""
    gateway = _gateway_of(context)
    table = Table(context.store)
    table.admit()
    volume = parse_volume(context, volume_name)
    if table.export(volume) is not None:
        raise errors.AlreadyExists(
            f"{volume} is exported; `ramet share nfs rm {volume}` first, to export it anew"
        )
    at = records.checked_listen(listen, records.NFS_PORT)
    rules = records.checked_clients(clients, at)
    table.make_handle_key()
    nfs = Nfs(table.take_export_number(), volume.id, str(at), rules, str(volume))

    def failure() -> str | None:
        state = gateway.state(nfs.key)
        return state.reason if state.state == FAILED else None

    yield from change_shares(
        context, lambda: table.put(nfs), lambda: table.delete(nfs), failure, settle
    )
    return (yield from row_of(context, nfs))


def share_nfs_rm(context: Context, volume_name: str, dry_run: bool) -> Steps[Result]:
    """Export a volume no more: from now on its clients' handles are stale.  The volume stays."""
    table = Table(context.store)
    nfs = table.export(parse_volume(context, volume_name))
    if nfs is None:
        raise errors.NotFound(f"{volume_name} is not exported; see `ramet share nfs ls`")
    row = yield from row_of(context, nfs)
    if dry_run:
        return row | {"dry_run": True}
    table.delete(nfs)
    yield from settle(context)
    return row | {"state": "removed", "reason": None, "dry_run": False}


def _gateway_of(context: Context) -> Gateway:
    if context.gateway is None:
        raise errors.InvalidArgument(
            "no daemon serves the store; run `ramet serve` or `ramet mount DIR` first"
        )
    return context.gateway


def settle(context: Context) -> Steps[None]:
    """Durable first: what is exported must be in the records when the power goes."""
    yield from settled_by(context.gateway)


READS: tuple[Operation, ...] = ()
CHANGES: tuple[Operation, ...] = (share_nfs_add, share_nfs_rm)
