"""The table of volumes and snapshots: made, found, renamed, cloned, restored, removed.

A clone or snapshot copies one root and starts an epoch, whatever is in the volume (DESIGN.md,
Ownership by epoch).  What is removed, or given up by a restore, goes to the reclaim queue.
"""

import contextlib

from engine import errors
from engine.keys import ROOT_INO
from engine.pool import Pool, now_ns
from engine.staging import Staged
from engine.volume import Volume
from engine.volume_record import (
    FLAG_HIDDEN,
    FLAG_SNAPSHOT,
    VolumeRecord,
    check_volume_name,
    hidden_name,
)


class Volumes:
    """The base of a store: its pool and its volumes."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._volumes: dict[int, Volume] = {}
        self._names: dict[str, Volume] = {}
        self._snapshots: dict[int, dict[str, Volume]] = {}
        self._hidden: dict[int, Volume] = {}

    def _add(self, volume: Volume) -> Volume:
        self._volumes[volume.id] = volume
        if volume.is_snapshot:
            self._snapshots.setdefault(volume.record.parent_id, {})[volume.name] = volume
        else:
            self._names[volume.name] = volume
        return volume

    def _new_record(self, name: str, root: int, epoch: int) -> VolumeRecord:
        check_volume_name(name)
        state = self.pool.state
        record = VolumeRecord(state.next_volume, name, root, epoch, 0, now_ns())
        state.next_volume += 1
        return record

    def _check_free(self, name: str) -> None:
        check_volume_name(name)
        self.pool.check_room()
        if name in self._names:
            raise errors.AlreadyExists(f"volume {name} exists; choose another name")

    def create_volume(
        self, name: str, *, quota_bytes: int = 0, own_domain: bool = False
    ) -> Volume:  # fmt: skip
        """A new, empty volume.

        ``own_domain``: dedup finds its equal blocks in this volume only, so how long a write takes
        tells nobody what other volumes hold; by default volumes share one domain.  Clones share
        blocks in any case.
        """
        self._check_free(name)
        record = self._new_record(name, 0, 0)
        record.quota_bytes = _checked_quota(quota_bytes)
        record.domain = record.id if own_domain else 0
        volume = Volume(self.pool, record)
        volume.make_root()
        volume.store_record()
        return self._announce(volume)

    def volumes(self) -> list[Volume]:
        """All volumes (no snapshots), by name."""
        return [self._names[name] for name in sorted(self._names)]

    def volume(self, name: str) -> Volume:
        volume = self._names.get(name)
        if volume is None:
            raise errors.NotFound(f"no volume {name!r}; see `ramet volume ls`")
        return volume

    def volume_by_id(self, volume_id: int) -> Volume:
        """A volume or snapshot by its number; Stale when it is gone."""
        volume = self._volumes.get(volume_id)
        if volume is None:
            raise errors.Stale(f"volume number {volume_id} is gone")
        return volume

    def set_quota(self, name: str, quota_bytes: int) -> None:
        """Limit the bytes that a volume's files reference; 0: no limit.  What is past it stays."""
        volume = self.volume(name)
        volume.check_writable()
        volume.record.quota_bytes = _checked_quota(quota_bytes)
        volume.store_record()

    def rename_volume(self, old: str, new: str) -> None:
        volume = self.volume(old)
        self._check_free(new)
        del self._names[old]
        volume.record.name = new
        self._names[new] = volume
        volume.store_record()
        self.pool.notify(volume.id, 0, "volumes", old.encode())

    def check_remove_volume(self, name: str, *, force: bool = False) -> list[Volume]:
        """What ``remove_volume`` would remove, or the error that it would raise."""
        self.pool.check_writable()
        volume = self.volume(name)
        doomed = [*self.snapshots(volume), volume]
        if not force and any(v.held for v in doomed):
            raise errors.Busy(f"files of {name} are open; close them, or force")
        for each in () if force else doomed:
            each.check_not_presented(each.inode(ROOT_INO))
        return doomed

    def remove_volume(self, name: str, *, force: bool = False) -> None:
        """Remove a volume and its snapshots; Busy while files are open, unless forced."""
        doomed = self.check_remove_volume(name, force=force)
        with contextlib.suppress(errors.Corrupt):  # ``reset`` goes on; what else fails, fails now
            doomed[-1].flush()
        for each in doomed:
            self._drop(each)
        del self._names[name]
        self._snapshots.pop(doomed[-1].id, None)

    def _drop(self, volume: Volume) -> None:
        self.pool.core.add_debt(volume.record.blocks)
        volume.reset(0, 0)
        volume.removed = True
        del self._volumes[volume.id]
        self.pool.delete("volumes", volume.id.to_bytes(8, "big"))
        self.pool.notify(volume.id, 0, "volumes")

    def clone_volume(self, source: Volume, name: str) -> Volume:
        """A writable clone of a volume or snapshot: one root copied, whatever is in it."""
        self._check_free(name)
        return self._announce(self._copy_root(source, name))

    def _copy_root(self, source: Volume, name: str, parent: Volume | None = None) -> Volume:
        if source.removed:
            raise errors.Stale(f"{source} was removed; choose another")
        source.flush()
        epoch = self.pool.bump_epoch()
        if not source.is_snapshot:
            source.tree.shared_epoch = source.record.shared_epoch = epoch
            source.store_record()
        record = self._new_record(name, source.tree.root, epoch)
        record.origin_id = source.id
        record.files, record.blocks = source.record.files, source.record.blocks
        record.logical_bytes = source.record.logical_bytes
        record.domain = record.id if source.record.domain else 0
        if parent is not None:
            record.parent_id = parent.id
            record.flags |= FLAG_SNAPSHOT
        volume = Volume(self.pool, record, parent)
        volume.store_record()
        return volume

    def _announce(self, volume: Volume) -> Volume:
        self._add(volume)
        self.pool.notify(volume.id, 0, "volumes")
        return volume

    # --- hidden volumes: work in hand, that no crash leaves behind (engine/staging.py)

    def hidden_view(self, source: Volume) -> Volume:
        """What a volume or snapshot is at this instant; nobody may change it."""
        view = self._copy_root(source, hidden_name(self.pool.state.next_volume))
        view.record.domain = source.record.domain
        return self._hide(view)

    def hidden_stage(self, target: Volume, inodes: int) -> Staged:
        """A place to make so many inodes of ``target``."""
        state = self.pool.state
        record = self._new_record(
            hidden_name(self.pool.state.next_volume), 0, target.tree.shared_epoch
        )
        record.domain = target.record.domain
        stage = Staged(self.pool, record, target, range(state.next_ino, state.next_ino + inodes))
        state.next_ino += inodes
        stage.make_root()
        self._hide(stage)
        return stage

    def _hide(self, volume: Volume) -> Volume:
        volume.record.flags |= FLAG_HIDDEN
        self._hidden[volume.id] = volume
        volume.store_record()
        return volume

    def drop_hidden(self, volume: Volume) -> None:
        """It goes, with what is left in it; no garbage comes of a view that others do not make."""
        volume.reset(0, 0)
        volume.removed = True
        del self._hidden[volume.id]
        self.pool.delete("volumes", volume.id.to_bytes(8, "big"))

    # --- snapshots

    def snapshots(self, volume: Volume) -> list[Volume]:
        """The volume's snapshots, oldest first."""
        return sorted(self._snapshots.get(volume.id, {}).values(), key=lambda s: s.id)

    def snapshot(self, volume: Volume, name: str) -> Volume:
        found = self._snapshots.get(volume.id, {}).get(name)
        if found is None:
            raise errors.NotFound(f"no snapshot {name!r} of {volume}; see `ramet snapshot ls`")
        return found

    def create_snapshot(self, volume: Volume, name: str) -> Volume:
        """A read-only, point-in-time view of the volume; constant time."""
        volume.check_writable()
        self.pool.check_room()
        check_volume_name(name)
        if name in self._snapshots.get(volume.id, {}):
            raise errors.AlreadyExists(f"{volume} has a snapshot {name}; choose another name")
        return self._announce(self._copy_root(volume, name, volume))

    def check_remove_snapshot(self, volume: Volume, name: str, *, force: bool = False) -> Volume:
        """The snapshot that ``remove_snapshot`` would remove, or the error that it would raise."""
        self.pool.check_writable()
        snapshot = self.snapshot(volume, name)
        if snapshot.held and not force:
            raise errors.Busy(f"files of {snapshot} are open; close them, or force")
        if not force:
            snapshot.check_not_presented(snapshot.inode(ROOT_INO))
        return snapshot

    def remove_snapshot(self, volume: Volume, name: str, *, force: bool = False) -> None:
        self._drop(self.check_remove_snapshot(volume, name, force=force))
        del self._snapshots[volume.id][name]

    def check_restore(self, volume: Volume, name: str, *, force: bool = False) -> Volume:
        """The snapshot that ``restore`` would go back to, or the error that it would raise."""
        volume.check_writable()
        snapshot = self.snapshot(volume, name)
        if volume.held and not force:
            raise errors.Busy(f"files of {volume} are open; close them, or force")
        return snapshot

    def restore(self, volume: Volume, name: str, *, force: bool = False) -> None:
        """Take the volume back to a snapshot.  Busy while files are open; forced, their handles
        go stale.  Inode numbers and generations made since are never used again."""
        snapshot = self.check_restore(volume, name, force=force)
        epoch = self.pool.bump_epoch()
        self.pool.core.add_debt(volume.record.blocks)
        volume.reset(snapshot.tree.root, epoch)
        record, past = volume.record, snapshot.record
        record.root, record.shared_epoch = volume.tree.root, epoch
        record.files, record.blocks = past.files, past.blocks
        record.logical_bytes = past.logical_bytes
        volume.store_record()
        self.pool.notify(volume.id, 0, "volumes", volume.name.encode())


def _checked_quota(quota_bytes: int) -> int:
    if not isinstance(quota_bytes, int) or not 0 <= quota_bytes < 1 << 63:
        raise errors.InvalidArgument(f"a quota of {quota_bytes} bytes; give 0 or more")
    return quota_bytes
