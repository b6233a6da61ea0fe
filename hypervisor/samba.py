"""SMB shares: directories of the mount presented by an smbd of our own.

Its configuration, accounts, locks and caches lie in a directory of ours; the host's Samba, its
users and its ports are left alone.  Samba wants a Unix account for each of its users: they come
from a private passwd file by way of nss_wrapper, so that no account of the host is made or needed.
A user of a share acts on its files as the owner of the volume's root directory.

Clients keep nothing: oplocks and leases are off, because the same files change by other doors.
Secrets reach ``pdbedit`` by its standard input and rest as hashes in a file of the owner only.
"""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from engine import errors
from hypervisor.host_daemon import Deadline, HostDaemon, Listen, kill_lock_holder, point
from hypervisor.smb import negotiate

READY_S = 15.0
WRAPPER = "libnss_wrapper.so"
FIRST_UID = 2_000_000_000  # of accounts that exist in Samba only
LINKS = "shares"
FOLDERS = ("private", "lock", "state", "cache", "ncalrpc", LINKS)
PLACES = (
    ("private", "dir", "private"), ("lock", "directory", "lock"), ("state", "directory", "state"),
    ("cache", "directory", "cache"), ("pid", "directory", "lock"), ("ncalrpc", "dir", "ncalrpc"),
)  # fmt: skip
OPTIONS = {
    "server role": "standalone server",
    "netbios name": "RAMET",
    "workgroup": "RAMET",
    "server string": "Ramet",
    "disable netbios": "yes",
    "server min protocol": "SMB2_10",
    "map to guest": "Bad User",
    "guest account": "nobody",
    "log level": "1",
    "usershare max shares": "0",
    "load printers": "no",
    "printing": "bsd",
    "printcap name": "/dev/null",
    "disable spoolss": "yes",
    "oplocks": "no",
    "level2 oplocks": "no",
    "smb2 leases": "no",
    "strict sync": "yes",
    "store dos attributes": "no",
    "map archive": "no",
    "nt acl support": "no",
    "create mask": "0644",
    "directory mask": "0755",
    "wide links": "no",
}
_SHARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_USER = re.compile(r"[a-z][a-z0-9_.-]{0,30}")
_RESERVED = {"global", "homes", "printers", "ipc", "admin", "print", "root", "nobody"}


@dataclass(frozen=True, slots=True)
class Account:
    """Who may connect; the secret never shows in a message or a log."""

    user: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SmbShare:
    """A directory under a name.  Without an account, anybody who can connect is let in."""

    name: str
    path: Path
    inode: int
    uid: int
    gid: int
    account: Account | None = None
    read_only: bool = False


class Smbd(HostDaemon):
    """One smbd and the shares that were applied to it."""

    name = "smbd"

    def __init__(self, directory: Path, listen: Listen) -> None:
        super().__init__(directory, listen)
        self._accounts: dict[str, Account] = {}
        self._uids: dict[str, int] = {}

    def arguments(self) -> list[str]:
        return [
            "smbd",
            "--foreground",
            "--no-process-group",
            "-s",
            str(self.directory / "smb.conf"),
        ]

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": WRAPPER,
            "NSS_WRAPPER_PASSWD": str(self.directory / "passwd"),
            "NSS_WRAPPER_GROUP": str(self.directory / "group"),
        }

    def prepare(self) -> None:
        """What must be there before ``spawn``."""
        if any(character in str(self.directory) for character in "%\n\"'\\"):
            raise errors.InvalidArgument(
                f"smbd cannot be told of {self.directory}; keep the store under a plainer path"
            )
        for name in (".", *FOLDERS):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        kill_lock_holder(self.directory / "lock" / "smbd.pid")
        (self.directory / "private" / "passdb.tdb").unlink(missing_ok=True)
        self._accounts.clear()
        self._write("smb.conf", configuration(self.directory, self.listen, ()))
        self._write_names({})
        self.check_free()

    def await_ready(self) -> None:
        """Return when it answers an SMB2 NEGOTIATE."""
        deadline = Deadline(READY_S)
        while True:
            try:
                negotiate(self.listen)
            except OSError:
                if not self.alive:
                    raise errors.RametError(f"smbd did not start: {self.complaint()}") from None
                if not deadline.nap():
                    raise errors.RametError("smbd does not answer; see its log") from None
            else:
                return

    def stop(self) -> None:
        """End it and all that serve its clients."""
        if self._process is not None and self.alive:
            self._process.terminate()
            self.wait_ended()
        self.kill()
        self._accounts.clear()

    # --- shares

    def apply(self, wanted: tuple[SmbShare, ...]) -> dict[str, str]:
        """Make it so.  What fails is told by the share's name, and is not presented."""
        failed: dict[str, str] = {}
        good = []
        for share in wanted:
            try:
                self._place(share)
                good.append(share)
            except (errors.RametError, OSError) as error:
                failed[share.name] = str(error)
        self._set_accounts({s.account.user: s.account for s in good if s.account is not None})
        self._write_names({share.uid: share.gid for share in good})
        self._write("smb.conf", configuration(self.directory, self.listen, tuple(good)))
        self._control("reload-config")
        for link in (self.directory / LINKS).iterdir():
            if link.name not in {share.name for share in good}:
                self._control("close-share", link.name)
                link.unlink()
        return failed

    def disconnect(self, name: str) -> None:
        """Close a share for those who use it now; they connect again if they may."""
        self._control("close-share", name)

    def _place(self, share: SmbShare) -> None:
        check_share_name(share.name)
        found = share.path.stat()
        if found.st_ino != share.inode:
            raise errors.Stale(f"{share.path} is another directory by now; it is looked up again")
        link = self.directory / LINKS / share.name
        moved = link.is_symlink() and link.readlink() != share.path
        point(link, share.path)
        if moved:
            self._control("close-share", share.name)

    def _control(self, *words: str) -> None:
        """A message to smbd and all its children."""
        self._run(["smbcontrol", "-s", str(self.directory / "smb.conf"), "smbd", *words])

    def _run(self, command: list[str], told: str = "") -> None:
        try:
            done = subprocess.run(
                command, input=told.encode(), capture_output=True, check=False, timeout=READY_S,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self.environment()},
            )  # fmt: skip
        except FileNotFoundError:
            raise errors.Unsupported(f"{command[0]} is missing; install samba") from None
        except subprocess.TimeoutExpired:
            raise errors.RametError(f"{command[0]} does not come to an end") from None
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise errors.RametError(f"{command[0]} failed: {lines[-1].strip()}")

    # --- accounts

    def _set_accounts(self, wanted: dict[str, Account]) -> None:
        for user in [user for user in self._accounts if user not in wanted]:
            self._passdb("-x", user)
            del self._accounts[user]
        for user in wanted:
            self._uids.setdefault(user, FIRST_UID + len(self._uids))
        self._write_names({})
        for user, account in wanted.items():
            if self._accounts.get(user) != account:
                if user in self._accounts:
                    self._passdb("-x", user)
                    del self._accounts[user]
                self._passdb("-a", user, f"{account.secret}\n{account.secret}\n")
                self._accounts[user] = account

    def _passdb(self, action: str, user: str, told: str = "") -> None:
        assert _USER.fullmatch(user)
        command = ["pdbedit", "-s", str(self.directory / "smb.conf"), action, "-u", user]
        self._run([*command, "-t"] if action == "-a" else command, told)

    def _write_names(self, owners: dict[int, int]) -> None:
        """passwd and group of nss_wrapper: root, nobody, the owners of volumes, the users."""
        users = {"root": (0, 0), "nobody": (65534, 65534)}
        users |= {owner_name(uid): (uid, gid) for uid, gid in owners.items()}
        users |= {user: (uid, uid) for user, uid in self._uids.items()}
        rows = [f"{name}:x:{uid}:{gid}::/:/usr/sbin/nologin" for name, (uid, gid) in users.items()]
        groups = {gid: f"{name}:x:{gid}:" for name, (_, gid) in reversed(users.items())}
        self._write("passwd", "\n".join(rows) + "\n")
        self._write("group", "\n".join(groups.values()) + "\n")

    def _write(self, name: str, text: str) -> None:
        scratch = self.directory / f"{name}.new"
        scratch.write_text(text)
        scratch.chmod(0o600)
        scratch.replace(self.directory / name)

    # --- is it so?

    def probe(self, share: SmbShare) -> None:
        """It negotiates, and the share's directory is where its link leads."""
        negotiate(self.listen)
        if (self.directory / LINKS / share.name).stat().st_ino != share.inode:
            raise errors.Stale(f"share {share.name} leads elsewhere by now; it is looked up again")


def owner_name(uid: int) -> str:
    """The name, in smbd's eyes, of the owner of a volume."""
    return "root" if uid == 0 else f"owner{uid}"


def check_share_name(name: str) -> None:
    """InvalidArgument for a name that SMB or smb.conf would take for something else."""
    if not _SHARE.fullmatch(name) or name.lower().rstrip("$") in _RESERVED:
        raise errors.InvalidArgument(
            f"{name!r} is no share name: use up to 80 letters, digits, '.', '_' and '-'"
        )


def check_user_name(name: str) -> None:
    if not _USER.fullmatch(name) or name in _RESERVED or name.startswith("owner"):
        raise errors.InvalidArgument(
            f"{name!r} is no user name: use up to 31 of a-z, 0-9, '.', '_' and '-', a letter first"
        )


def configuration(directory: Path, listen: Listen, shares: tuple[SmbShare, ...]) -> str:
    """smb.conf(5)."""
    signed = all(share.account is not None for share in shares)  # a guest has no key to sign with
    anywhere = listen.host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
    mask = 128 if ":" in listen.host else 32
    signed = all(share.account is not None for share in shares)  # a guest has no key to sign with
    options = OPTIONS | {
        "smb ports": str(listen.port),
        "bind interfaces only": "no" if anywhere else "yes",
        "interfaces": listen.host if anywhere else f"{listen.host}/{mask}",
        "server signing": "mandatory" if signed else "auto",
        "passdb backend": f"tdbsam:{directory / 'private' / 'passdb.tdb'}",
        "log file": str(directory / "log"),
        **{f"{name} {kind}": str(directory / place) for name, kind, place in PLACES},
    }
    parts = ["[global]", *(f"  {key} = {value}" for key, value in options.items())]
    for share in shares:
        parts += [f"[{share.name}]", *_section(directory, share)]
    return "\n".join(parts) + "\n"


def _section(directory: Path, share: SmbShare) -> list[str]:
    options = {
        "path": directory / LINKS / share.name,
        "read only": "yes" if share.read_only else "no",
        "force user": owner_name(share.uid),
    }
    if share.account is None:
        options |= {"guest ok": "yes", "guest only": "yes"}
    else:
        options |= {"guest ok": "no", "valid users": share.account.user}
    return [f"  {key} = {value}" for key, value in options.items()]
