"""What should be presented: a plan of all daemons, made from the records and the store.

A plan is made on the engine's thread, in one step, and is only data: what the presenter hands to
the daemons, and compares with what they have.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from engine import Store, Volume, errors, numbers
from engine.inode import Inode
from engine.keys import ROOT_INO
from hypervisor import samba, tgt
from hypervisor.host_daemon import Listen
from hypervisor.iscsi import Chap
from service import share_records as records
from service.addresses import mounted
from service.mount_table import device_at
from service.share_records import Lun, Smb, Table, Target

UP, OFFLINE, FAILED, STARTING = "up", "offline", "failed", "starting"
ISCSI, SMB = "iscsi", "smb"
RETRY_S_MAX = 30.0


def pause_s(failures: int) -> float:
    """Before the next attempt, after so many that have failed, however many these are."""
    return min(RETRY_S_MAX, 2.0 ** min(failures, 10))


class State(NamedTuple):
    """``reason`` says why a share has failed."""

    state: str
    reason: str | None = None


class Door(NamedTuple):
    """What a daemon is known by: its kind, and where it listens."""

    kind: str
    listen: Listen


@dataclass
class Plan:
    """What each daemon should present, whose each part is, and what cannot be presented."""

    iscsi: dict[Door, dict[str, tgt.Target]] = field(default_factory=dict)
    smb: dict[Door, list[samba.SmbShare]] = field(default_factory=dict)
    parts: dict[str, tuple[Door, tuple[str, ...]]] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)


def iscsi_door(target: Target) -> Door:
    return Door(ISCSI, records.parsed(target.listen))


class Planner:
    """Makes plans for one store and its mount."""

    def __init__(self, store: Store, mountpoint: Path) -> None:
        self._store = store
        self._mountpoint = mountpoint
        self._table = Table(store)
        self._device: int | None = None  # of the mount, once it is there

    def make(self) -> Plan:
        plan = Plan()
        for record in self._table.luns():
            target = self._table.target(record.target_key)
            if target is None:
                plan.states[record.key] = State(
                    FAILED, "its target is gone; remove it, add it again"
                )
                continue
            door = iscsi_door(target)
            planned = plan.iscsi.setdefault(door, {})
            if target.key not in planned:
                planned[target.key] = self._planned_target(target)
            self._plan_lun(plan, record, planned, target.key, door)
        for smb in self._table.smbs():
            self._plan_smb(plan, smb)
        return plan

    def _planned_target(self, target: Target) -> tgt.Target:
        addresses, names = records.tgt_rules(target.initiators, records.parsed(target.listen))
        secret = self._table.secret(target)
        chap = Chap(target.chap_user, secret) if target.chap_user and secret else None
        if target.chap_user and not secret:
            addresses, names = (), ()  # without its secret nobody is let in
        return tgt.Target(
            records.tid(self._store, target), records.iqn(self._store, target),
            addresses, names, chap,
        )  # fmt: skip

    def _plan_lun(
        self, plan: Plan, record: Lun, planned: dict[str, tgt.Target], key: str, door: Door
    ) -> None:
        if not record.online:
            plan.states[record.key] = State(OFFLINE)
            return
        found = self._file_of(record)
        if isinstance(found, str):
            plan.states[record.key] = State(FAILED, found)
            return
        volume, inode, path = found
        if self._device is None:
            self._device = device_at(self._mountpoint)
        lun = tgt.Lun(
            record.number, mounted(self._mountpoint, volume, path),
            records.serial(self._store, record.volume_id, record.ino),
            records.naa(self._store, record.volume_id, record.ino),
            inode.size - inode.size % tgt.BLOCK_BYTES, numbers.join(volume.id, inode.ino),
            self._device, record.read_only, volume.era,
        )  # fmt: skip
        target = planned[key]
        planned[key] = replace(target, luns=(*target.luns, lun))
        plan.parts[record.key] = (door, (target.iqn, f"{target.iqn}/{record.number}"))

    def _file_of(self, record: Lun) -> tuple[Volume, Inode, str] | str:
        """The file of a LUN and its path; or why there is none."""
        try:
            volume = self._store.volume_by_id(record.volume_id)
            inode = volume.inode(record.ino)
            path = None if inode.orphan else volume.path_of(record.ino)
        except errors.Stale:
            return "its file is gone; remove the LUN"
        except errors.RametError as error:  # damaged: one share less, not all
            return str(error)
        return (volume, inode, path) if path else "its file was removed; remove the LUN"

    def _plan_smb(self, plan: Plan, record: Smb) -> None:
        door = Door(SMB, records.parsed(record.listen))
        secret = self._table.secret(record)
        account = samba.Account(record.user, secret) if record.user and secret else None
        try:
            volume = self._store.volume_by_id(record.volume_id)
            root = volume.inode(ROOT_INO)
        except errors.RametError as error:
            plan.states[record.key] = State(FAILED, f"its volume is gone ({error}); remove it")
            return
        if record.user and not secret:
            plan.states[record.key] = State(FAILED, "its secret is gone; remove it, add it again")
            return
        plan.smb.setdefault(door, []).append(samba.SmbShare(
            record.name, mounted(self._mountpoint, volume, "/"),
            numbers.join(volume.id, ROOT_INO), root.uid, root.gid, account, record.read_only,
        ))  # fmt: skip
        plan.parts[record.key] = (door, (record.name,))
