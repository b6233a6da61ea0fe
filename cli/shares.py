"""``ramet share``: what a store presents besides its mount."""

import click

from cli import nfs_shares
from cli.later import luns, shares, smb_shares
from cli.running import DRY_RUN, SIZE, Branch, address, run, small_text
from engine import errors

FORCE = click.option("--force", is_flag=True, help="Also while an initiator is logged in.")
LISTEN = click.option("--listen", help="ADDRESS[:PORT]  [default: 127.0.0.1, the usual port]")
INITIATOR = click.option(
    "--initiator", "initiators", multiple=True,
    help="Who may log in: an iqn, a network, ALL; any one of several.",
)  # fmt: skip
CHAP_USER = click.option("--chap-user", help="Who logs in has to prove to be this user.")
CHAP_SECRET = click.option("--chap-secret-file", help="A file with the user's secret.")


def secret(path: str | None) -> str | None:
    """A secret in a file, without the end of its line: never an argument, which all can read."""
    text = small_text(path)
    if text is None:
        return None
    line = text.removesuffix("\n").removesuffix("\r")
    if not line or "\n" in line:
        raise errors.InvalidArgument(
            f"{path} has more than one line, or none; put the secret there"
        )
    return line


@click.group(cls=Branch)
def share() -> None:
    """Shares: files presented as iSCSI disks, volumes presented by SMB or NFS."""


share.add_command(nfs_shares.nfs)


@share.command("ls")
def share_ls() -> None:
    """List all shares and their state.  Example: ramet share ls --json"""
    run(shares.share_ls, None)


@share.group("lun", cls=Branch)
def lun() -> None:
    """Files presented as disks over iSCSI."""


@lun.command("add")
@click.argument("file")
@click.option("--size", type=SIZE, help="Make FILE, sparse, of this size.")
@INITIATOR
@CHAP_USER
@CHAP_SECRET
@click.option("--read-only", is_flag=True, help="Initiators cannot write.")
@click.option("--target", "target", default="", help="Another target of the volume, by name.")
@LISTEN
def lun_add(
    file: str, size: int | None, initiators: tuple[str, ...], chap_user: str | None,
    chap_secret_file: str | None, read_only: bool, target: str, listen: str | None,
) -> None:  # fmt: skip
    """Present a file as a disk.  All LUNs of a target have the same rules.

    Example: ramet share lun add lab:/web.raw --initiator 10.0.0.0/24 --listen 10.0.0.1
    """
    run(
        luns.share_lun_add, address(file), target, listen, list(initiators), chap_user,
        secret(chap_secret_file), read_only, size,
    )  # fmt: skip


@lun.command("ls")
def lun_ls() -> None:
    """List LUNs.  Example: ramet share lun ls"""
    run(shares.share_ls, "lun")


@lun.command("show")
@click.argument("file")
def lun_show(file: str) -> None:
    """One LUN: its address, identity, who is logged in.  Example: ramet share lun show lab:/a"""
    run(luns.share_lun_show, address(file))


@lun.command("set")
@click.argument("file")
@INITIATOR
@CHAP_USER
@CHAP_SECRET
@click.option("--no-chap", is_flag=True, help="Ask for no secret any more.")
@LISTEN
def lun_set(
    file: str, initiators: tuple[str, ...], chap_user: str | None, chap_secret_file: str | None,
    no_chap: bool, listen: str | None,
) -> None:  # fmt: skip
    """Change the rules of a LUN's target, which are those of all LUNs behind it.

    Example: ramet share lun set lab:/web.raw --initiator iqn.2004-10.com.example:host
    """
    run(
        luns.share_lun_set, address(file), listen, list(initiators), chap_user,
        secret(chap_secret_file), no_chap,
    )  # fmt: skip


@lun.command("offline")
@click.argument("file")
@FORCE
def lun_offline(file: str, force: bool) -> None:
    """Take a LUN from its initiators, for now.  Example: ramet share lun offline lab:/a"""
    run(luns.share_lun_online, address(file), False, force)


@lun.command("online")
@click.argument("file")
def lun_online(file: str) -> None:
    """Give it back to them.  Example: ramet share lun online lab:/a"""
    run(luns.share_lun_online, address(file), True, False)


@lun.command("resize")
@click.argument("file")
@click.argument("size", type=SIZE)
def lun_resize(file: str, size: int) -> None:
    """Grow a LUN; initiators rescan.  Example: ramet share lun resize lab:/a 20G"""
    run(luns.share_lun_resize, address(file), size)


@lun.command("rm")
@click.argument("file")
@FORCE
@DRY_RUN
def lun_rm(file: str, force: bool, dry_run: bool) -> None:
    """Present a file no more; the file stays.  Example: ramet share lun rm lab:/web.raw"""
    run(luns.share_lun_rm, address(file), force, dry_run)


@share.group("smb", cls=Branch)
def smb() -> None:
    """Volumes presented by SMB (CIFS)."""


@smb.command("add")
@click.argument("volume")
@click.option("--name", help="The share's name  [default: the volume's]")
@click.option("--user", help="Who may connect.")
@click.option("--secret-file", help="A file with the user's secret.")
@click.option("--guest", is_flag=True, help="Everybody may connect, without a secret.")
@click.option("--read-only", is_flag=True, help="Clients cannot write.")
@LISTEN
def smb_add(
    volume: str, name: str | None, user: str | None, secret_file: str | None, guest: bool,
    read_only: bool, listen: str | None,
) -> None:  # fmt: skip
    """Present a volume or VOL@SNAP.  Example: ramet share smb add lab --user eve --secret-file s"""
    run(smb_shares.share_smb_add, volume, name, listen, user, secret(secret_file), guest, read_only)


@smb.command("ls")
def smb_ls() -> None:
    """List SMB shares.  Example: ramet share smb ls"""
    run(shares.share_ls, "smb")


@smb.command("rm")
@click.argument("name")
@DRY_RUN
def smb_rm(name: str, dry_run: bool) -> None:
    """Present a volume no more, by the share's name.  Example: ramet share smb rm lab"""
    run(smb_shares.share_smb_rm, name, dry_run)


COMMANDS = (share,)
