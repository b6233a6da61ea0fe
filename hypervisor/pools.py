"""libvirt storage pools: how a hypervisor is made to see what the store presents.

A pool of ours is known by its UUID, which is made from the store's UUID and the pool's name: no
pool that anybody else has made can have it, so whatever a record says or fails to say, pools of
others are never changed.  Where another's pool has the name, ours takes a longer one; where
another's pool has the place (libvirt allows one pool a place), it is left alone and named.

Two kinds are made: ``dir``, a directory on a mount of the store, and ``iscsi-direct``, the LUNs of
one target.  Pools have no autostart: their place is there when the store is served, not when the
host boots; a rescan starts them.

Sources: libvirt's "Storage pool XML format" (formatstorage.html) and "Storage management"
(storage.html).  MISSION.md F1, F2.
"""

import hashlib
import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import quote

import libvirt

from engine import errors
from hypervisor.connection import or_none, translated

_NO_XML = re.compile("[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
NAME_BYTES_MAX = 200  # libvirt keeps a pool in a file of its name


class Target(NamedTuple):
    """An iSCSI target as a host reaches it.  ``initiator``: the name that the host gives itself."""

    iqn: str
    host: str
    port: int
    initiator: str
    user: str | None = None
    password: str | None = None


class Pool(NamedTuple):
    """A pool that is wanted: a directory, or a target."""

    name: str
    place: PurePosixPath | Target

    @property
    def kind(self) -> str:
        return "iscsi-direct" if isinstance(self.place, Target) else "dir"

    @property
    def source(self) -> str:
        """The place in a word."""
        return self.place.iqn if isinstance(self.place, Target) else str(self.place)


class StorageVolume(NamedTuple):
    """What libvirt lists in a pool."""

    capacity_bytes: int
    allocation_bytes: int


class Presented(NamedTuple):
    """What became of a wanted pool: ``name`` is the one it has on the host.

    ``new``: it was not there.  ``others``: the place is that pool's, which is not ours.
    """

    name: str
    new: bool
    volumes: dict[str, StorageVolume]
    others: str | None = None


def pool_name(*parts: str) -> str:
    """``ramet-lab``, ``ramet-lab:web``: different parts never make one name.

    What is not a plain character is written as in a URL; a name that is too long ends in its hash.
    An empty part, which no directory is named, sets other kinds apart: ``ramet-lab::lun``.
    """
    name = "ramet-" + ":".join(quote(p, safe="", errors="surrogateescape") for p in parts)
    if len(name) <= NAME_BYTES_MAX:
        return name
    return f"{name[: NAME_BYTES_MAX - 33]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def possible_names(name: str, store: uuid.UUID) -> tuple[str, str]:
    """What a store's pool may be called: the wanted name, or that and the store's."""
    return name, f"{name}-{store.hex[:8]}"


class Pools:
    """The storage pools of one connection, as one store sees them."""

    def __init__(self, connection: "libvirt.virConnect", store: uuid.UUID) -> None:
        self._connection = connection
        self._store = store

    def alive(self) -> bool:
        """Whether the host still answers."""
        try:
            return bool(self._connection.isAlive() == 1 and self._connection.getLibVersion())
        except libvirt.libvirtError:
            return False

    def ours(self) -> dict[str, str]:
        """Name and kind of each pool that this store has made on the host."""
        with translated("cannot list the storage pools"):
            return {
                each.name(): _read(each).get("type", "") for each in self._all()
                if self._is_ours(each)
            }  # fmt: skip

    def stale(self, wanted: Iterable[Pool]) -> dict[str, str]:
        """Those of ``ours`` that none of the wanted pools is."""
        names = {name for pool in wanted for name in self._names(pool.name)}
        return {name: kind for name, kind in self.ours().items() if name not in names}

    def present(self, pool: Pool) -> Presented:
        """``show`` a pool, and say what the host sees in it."""
        shown = self.show(pool)
        if shown.others is not None:
            return shown
        with translated(f"storage pool {pool.name}"):
            found = self._connection.storagePoolLookupByName(shown.name)
            return shown._replace(volumes=_volumes(found))

    def show(self, pool: Pool) -> Presented:
        """Make the host show a pool as it is now: define it, start it, read it again.

        RametError when libvirt refuses, InvalidArgument when its XML cannot hold the place; a pool
        that did not start is not left behind.
        """
        _check_text(pool.source)
        with translated(f"storage pool {pool.name}"):
            found = self._find(pool.name)
            if found is not None and not _is_at(_read(found), pool):
                self._forget(found)
                found = None
            if found is not None:
                self._start(found, pool)
                return Presented(found.name(), False, {})
            others = self._holder(pool)
            if others is not None:
                return Presented(others, False, {}, others)
            found = self._connection.storagePoolDefineXML(self._xml(pool))
            try:
                self._start(found, pool)
            except libvirt.libvirtError:
                self._forget(found)
                raise
            return Presented(found.name(), True, {})

    def drop(self, name: str) -> bool:
        """Forget a pool of ours by its wanted name or its own; the files stay.  Whether it was."""
        with translated(f"storage pool {name}"):
            found = self._find(name)
            if found is not None:
                self._forget(found)
            return found is not None

    def drop_all(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            self.drop(name)

    def sources(self, kind: str, host: str) -> list[str]:
        """What a server offers as sources of pools: NFS exports for ``netfs``.

        Empty when nothing answers there: libvirt does not tell the two apart.
        """
        query = ET.Element("source")
        ET.SubElement(query, "host", {"name": host})
        text = ET.tostring(query, encoding="unicode")
        try:
            found = self._connection.findStoragePoolSources(kind, text, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED:
                return []
            with translated(f"cannot look for {kind} sources at {host}"):
                raise
        root = ET.fromstring(found)  # noqa: S314 - libvirt's own
        places = [each.get("path", "") for each in root.iterfind("source/dir")]
        return sorted(place for place in places if place)

    # --- whose a pool is

    def _uuid(self, name: str) -> str:
        return str(uuid.uuid5(self._store, f"pool/{name}"))

    def _is_ours(self, pool: "libvirt.virStoragePool") -> bool:
        return bool(pool.UUIDString() == self._uuid(pool.name()))

    def _names(self, name: str) -> tuple[str, str]:
        return possible_names(name, self._store)

    def _find(self, name: str) -> "libvirt.virStoragePool | None":
        for each in self._names(name):
            found = self._lookup(each)
            if found is not None and self._is_ours(found):
                return found
        return None

    def _lookup(self, name: str) -> "libvirt.virStoragePool | None":
        return or_none(
            lambda: self._connection.storagePoolLookupByName(name),
            libvirt.VIR_ERR_NO_STORAGE_POOL,
        )

    def _all(self) -> "list[libvirt.virStoragePool]":
        return self._connection.listAllStoragePools()  # type: ignore[no-any-return]

    def _holder(self, pool: Pool) -> str | None:
        """The pool of others that has the place already."""
        for each in self._all():
            if not self._is_ours(each) and _is_at(_read(each), pool):
                return str(each.name())
        return None

    # --- what it is

    def _start(self, found: "libvirt.virStoragePool", pool: Pool) -> None:
        if isinstance(pool.place, Target) and pool.place.user is not None:
            self._set_secret(found.name(), pool.place)
        if found.isActive():
            found.refresh()
        else:
            found.create()  # which reads it as well

    def _forget(self, found: "libvirt.virStoragePool") -> None:
        if found.isActive():
            found.destroy()
        name = found.name()
        found.undefine()
        secret = or_none(
            lambda: self._connection.secretLookupByUUIDString(self._secret_uuid(name)),
            libvirt.VIR_ERR_NO_SECRET,
            libvirt.VIR_ERR_NO_SUPPORT,  # a driver without secrets has none of ours
        )
        if secret is not None:
            secret.undefine()

    def _xml(self, pool: Pool) -> str:
        wanted, longer = self._names(pool.name)
        name = wanted if self._lookup(wanted) is None else longer
        root = ET.Element("pool", {"type": pool.kind})
        ET.SubElement(root, "name").text = name
        ET.SubElement(root, "uuid").text = self._uuid(name)
        if isinstance(pool.place, Target):
            self._add_target(ET.SubElement(root, "source"), pool.place, name)
        else:
            ET.SubElement(ET.SubElement(root, "target"), "path").text = str(pool.place)
        return ET.tostring(root, encoding="unicode")

    def _add_target(self, source: ET.Element, target: Target, name: str) -> None:
        ET.SubElement(source, "host", {"name": target.host, "port": str(target.port)})
        ET.SubElement(source, "device", {"path": target.iqn})
        initiator = ET.SubElement(source, "initiator")
        ET.SubElement(initiator, "iqn", {"name": target.initiator})
        if target.user is not None:
            auth = ET.SubElement(source, "auth", {"type": "chap", "username": target.user})
            ET.SubElement(auth, "secret", {"uuid": self._secret_uuid(name)})

    def _secret_uuid(self, name: str) -> str:
        return str(uuid.uuid5(self._store, f"secret/{name}"))

    def _set_secret(self, name: str, target: Target) -> None:
        """The CHAP password, where only libvirtd can read it."""
        root = ET.Element("secret", {"ephemeral": "no", "private": "yes"})
        ET.SubElement(root, "uuid").text = self._secret_uuid(name)
        usage = ET.SubElement(root, "usage", {"type": "iscsi"})
        ET.SubElement(usage, "target").text = f"{target.iqn}/{self._secret_uuid(name)}"
        secret = self._connection.secretDefineXML(ET.tostring(root, encoding="unicode"))
        secret.setValue((target.password or "").encode())


def _check_text(place: str) -> None:
    """InvalidArgument for a name that no XML document can hold."""
    if _NO_XML.search(place):
        raise errors.InvalidArgument(
            f"{place!r} has characters that libvirt cannot be told; rename it to show it in a pool"
        )


def _read(pool: "libvirt.virStoragePool") -> ET.Element:
    return ET.fromstring(pool.XMLDesc())  # noqa: S314 - libvirt's own


def _is_at(root: ET.Element, pool: Pool) -> bool:
    if root.get("type") != pool.kind:
        return False
    if not isinstance(pool.place, Target):
        return (root.findtext("target/path") or "") == str(pool.place)
    there = (
        _attribute(root, "source/device", "path"), _attribute(root, "source/host", "name"),
        _attribute(root, "source/host", "port") or "3260",
        _attribute(root, "source/initiator/iqn", "name"),
        _attribute(root, "source/auth", "username") or None,
    )  # fmt: skip
    place = pool.place
    return there == (place.iqn, place.host, str(place.port), place.initiator, place.user)


def _attribute(root: ET.Element, path: str, name: str) -> str:
    found = root.find(path)
    return "" if found is None else found.get(name, "")


def _volumes(pool: "libvirt.virStoragePool") -> dict[str, StorageVolume]:
    """The pool's volumes, but not the controller that tgt shows as LUN 0, which has no blocks.

    libvirt 9.0 takes the last block's number of a LUN for their count: its capacity there is one
    block short.
    """
    luns = _read(pool).get("type") == "iscsi-direct"
    found: dict[str, StorageVolume] = {}
    for each in pool.listAllVolumes():
        with suppress(libvirt.libvirtError):  # removed since the pool was read
            _, capacity, allocation = each.info()
            if capacity or not luns:
                found[each.name()] = StorageVolume(capacity, allocation)
    return found
