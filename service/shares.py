"""What a store presents to hypervisors besides its mount: the list, and how it is changed.

A command changes the records, makes them durable, and has the presenter make it so; when that
fails, the records are put back as they were and made so again.  In a store that is not mounted
shares are listed and taken away, not added: there is nothing to look at that serves.
"""

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import trio

from engine import Volume, errors
from nfsgw.exports import Right
from service import share_records as records
from service.addresses import Context, parse
from service.gateway import Gateway
from service.operations import Operation, Result
from service.presenter import Presenter
from service.share_plan import FAILED, OFFLINE, State
from service.share_records import Lun, Nfs, Share, Smb, Table
from service.steps import HypervisorCall, Steps, durable

NOT_MOUNTED = State(OFFLINE, "the store is not mounted")
NOT_SERVED = State(OFFLINE, "no daemon serves the store")
KINDS: dict[type, str] = {Lun: "lun", Smb: "smb", Nfs: "nfs"}
Row = dict[str, Any]


# --- what is shared


def status(context: Context) -> dict[str, Any]:
    """What ``status`` says of shares: how many are how, and the daemons that present them."""
    presenter, gateway = context.presenter, context.gateway
    found = [
        *(presenter.states().values() if presenter else ()),
        *(gateway.states().values() if gateway else ()),
    ]
    states = [state.state for state in found]
    return {
        "shares": {state: states.count(state) for state in sorted(set(states))},
        "share_daemons": presenter.processes() if presenter else {},
        "nfs_connections": gateway.connections if gateway else 0,
    }


def state_of(context: Context, share: Share) -> State:
    """How a share is doing."""
    if isinstance(share, Nfs):
        return context.gateway.state(share.key) if context.gateway else NOT_SERVED
    return context.presenter.state(share.key) if context.presenter else NOT_MOUNTED


def share_ls(context: Context, kind: str | None) -> Steps[Result]:
    """All shares, or those of a kind (lun, smb, nfs)."""
    table = Table(context.store)
    found: list[Share] = [*table.luns(), *table.smbs(), *table.exports()]
    found = [share for share in found if kind in (None, KINDS[type(share)])]
    table.check()
    return (yield from rows_of(context, found))


def rows_of(context: Context, shares: list[Share]) -> Steps[list[Row]]:
    """What is shown of each; with who is logged in where that is known."""
    table, presenter = Table(context.store), context.presenter
    keys = {share.target_key for share in shares if isinstance(share, Lun)}
    targets = [target for key in keys if (target := table.target(key)) is not None]
    connected: dict[str, list[str]] = {}
    if presenter is not None:
        connected = yield HypervisorCall(
            lambda: {each.key: presenter.connected(each) for each in targets}
        )
    rows: list[Row] = []
    for share in shares:
        row: Row = {"kind": KINDS[type(share)], "address": address_of(context, share)}
        if isinstance(share, Lun):
            row |= _lun_row(context, table, share)
            row["connected"] = connected.get(share.target_key, [])
        elif isinstance(share, Smb):
            row |= _smb_row(share)
        else:
            row |= _nfs_row(context, share)
        state = state_of(context, share)
        rows.append(row | {"state": state.state, "reason": state.reason})
    return rows


def row_of(context: Context, share: Share) -> Steps[Row]:
    (row,) = yield from rows_of(context, [share])
    return row


def _smb_row(smb: Smb) -> Row:
    return {
        "url": f"smb://{_reachable(smb.listen)}/{smb.name}",
        "access": smb.user or "guest",
        "read_only": smb.read_only,
        "connected": None,  # smbd is not asked
    }


def _nfs_row(context: Context, nfs: Nfs) -> Row:
    clients = [records.client_rule(each) for each in nfs.clients]
    return {
        "url": nfs_url(nfs.listen, address_of(context, nfs)),
        "access": ", ".join(nfs.clients),
        "read_only": all(each.right == Right.READ for each in clients),
        "connected": None,  # NFSv3 knows requests, not who is there
    }


def nfs_url(listen: str, name: str) -> str:
    """As libnfs and QEMU take it; QEMU knows no ports, and asks for them."""
    host, _, port = _reachable(listen).rpartition(":")
    if int(port) == records.NFS_PORT:
        return f"nfs://{host}/{name}"
    return f"nfs://{host}/{name}?nfsport={port}&mountport={port}"


def _lun_row(context: Context, table: Table, lun: Lun) -> Row:
    target = table.target(lun.target_key)
    if target is None:
        return {"url": None, "access": None, "read_only": lun.read_only}
    access = list(target.initiators)
    if target.chap_user:
        access.append(f"CHAP {target.chap_user}")
    iqn = records.iqn(context.store, target)
    return {
        "url": f"iscsi://{_reachable(target.listen)}/{iqn}/{lun.number}",
        "access": ", ".join(access),
        "read_only": lun.read_only,
    }


def _reachable(listen: str) -> str:
    """Where a client connects to; a service that listens everywhere is at the host's name."""
    at = records.parsed(listen)
    if ipaddress.ip_address(at.host).is_unspecified:
        return f"{socket.gethostname()}:{at.port}"
    return listen


def is_at(listen: str, host: str) -> bool:
    """Whether a client that knows a server by ``host``, an address or a name of this machine,
    comes to what listens there."""
    at = ipaddress.ip_address(records.parsed(listen).host)
    with contextlib.suppress(ValueError):
        return at.is_unspecified or at == ipaddress.ip_address(host)
    if host.lower() == "localhost":
        return at.is_unspecified or str(at) in ("127.0.0.1", "::1")
    here = socket.gethostname().lower()
    return not at.is_loopback and host.lower().partition(".")[0] == here.partition(".")[0]


def urls_of(context: Context, volume: Volume, ino: int | None = None) -> list[str]:
    """Where a volume (``ino`` None) or one of its files is presented, whatever its state."""
    table = Table(context.store)
    if ino is None:
        found = [str(_smb_row(smb)["url"]) for smb in table.smbs() if smb.volume_id == volume.id]
        export = table.export(volume)
        return found if export is None else [*found, nfs_url(export.listen, str(volume))]
    if (volume.id, ino) not in context.store.pool.presented:
        return []
    ours = [lun for lun in table.luns() if (lun.volume_id, lun.ino) == (volume.id, ino)]
    return [str(_lun_row(context, table, lun)["url"]) for lun in ours]


def address_of(context: Context, share: Share) -> str:
    """Its name now; its last known one when it has none."""
    with contextlib.suppress(errors.Stale):
        volume = context.store.volume_by_id(share.volume_id)
        if not isinstance(share, Lun):
            return str(volume)
        inode = volume.inode(share.ino)
        path = None if inode.orphan else volume.path_of(share.ino)
        if path is not None:
            return f"{volume}:{path}"
    return share.address if isinstance(share, Lun) else share.volume


def find_lun(context: Context, table: Table, address: str) -> Lun:
    """The LUN of a file, by the file's name now or, when that is gone, by its last one."""
    luns = table.luns()
    with contextlib.suppress(errors.NotFound, errors.NotADirectory):
        volume, path = parse(context, address)
        ino = volume.resolve(path).ino
        for lun in luns:
            if (lun.volume_id, lun.ino) == (volume.id, ino):
                return lun
    for lun in luns:
        if lun.address == address and address_of(context, lun) == address:
            return lun
    raise errors.NotFound(f"{address} is no LUN; see `ramet share lun ls`")


def find_smb(table: Table, name: str) -> Smb:
    for smb in table.smbs():
        if smb.name.lower() == name.lower():
            return smb
    raise errors.NotFound(f"no SMB share {name!r}; see `ramet share smb ls`")


# --- change and settle


def presenter_of(context: Context) -> Presenter:
    if context.presenter is None:
        raise errors.InvalidArgument("the store is not mounted; run `ramet mount DIR` first")
    return context.presenter


def settle(context: Context) -> Steps[None]:
    """Durable first: what is presented must be in the records when the power goes."""
    yield from settled_by(context.presenter)


def settled_by(part: Presenter | Gateway | None) -> Steps[None]:
    """What the records say is durable, and then made so by the part of the daemon that does it."""
    yield durable
    if part is not None:
        yield HypervisorCall(lambda: trio.from_thread.run(part.settle))


def change_shares(
    context: Context, change: Callable[[], None], undo: Callable[[], None],
    failure: Callable[[], str | None], settled: Callable[[Context], Steps[None]] = settle,
) -> Steps[None]:  # fmt: skip
    """Change records and make it so; undone when that fails."""
    change()
    try:
        yield from settled(context)
        _raise(failure())
    except BaseException:
        undo()
        yield from settled(context)
        raise


def _raise(reason: str | None) -> None:
    if reason is not None:
        raise errors.RametError(reason)


def failure_of(context: Context, key: str) -> str | None:
    state = presenter_of(context).state(key)
    return state.reason if state.state == FAILED else None


READS: tuple[Operation, ...] = (share_ls,)
CHANGES: tuple[Operation, ...] = ()
