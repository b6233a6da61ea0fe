"""A volume's inodes in memory: loaded on demand, written back to the namespace tree in bulk.

Data writes change an inode (size, times, map root) far more often than a commit needs it, so
changed inodes wait here; ``flush`` puts them into the tree before any capture, snapshot or clone.
At most INODES_DIRTY_MAX wait, which bounds what those have to do.

Invariants:
- one Inode object per (volume, ino), as long as it is dirty, held or an orphan;
- an orphan (unlinked or staged, and held) lives in the orphan table, with its effective epoch in
  its own ``shared_epoch``, because the volume's later snapshots do not contain it.
"""

from collections import OrderedDict
from weakref import WeakValueDictionary

from engine import errors, keys
from engine.btree import BTree
from engine.inode import Inode
from engine.pool import INODES_DIRTY_MAX, Pool, now_ns
from engine.superblock import BLOCK_BYTES
from engine.volume_record import FLAG_SNAPSHOT, VolumeRecord

INODES_MAX = 65_536


class InodeTable:
    """The base of a volume: its record, its tree and its inodes."""

    def __init__(self, pool: Pool, record: VolumeRecord) -> None:
        self.pool = pool
        self.record = record
        self.tree = BTree(pool.nodes, record.root, record.shared_epoch, pool.superblock.records_max)
        self._inodes: OrderedDict[int, Inode] = OrderedDict()
        self._alive: WeakValueDictionary[int, Inode] = WeakValueDictionary()
        self._dirty: dict[int, Inode] = {}
        self._holds: dict[int, int] = {}
        self.removed = False
        self.era = 0  # grows when a restore or removal makes all that was opened before it stale

    @property
    def id(self) -> int:
        return self.record.id

    @property
    def is_snapshot(self) -> bool:
        return bool(self.record.flags & FLAG_SNAPSHOT)

    @property
    def read_only(self) -> bool:
        return self.is_snapshot or self.pool.read_only

    def check_writable(self) -> None:
        if self.record.flags & FLAG_SNAPSHOT:
            raise errors.ReadOnly("a snapshot is read-only; clone it to change it")
        if self.removed:
            raise errors.Stale("the volume was removed; choose another")
        self.pool.check_writable()

    def has_room(self, blocks: int) -> bool:
        """Whether so many more referenced blocks are within the volume's quota."""
        record = self.record
        return not record.quota_bytes or (
            (record.blocks + blocks) * BLOCK_BYTES <= record.quota_bytes
        )

    def check_quota(self, blocks: int) -> None:
        """QuotaExceeded when so many more referenced blocks are too many.  O(1)."""
        if blocks > 0 and not self.has_room(blocks):
            raise errors.QuotaExceeded(
                f"volume {self.record.name} is at its quota of {self.record.quota_bytes} bytes; "
                "delete files or raise it with `ramet volume quota`"
            )

    def inode(self, ino: int) -> Inode:
        """The inode; Stale when it is gone."""
        inode = self._inodes.get(ino)
        if inode is None:
            inode = self._alive.get(ino)  # evicted, but somebody still has it
            if inode is not None:
                return self._remember(inode)
            record = self.tree.get(keys.inode_key(ino))
            if record is None or self.removed:
                raise errors.Stale(f"inode {ino} is gone; look its name up again")
            inode = self._remember(Inode.unpack(ino, record))
        return inode

    def _remember(self, inode: Inode) -> Inode:
        self._inodes[inode.ino] = self._alive[inode.ino] = inode
        if len(self._inodes) > INODES_MAX:
            self._evict(inode.ino)
        return inode

    def _evict(self, newest: int) -> None:
        """The one or two that have been here longest; each that comes pays for itself only."""
        for _ in range(2):
            ino = next(iter(self._inodes))
            if ino in self._dirty or ino in self._holds or ino == newest:
                self._inodes.move_to_end(ino)
            else:
                del self._inodes[ino]

    def new_inode(self, mode: int, uid: int, gid: int) -> Inode:
        """A fresh inode, not yet in the tree; the caller stores or stages it."""
        state = self.pool.state
        inode = Inode(self._take_ino(), mode, uid, gid, now_ns())
        inode.generation = state.next_generation
        state.next_generation += 1
        inode.change = self.pool.next_change()
        return inode

    def _take_ino(self) -> int:
        ino = self.pool.state.next_ino
        self.pool.state.next_ino = ino + 1
        return ino

    def store_inode(self, inode: Inode) -> None:
        """Put the inode into the tree (or the orphan table) now."""
        if inode.orphan:
            self.pool.put_orphan(self.id, inode.ino, inode.pack())
        else:
            self.tree.put(keys.inode_key(inode.ino), inode.pack())
        if inode.dirty:
            self._clean(inode)

    def _clean(self, inode: Inode) -> None:
        inode.dirty = False
        del self._dirty[inode.ino]
        self.pool.dirty_inodes -= 1

    def touch(self, inode: Inode) -> None:
        """The inode changed: new change counter, stored by the next flush."""
        inode.change = self.pool.next_change()
        self.mark_dirty(inode)

    def mark_dirty(self, inode: Inode) -> None:
        self.pool.intents.changes += 1
        if not inode.dirty:
            if len(self._dirty) >= INODES_DIRTY_MAX:
                self.flush()
            inode.dirty = True
            self._dirty[inode.ino] = inode
            self.pool.dirty_inodes += 1

    def flush(self) -> None:
        """Put all changed inodes into the tree, and the tree's root into the volume's record."""
        for inode in list(self._dirty.values()):
            self.store_inode(inode)
        record = self.record
        if record.root != self.tree.root or record.shared_epoch != self.tree.shared_epoch:
            record.root = self.tree.root
            record.shared_epoch = self.tree.shared_epoch
            self.store_record()

    def store_record(self) -> None:
        self.pool.put("volumes", self.id.to_bytes(8, "big"), self.record.pack())

    def hold(self, ino: int) -> Inode:
        """An open reference: an inode that is unlinked while held lives until ``release``."""
        inode = self.inode(ino)
        self._holds[ino] = self._holds.get(ino, 0) + 1
        return inode

    def release_of(self, era: int, ino: int) -> None:
        """``release`` of what was held in an era; a forced restore has let go of it since."""
        if era == self.era:
            self.release(ino)

    def release(self, ino: int) -> None:
        """Give an open reference back; the last one on an orphan lets it go."""
        count = self._holds.get(ino, 0) - 1
        if count > 0:
            self._holds[ino] = count
            return
        self._holds.pop(ino, None)
        inode = self._inodes.get(ino)
        if inode is not None and inode.orphan:
            self._forget(inode)
            if not self.pool.read_only:
                self.pool.drop_orphan(self.id, inode)

    def _forget(self, inode: Inode) -> None:
        self._inodes.pop(inode.ino, None)
        self._alive.pop(inode.ino, None)
        if inode.dirty:
            self._clean(inode)

    @property
    def held(self) -> int:
        """How many open references there are."""
        return sum(self._holds.values())

    def is_held(self, ino: int) -> bool:
        """Whether somebody has the inode open."""
        return ino in self._holds

    def make_orphan(self, inode: Inode) -> None:
        """Unlinked while open (or staged): keep it, with the epoch that is in force for it now."""
        inode.shared_epoch = max(inode.shared_epoch, self.tree.shared_epoch)
        inode.orphan = True
        self.mark_dirty(inode)

    def effective_epoch(self, inode: Inode) -> int:
        """The epoch at which the inode's map was last shared, by itself or with its volume."""
        if inode.orphan:
            return inode.shared_epoch
        return max(inode.shared_epoch, self.tree.shared_epoch)

    def reset(self, root: int, shared_epoch: int) -> None:
        """Another tree, or none; every inode in memory, held or not, is of the past.

        Holds are gone without a ``release``: whoever holds compares ``era`` first.

        Damage where a changed inode belongs does not stop what cures it.  Then the records do not
        say what clones have shared meanwhile, so the old tree is left to gc.
        """
        told_all = True
        if not self.read_only:
            try:
                self.flush()
            except errors.Corrupt:
                told_all = False
        self._tell_held_names()
        known = list(self._inodes.values())
        for inode in known:
            if inode.orphan:
                self.pool.drop_orphan(self.id, inode)
        if told_all:
            self.pool.reclaim.add_namespace(self.tree.root, self.tree.shared_epoch)
        for inode in self._dirty.values():
            inode.dirty = False
        self.era += 1
        self._inodes.clear()
        self._alive.clear()
        self.pool.dirty_inodes -= len(self._dirty)
        self._dirty.clear()
        self._holds.clear()
        self.tree.root = root
        self.tree.shared_epoch = shared_epoch
        for inode in known:
            self.pool.notify(self.id, inode.ino, "data")

    def _tell_held_names(self) -> None:
        """A kernel keeps the names by which it came to what is open; those go one by one."""
        told: set[int] = set()
        for held in list(self._holds):
            ino = held
            while ino != keys.ROOT_INO and ino not in told:
                told.add(ino)
                try:
                    inode = self.inode(ino)
                    key = keys.cookie_key(inode.parent, inode.parent_cookie)
                    value = self.tree.get(key)
                    if value is None:
                        break
                    entry = keys.unpack_by_cookie(key, value)
                except (errors.Stale, errors.Corrupt):
                    break
                self.pool.notify(self.id, ino, "entry", entry.name, inode.parent)
                ino = inode.parent

    def drop_caches(self) -> None:
        """Forget clean inodes that nobody holds (tests)."""
        for ino, inode in list(self._inodes.items()):
            if not inode.dirty and ino not in self._holds and not inode.orphan:
                del self._inodes[ino]
