"""What is shared, as the store keeps it: small records under ``share/``, and their secrets apart.

A LUN is a file by its volume's number and its inode's, neither of which is ever used again: it
follows renames, and a clone of the file is another disk.  A target is a volume's door: where it
listens and who may log in are the same for all LUNs behind it; a volume may have several, by name.
An SMB share is a volume under a name; an NFS export is a volume under its own name.  Exports have
numbers that are in clients' handles: none is given twice, also not after its export has gone.

Secrets are records of their own (``share/secret/``), so that nothing that prints or copies a share
can print them.  The store's directory is its owner's only, as are all files in it.
"""

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from engine import Store, Volume, errors
from hypervisor.host_daemon import Listen
from hypervisor.samba import check_share_name, check_user_name
from nfsgw.exports import Right, Rule
from nfsgw.handles import KEY_BYTES

LUN, TARGET, SMB, SECRET = "share/lun/", "share/target/", "share/smb/", "share/secret/"
NFS, NFS_NEXT, NFS_KEY = "share/nfs/", "share/nfs-next", SECRET + "nfs-handles"
ISCSI_PORT, SMB_PORT, NFS_PORT = 3260, 445, 2049
CHAP_BYTES_MIN, CHAP_BYTES_MAX = 12, 128  # RFC 7143, 9.2.1: no less than 96 bits
SMB_BYTES_MIN, SMB_BYTES_MAX = 8, 127
NAA_PREFIX = "602726d"  # NAA 6, a locally administered OUI; 25 digits are ours
INITIATORS_MAX = 16  # they are in one record, which has a page
CLIENTS_MAX = 48  # likewise
EXPORT_NUMBER_MAX = (1 << 32) - 1
ANYBODY = "ALL"
RIGHTS = {"ro": Right.READ, "rw": Right.WRITE, "root": Right.ROOT}
LOOPBACK = ("127.0.0.0/8:rw", "::1/128:rw")
_TARGET = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_INITIATOR = re.compile(r"(iqn|eui|naa)\.[a-z0-9:.-]{1,200}")
R = TypeVar("R")


class Target(msgspec.Struct, frozen=True):
    """A door to LUNs of a volume: ``listen`` is ADDRESS:PORT, ``initiators`` names and networks."""

    volume_id: int
    name: str
    listen: str
    initiators: list[str]
    chap_user: str | None = None

    @property
    def key(self) -> str:
        return f"{TARGET}{self.volume_id}/{self.name}"


class Lun(msgspec.Struct, frozen=True):
    """A file behind a target.  ``address`` is its last known name, for when it has none."""

    volume_id: int
    ino: int
    target: str
    number: int
    read_only: bool
    online: bool
    address: str

    @property
    def key(self) -> str:
        return f"{LUN}{self.volume_id}/{self.ino}"

    @property
    def target_key(self) -> str:
        return f"{TARGET}{self.volume_id}/{self.target}"


class Smb(msgspec.Struct, frozen=True):
    """A volume under a name; ``user`` None: guests are let in.  ``volume``: its last known name."""

    name: str
    volume_id: int
    listen: str
    user: str | None
    read_only: bool
    volume: str

    @property
    def key(self) -> str:
        return f"{SMB}{self.name.lower()}"


class Nfs(msgspec.Struct, frozen=True):
    """An exported volume or snapshot.  ``clients``: NETWORK:RIGHT, a right being ro, rw or root;
    ``volume``: its last known name."""

    number: int
    volume_id: int
    listen: str
    clients: list[str]
    volume: str

    @property
    def key(self) -> str:
        return f"{NFS}{self.volume_id}"


Share = Lun | Smb | Nfs


class Table:
    """The records of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records = store.records
        self._damage: errors.Corrupt | None = None

    def check(self) -> None:
        """Corrupt when a record that was looked at is damaged."""
        if self._damage is not None:
            raise self._damage

    def _all(self, prefix: str, kind: type[R]) -> Iterator[R]:
        """All that can be read; ``check`` raises for the others."""
        for key, raw in self._records.items(prefix):
            try:
                yield _decode(key, raw, kind)
            except errors.Corrupt as error:
                self._damage = error

    def luns(self) -> list[Lun]:
        return sorted(self._all(LUN, Lun), key=lambda lun: (lun.volume_id, lun.target, lun.number))

    def targets(self) -> list[Target]:
        return list(self._all(TARGET, Target))

    def smbs(self) -> list[Smb]:
        return list(self._all(SMB, Smb))

    def exports(self) -> list[Nfs]:
        return sorted(self._all(NFS, Nfs), key=lambda nfs: nfs.number)

    def export(self, volume: Volume) -> Nfs | None:
        key = f"{NFS}{volume.id}"
        raw = self._records.get(key)
        return None if raw is None else _decode(key, raw, Nfs)

    def take_export_number(self) -> int:
        """The next number of an export, which nothing will get again."""
        raw = self._records.get(NFS_NEXT)
        number = 1 if raw is None else _decode(NFS_NEXT, raw, int)
        number = max([number, *(nfs.number + 1 for nfs in self.exports())])
        if number > EXPORT_NUMBER_MAX:
            raise errors.NoSpace("the store has had 2^32 exports; no more can be numbered")
        self._records.put_admitted(NFS_NEXT, msgspec.msgpack.encode(number + 1))
        return number

    def handle_key(self) -> bytes | None:
        """What file handles are signed with; None before there is an export."""
        return self._records.get(NFS_KEY)

    def make_handle_key(self) -> None:
        """Once a store, or again when it is damaged and no export uses it."""
        if len(self.handle_key() or b"") != KEY_BYTES and not self.exports():
            self._records.put_admitted(NFS_KEY, secrets.token_bytes(KEY_BYTES))

    def target(self, key: str) -> Target | None:
        raw = self._records.get(key)
        return None if raw is None else _decode(key, raw, Target)

    def lun_at(self, name: str, number: int) -> Lun | None:
        """The LUN of a number behind the target of an IQN."""
        for lun in self.luns():
            target = self.target(lun.target_key)
            if lun.number == number and target is not None and iqn(self._store, target) == name:
                return lun
        return None

    def admit(self) -> None:
        """NoSpace when there is no room for another share."""
        self._store.pool.check_room()

    def put(self, record: Share | Target) -> None:
        self._records.put_admitted(record.key, msgspec.msgpack.encode(record))
        self.mark_presented()

    def delete(self, record: Share | Target) -> None:
        """The record and its secret."""
        self._records.delete(record.key)
        self._records.delete(SECRET + record.key)
        self.mark_presented()

    def secret(self, record: Share | Target) -> str | None:
        raw = self._records.get(SECRET + record.key)
        return None if raw is None else raw.decode()

    def set_secret(self, record: Share | Target, secret: str | None) -> None:
        if secret is None:
            self._records.delete(SECRET + record.key)
        else:
            self._records.put_admitted(SECRET + record.key, secret.encode())

    def mark_presented(self) -> None:
        """The engine keeps the names of what is some host's disk."""
        self._store.pool.presented = {(lun.volume_id, lun.ino) for lun in self.luns()}

    def check_not_shared(self, volume: Volume) -> None:
        """Busy when a volume, or a snapshot of it, has shares."""
        doomed = {volume.id: volume} | {s.id: s for s in self._store.snapshots(volume)}
        for lun in self.luns():
            if lun.volume_id in doomed:
                raise errors.Busy(
                    f"{lun.address} is presented as a LUN; `ramet share lun rm {lun.address}` first"
                )
        for smb in self.smbs():
            if smb.volume_id in doomed:
                raise errors.Busy(
                    f"{volume} is the SMB share {smb.name}; `ramet share smb rm {smb.name}` first"
                )
        for nfs in self.exports():
            found = doomed.get(nfs.volume_id)
            if found is not None:
                raise errors.Busy(f"{found} is exported by NFS; `ramet share nfs rm {found}` first")


def _decode(key: str, raw: bytes, kind: type[R]) -> R:
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise errors.Corrupt(f"the record {key} is damaged: {error}; run `ramet fsck`") from None


# --- identities


def iqn(store: Store, target: Target) -> str:
    """Stable for the life of the volume: from the store's id and the volume's number."""
    name = f".{target.name}" if target.name else ""
    return f"iqn.2026-01.io.ramet:{store.uuid.hex[:12]}:v{target.volume_id}{name}"


def tid(store: Store, target: Target) -> int:
    """tgt's number of the target, which is also in an identifier of its LUNs: 28 bits of a hash."""
    return int(_digest(store, "target", target.volume_id, target.name)[:7], 16) or 1


def serial(store: Store, volume_id: int, ino: int) -> str:
    """32 digits: the unit serial number of a file's LUN."""
    return _digest(store, "serial", volume_id, ino)[:32]


def naa(store: Store, volume_id: int, ino: int) -> str:
    """The NAA identifier of a file's LUN (SPC-4, 7.8.6.6.5)."""
    return NAA_PREFIX + _digest(store, "naa", volume_id, ino)[: 32 - len(NAA_PREFIX)]


def _digest(store: Store, *words: Any) -> str:
    text = "/".join([store.uuid.hex, *map(str, words)])
    return hashlib.sha256(text.encode()).hexdigest()


# --- what a user says, checked


def checked_listen(text: str | None, port: int) -> Listen:
    """ADDRESS, ADDRESS:PORT, [IPV6]:PORT; loopback when nothing is said."""
    text = text or "127.0.0.1"
    host, colon, told = text, "", ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        colon, told = rest[:1], rest[1:]
    elif text.count(":") == 1:
        host, colon, told = text.partition(":")
    try:
        address = ipaddress.ip_address(host)
        number = int(told) if colon else port
    except ValueError:
        number = 0
    if not 0 < number < 1 << 16:
        raise errors.InvalidArgument(
            f"{text!r} is no place to listen; write ADDRESS or ADDRESS:PORT"
        )
    return Listen(str(address), number)


def parsed(listen: str) -> Listen:
    """The ``listen`` of a record."""
    return checked_listen(listen, 0)


def checked_initiators(names: list[str], listen: Listen) -> list[str]:
    """Names (iqn, eui, naa) and networks of the listening address's family; or ALL."""
    if len(names) > INITIATORS_MAX:
        raise errors.InvalidArgument(f"a target takes at most {INITIATORS_MAX} initiators")
    version = ipaddress.ip_address(listen.host).version
    found = []
    for name in names:
        if name == ANYBODY or _INITIATOR.fullmatch(name.lower()):
            found.append(name if name == ANYBODY else name.lower())
            continue
        try:
            network = ipaddress.ip_network(name)
        except ValueError:
            raise errors.InvalidArgument(
                f"{name!r} is no initiator; write iqn.2004-10.com.example:host, 10.0.0.0/24 or ALL"
            ) from None
        if network.version != version:
            raise errors.InvalidArgument(f"{name} is no network that reaches {listen.host}")
        found.append(str(network))
    return sorted(set(found))


def tgt_rules(initiators: list[str], listen: Listen) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(addresses, names) as tgt takes them: a network of one address has no mask there."""
    addresses, names = [], []
    for each in initiators:
        if each == ANYBODY:
            addresses.append(each)
        elif _INITIATOR.fullmatch(each):
            names.append(each)
        else:
            network = ipaddress.ip_network(each)
            host = str(network.network_address)
            shown = f"[{host}]" if network.version == 6 else host
            whole = network.prefixlen == network.max_prefixlen
            every = network.prefixlen == 0
            addresses.append(
                ANYBODY if every else shown if whole else f"{shown}/{network.prefixlen}"
            )
    return tuple(sorted(set(addresses))), tuple(sorted(set(names)))


def client_rule(text: str) -> Rule:
    """NETWORK or NETWORK:RIGHT, an address being a network of one; rw when no right is said."""
    name, colon, right = text.rpartition(":")
    if not colon or right not in RIGHTS:
        name, right = text, "rw"
    try:
        return Rule(ipaddress.ip_network(name), RIGHTS[right])
    except ValueError:
        raise errors.InvalidArgument(
            f"{text!r} says of nobody what they may; write 10.0.0.0/24:rw (or :ro, :root)"
        ) from None


def checked_clients(texts: list[str], listen: Listen) -> list[str]:
    """The rules of an export as its record has them; the loopback networks when nothing is said."""
    if len(texts) > CLIENTS_MAX:
        raise errors.InvalidArgument(f"an export takes at most {CLIENTS_MAX} clients")
    address = ipaddress.ip_address(listen.host)
    if not texts and not address.is_loopback:
        raise errors.InvalidArgument(
            f"clients come to {listen.host} from elsewhere; say who may, --client 10.0.0.0/24"
        )
    names = {right: name for name, right in RIGHTS.items()}
    found: dict[str, str] = {}
    for rule in map(client_rule, texts or LOOPBACK):
        if found.setdefault(str(rule.network), names[rule.right]) != names[rule.right]:
            raise errors.InvalidArgument(f"{rule.network} is told twice what it may; say it once")
    return [f"{network}:{right}" for network, right in found.items()]


def checked_secret(secret: str, least: int, most: int) -> str:
    if not least <= len(secret) <= most or not secret.isascii() or not secret.isprintable():
        raise errors.InvalidArgument(
            f"a secret has {least} to {most} printable ASCII characters; this one has not"
        )
    return secret


def checked_target_name(name: str) -> str:
    if name and not _TARGET.fullmatch(name):
        raise errors.InvalidArgument(f"{name!r} is no target name: use a-z, 0-9 and '-'")
    return name


def checked_smb_name(name: str) -> str:
    check_share_name(name)
    return name


def checked_user(user: str) -> str:
    check_user_name(user)
    return user
