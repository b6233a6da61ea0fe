"""``ramet share lun``: files presented as disks.

The rules - where a target listens, who may log in - are those of all LUNs behind it.  A LUN that
joins a target takes its rules as they are; it never changes who may use the others.
"""

import contextlib
import ipaddress

import msgspec

from engine import Volume, errors
from engine.inode import Inode
from hypervisor import tgt
from service import share_records as records
from service.addresses import Context, parse
from service.operations import Operation, Result
from service.share_records import Lun, Table, Target
from service.shares import (
    address_of,
    change_shares,
    failure_of,
    find_lun,
    presenter_of,
    row_of,
    settle,
)
from service.steps import HypervisorCall, Steps

NAME_BYTES_MAX = 1000  # of a LUN's last known name: a record has a page


def share_lun_show(context: Context, address: str) -> Steps[Result]:
    """One LUN with what an initiator sees of it."""
    table = Table(context.store)
    lun = find_lun(context, table, address)
    row = yield from row_of(context, lun)
    target = table.target(lun.target_key)
    size = None
    with contextlib.suppress(errors.Stale):
        size = context.store.volume_by_id(lun.volume_id).inode(lun.ino).size
    return row | {
        "iqn": None if target is None else records.iqn(context.store, target),
        "lun": lun.number,
        "size_bytes": size,
        "serial": records.serial(context.store, lun.volume_id, lun.ino),
        "naa": records.naa(context.store, lun.volume_id, lun.ino),
    }


def share_lun_add(
    context: Context, address: str, target_name: str, listen: str | None, initiators: list[str],
    chap_user: str | None, chap_secret: str | None, read_only: bool, size_bytes: int | None,
) -> Steps[Result]:  # fmt: skip
    """Present a file as a disk; it serves when this returns."""
    presenter_of(context)
    table = Table(context.store)
    table.admit()
    if (chap_user is None) != (chap_secret is None):
        raise errors.InvalidArgument("CHAP takes both a user and a secret")
    path = parse(context, address).path
    volume, inode, made = _lun_file(context, address, size_bytes)
    try:
        key = Target(volume.id, records.checked_target_name(target_name), "", []).key
        old = table.target(key)
        target = _wanted_target(old, volume, target_name, listen, initiators, chap_user)
        secret = table.secret(old) if old is not None and chap_secret is None else chap_secret
        _check_same_target(table, old, target, secret)
        _check_account(table, target, secret)
        lun = _new_lun(table, volume, inode, target, read_only)
        yield from _add_lun(context, table, lun, target, secret, new=old is None)
    except BaseException:
        if made:
            _unmake(volume, path, inode)
        raise
    return (yield from share_lun_show(context, address))


def _unmake(volume: Volume, path: str, made: Inode) -> None:
    """Remove the file that was made, not one that somebody has put in its place meanwhile."""
    with contextlib.suppress(errors.NotFound, errors.NotADirectory, errors.Stale):
        parent, name = volume.resolve_parent(path)
        found = volume.lookup(parent.ino, name)
        if (found.ino, found.generation) == (made.ino, made.generation):
            volume.unlink(parent.ino, name)


def _new_lun(table: Table, volume: Volume, inode: Inode, target: Target, read_only: bool) -> Lun:
    name = f"{volume}:{volume.path_of(inode.ino)}".encode(errors="backslashreplace")[
        :NAME_BYTES_MAX
    ]
    lun = Lun(
        volume.id, inode.ino, target.name, _free_number(table, target),
        read_only or volume.is_snapshot, True, name.decode(errors="ignore"),
    )  # fmt: skip
    if any(each.key == lun.key for each in table.luns()):
        raise errors.AlreadyExists(f"{lun.address} is a LUN already; see `ramet share lun show`")
    return lun


def _add_lun(
    context: Context, table: Table, lun: Lun, target: Target, secret: str | None, *, new: bool
) -> Steps[None]:
    def add() -> None:
        if new:
            table.put(target)
            table.set_secret(target, secret)
        table.put(lun)

    def undo() -> None:
        table.delete(lun)
        if new and not any(each.target_key == target.key for each in table.luns()):
            table.delete(target)

    yield from change_shares(context, add, undo, lambda: failure_of(context, lun.key))


def _lun_file(
    context: Context, address: str, size_bytes: int | None
) -> tuple[Volume, Inode, bool]:  # fmt: skip
    """The file, made sparse when a size was given; whether it was made."""
    volume, path = parse(context, address)
    if size_bytes is not None:
        _check_size(size_bytes)
        parent, name = volume.resolve_parent(path)
        inode = volume.create(parent.ino, name, 0o600, 0, 0)
        volume.setattr(inode.ino, size=size_bytes)
        return volume, volume.inode(inode.ino), True
    inode = volume.file(volume.resolve(path).ino)
    _check_size(inode.size)
    return volume, inode, False


def _check_size(size_bytes: int) -> None:
    if size_bytes <= 0 or size_bytes % tgt.BLOCK_BYTES:
        raise errors.InvalidArgument(
            f"a LUN of {size_bytes} bytes; its size is a multiple of {tgt.BLOCK_BYTES}, not 0"
        )


def _wanted_target(
    old: Target | None, volume: Volume, name: str, listen: str | None,
    initiators: list[str], chap_user: str | None,
) -> Target:  # fmt: skip
    """What was asked for; what was not, as the target that is there has it, or the defaults."""
    if old is not None and listen is None:
        at = records.parsed(old.listen)
    else:
        at = records.checked_listen(listen, records.ISCSI_PORT)
    rules = records.checked_initiators(initiators, at)
    user = None if chap_user is None else records.checked_user(chap_user)
    if old is not None:
        return msgspec.structs.replace(
            old, listen=str(at), initiators=rules or old.initiators, chap_user=user or old.chap_user
        )
    if not rules and user is None and not ipaddress.ip_address(at.host).is_loopback:
        raise errors.InvalidArgument(
            f"everybody who reaches {at} could log in; say who may with --initiator or --chap-user"
        )
    return Target(volume.id, name, str(at), rules or [records.ANYBODY], user)


def _check_same_target(
    table: Table, old: Target | None, target: Target, secret: str | None
) -> None:  # fmt: skip
    """A LUN does not change who may use those that are there."""
    if old is not None and (target != old or secret != table.secret(old)):
        raise errors.InvalidArgument(
            "the volume's LUNs have other rules; use --target NAME for a door of its own, or "
            "change the rules of all with `ramet share lun set`"
        )


def _check_account(table: Table, target: Target, secret: str | None) -> None:
    if secret is not None:
        records.checked_secret(secret, records.CHAP_BYTES_MIN, records.CHAP_BYTES_MAX)
    for other in table.targets():
        same_door = other.key != target.key and other.listen == target.listen
        same_user = target.chap_user is not None and other.chap_user == target.chap_user
        if same_door and same_user and table.secret(other) != secret:
            raise errors.InvalidArgument(
                f"{other.chap_user} has another secret at {other.listen}; choose another user"
            )


def _free_number(table: Table, target: Target) -> int:
    taken = {lun.number for lun in table.luns() if lun.target_key == target.key}
    for number in range(1, tgt.LUNS_MAX + 1):
        if number not in taken:
            return number
    raise errors.InvalidArgument(
        f"a target has at most {tgt.LUNS_MAX} LUNs; use --target NAME for another"
    )


def share_lun_set(
    context: Context, address: str, listen: str | None, initiators: list[str],
    chap_user: str | None, chap_secret: str | None, no_chap: bool,
) -> Steps[Result]:  # fmt: skip
    """Change the rules of a LUN's target: those of all LUNs behind it.  All log in again."""
    table = Table(context.store)
    table.admit()
    if (chap_user is None) != (chap_secret is None) or (no_chap and chap_user is not None):
        raise errors.InvalidArgument("CHAP takes both a user and a secret, or --no-chap alone")
    lun = find_lun(context, table, address)
    old = table.target(lun.target_key)
    if old is None:
        raise errors.NotFound(f"the target of {address} is gone; remove the LUN and add it again")
    volume = context.store.volume_by_id(lun.volume_id)
    new = _wanted_target(old, volume, old.name, listen, initiators, chap_user)
    before = table.secret(old)
    secret = chap_secret or before
    if no_chap:
        new, secret = msgspec.structs.replace(new, chap_user=None), None
    if new.initiators == [records.ANYBODY] and new.chap_user is None:
        at = records.parsed(new.listen)
        if not ipaddress.ip_address(at.host).is_loopback and initiators != [records.ANYBODY]:
            raise errors.InvalidArgument(
                f"everybody who reaches {at} could log in; say --initiator ALL if that is meant"
            )
    _check_account(table, new, secret)

    def put(target: Target, its_secret: str | None) -> None:
        table.put(target)
        table.set_secret(target, its_secret)

    yield from change_shares(
        context, lambda: put(new, secret), lambda: put(old, before),
        lambda: _target_failure(context, new),
    )  # fmt: skip
    return (yield from share_lun_show(context, address))


def _target_failure(context: Context, target: Target | None) -> str | None:
    """Why it is not as its record says; None when it is, or nothing is presented."""
    if target is None or context.presenter is None:
        return None
    return context.presenter.target_failure(target)


def _check_unused(
    context: Context, table: Table, lun: Lun, force: bool
) -> Steps[None]:  # fmt: skip
    """Busy while somebody is logged in to its target, unless forced."""
    target = table.target(lun.target_key)
    presenter = context.presenter
    if force or target is None or presenter is None or not lun.online:
        return
    users = yield HypervisorCall(lambda: presenter.connected(target))
    if users:
        raise errors.Busy(
            f"{', '.join(users)} is logged in to the target of {address_of(context, lun)}; log out "
            "there, or force"
        )


def _check_still(table: Table, lun: Lun) -> None:
    """Busy when somebody else has changed the LUN while its users were looked for."""
    if lun not in table.luns():
        raise errors.Busy(f"somebody else changes the LUN {lun.address} just now; look, try again")


def share_lun_online(context: Context, address: str, online: bool, force: bool) -> Steps[Result]:
    """Take a LUN from its initiators, or give it back to them."""
    table = Table(context.store)
    lun = find_lun(context, table, address)
    if not online:
        yield from _check_unused(context, table, lun, force)
        _check_still(table, lun)
    new = msgspec.structs.replace(lun, online=online)

    def failure() -> str | None:
        if online and context.presenter is not None:
            return failure_of(context, lun.key)
        return _target_failure(context, table.target(lun.target_key))

    yield from change_shares(context, lambda: table.put(new), lambda: table.put(lun), failure)
    return (yield from share_lun_show(context, address))


def share_lun_rm(context: Context, address: str, force: bool, dry_run: bool) -> Steps[Result]:
    """Present a file no more; the file stays.  Its target goes with its last LUN."""
    table = Table(context.store)
    lun = find_lun(context, table, address)
    row = yield from row_of(context, lun)
    if dry_run:
        return row | {"dry_run": True}
    yield from _check_unused(context, table, lun, force)
    _check_still(table, lun)
    target = table.target(lun.target_key)
    others = [each for each in table.luns() if each.target_key == lun.target_key and each != lun]
    secret = None if target is None else table.secret(target)
    last = target is not None and not others

    def remove() -> None:
        table.delete(lun)
        if target is not None and last:
            table.delete(target)

    def undo() -> None:
        table.put(lun)
        if target is not None and last:
            table.put(target)
            table.set_secret(target, secret)

    def failure() -> str | None:
        return _target_failure(context, target)

    yield from change_shares(context, remove, undo, failure)
    return row | {"state": "removed", "reason": None, "dry_run": False}


def share_lun_resize(context: Context, address: str, size_bytes: int) -> Steps[Result]:
    """Grow a LUN and its file.  Its initiators log in again, and see it when they rescan."""
    table = Table(context.store)
    lun = find_lun(context, table, address)
    _check_size(size_bytes)
    volume = context.store.volume_by_id(lun.volume_id)
    size = volume.file(lun.ino).size
    if size_bytes < size:
        raise errors.InvalidArgument(
            f"the LUN has {size} bytes; it does not shrink, its guest would lose data"
        )
    volume.setattr(lun.ino, size=size_bytes)
    yield from settle(context)
    if context.presenter is not None and (reason := failure_of(context, lun.key)):
        raise errors.PartlyDone(f"the file has grown, but the LUN is not served: {reason}")
    return (yield from share_lun_show(context, address))


READS: tuple[Operation, ...] = (share_lun_show,)
CHANGES: tuple[Operation, ...] = (
    share_lun_add, share_lun_set, share_lun_online, share_lun_rm, share_lun_resize,
)  # fmt: skip
