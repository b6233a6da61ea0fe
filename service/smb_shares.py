"""``ramet share smb``: volumes and snapshots presented by SMB."""

from engine import errors
from service import share_records as records
from service.addresses import Context, parse_volume
from service.operations import Operation, Result
from service.share_records import Smb, Table
from service.shares import change_shares, failure_of, find_smb, presenter_of, row_of, settle
from service.steps import Steps


def share_smb_add(
    context: Context, volume_name: str, name: str | None, listen: str | None, user: str | None,
    secret: str | None, guest: bool, read_only: bool,
) -> Steps[Result]:  # fmt: skip
    """Present a volume as an SMB share; it serves when this returns."""
    presenter_of(context)
    table = Table(context.store)
    table.admit()
    if (user is None) != (secret is None) or (user is None) != guest:
        raise errors.InvalidArgument("say who may connect: --user with --secret-file, or --guest")
    volume = parse_volume(context, volume_name)
    at = str(records.checked_listen(listen, records.SMB_PORT))
    if user is not None and secret is not None:
        records.checked_user(user)
        records.checked_secret(secret, records.SMB_BYTES_MIN, records.SMB_BYTES_MAX)
        for other in table.smbs():
            if (other.listen, other.user) == (at, user) and table.secret(other) != secret:
                raise errors.InvalidArgument(f"{user} has another secret at {at}; choose another")
    smb = Smb(
        records.checked_smb_name(name or volume_name.replace("@", "-")), volume.id, at, user,
        read_only or volume.is_snapshot, str(volume),
    )  # fmt: skip
    if any(other.key == smb.key for other in table.smbs()):
        raise errors.AlreadyExists(f"there is an SMB share {smb.name}; choose another with --name")

    def add() -> None:
        table.put(smb)
        table.set_secret(smb, secret)

    yield from change_shares(
        context, add, lambda: table.delete(smb), lambda: failure_of(context, smb.key)
    )
    return (yield from row_of(context, smb))


def share_smb_rm(context: Context, name: str, dry_run: bool) -> Steps[Result]:
    """Present a volume no more; who is connected is cut off.  The volume stays."""
    table = Table(context.store)
    smb = find_smb(table, name)
    row = yield from row_of(context, smb)
    if dry_run:
        return row | {"dry_run": True}
    table.delete(smb)
    yield from settle(context)
    return row | {"state": "removed", "reason": None, "dry_run": False}


READS: tuple[Operation, ...] = ()
CHANGES: tuple[Operation, ...] = (share_smb_add, share_smb_rm)
