"""A place where a directory is built aside, a little at a time, and from where it appears whole.

A *stage* is a volume of its own that nobody sees: to gc, fsck, commits and a crash it is a volume
like others, and when the store is opened after a crash it is removed like one, in no time.  What is
made in it has inode numbers that were set aside for it, in one run; so all its records are a few
ranges of keys that its target has nothing in, and ``appear`` moves them there by their subtrees
(engine/grafts.py), at a cost that hardly depends on how many there are.

Invariants:
- nobody but its maker changes a stage, and nobody shares it;
- its tree was last shared when its target's was (``follow``, before each change), so that a node
  which is the target's own after ``appear`` has only such nodes above it;
- what fails in ``appear`` fails before anything has changed.
"""

from engine import errors, keys
from engine.grafts import graft, split
from engine.inode import Inode
from engine.namespace import LINKS_MAX
from engine.pool import Pool
from engine.reserve import CALL_PAGES
from engine.volume import Volume
from engine.volume_record import VolumeRecord

KINDS = (b"C", b"D", b"I", b"L", b"X")  # of records that a stage has, in the order of keys
PUBLISH_PAGES = CALL_PAGES + 64  # of metadata that it changes: a few nodes on a few paths


class Staged(Volume):
    """The stage of one directory, which is the only entry of its root."""

    def __init__(self, pool: Pool, record: VolumeRecord, target: Volume, inos: range) -> None:
        super().__init__(pool, record)
        self.target = target
        self._inos = inos
        self._taken = 0

    def make_root(self) -> None:
        """Its root directory, whose number is not one of those set aside."""
        self._taken -= 1
        super().make_root()

    def _take_ino(self) -> int:
        if self._taken < 0:
            self._taken = 0
            return keys.ROOT_INO
        ino = self._inos[self._taken]
        self._taken += 1
        return ino

    def follow(self) -> None:
        """Before changes in a new step: what shared the target since has shared this as well."""
        self.tree.shared_epoch = max(self.tree.shared_epoch, self.target.tree.shared_epoch)

    def settle(self) -> None:
        """After them: nothing waits in memory, however much is made."""
        self.flush()
        self.drop_caches()

    def appear(self, parent: int, name: bytes) -> Inode:
        """Move all of it into a directory of the target, under a name that is free there.

        Raises what making a directory there raises, QuotaExceeded, and Corrupt.
        """
        target = self.target
        target.check_writable()
        directory = self._check(parent, name)
        self.follow()
        self.settle()
        top = self.readdir(keys.ROOT_INO)[0].ino
        self._load()
        target.flush()
        for kind, root in self._take_records():
            graft(target.tree, root, *self._bounds(kind))
        self._count_in()
        inode = target.inode(top)
        directory.nlink += 1
        target._add_entry(directory, name, inode)
        target.touch(inode)
        target.flush()
        return inode

    def _check(self, parent: int, name: bytes) -> Inode:
        target = self.target
        directory = target.live_directory(parent)
        keys.check_name(parent, name)
        if target.entry(parent, name) is not None:
            raise errors.AlreadyExists(f"{name.decode(errors='replace')!r} exists")
        if directory.nlink >= LINKS_MAX:
            raise errors.TooManyLinks("the directory has too many subdirectories")
        target.check_quota(self.record.blocks)
        target.pool.check_room(PUBLISH_PAGES)
        target._load_for_entry(directory, name)
        return directory

    def _bounds(self, kind: bytes) -> tuple[bytes, bytes]:
        inos = self._inos
        return (kind + inos.start.to_bytes(8, "big"), kind + inos.stop.to_bytes(8, "big"))

    def _load(self) -> None:
        """All nodes that will be cut or changed, so that damage is met before."""
        for kind in KINDS:
            for bound in self._bounds(kind):
                self.tree.load(bound)
                self.target.tree.load(bound)

    def _take_records(self) -> list[tuple[bytes, int]]:
        """By kind, the root of a tree of its records; the stage keeps its root directory's."""
        found = []
        for kind in reversed(KINDS):
            start, end = self._bounds(kind)
            kept = split(self.tree, end)
            found.append((kind, split(self.tree, start)))
            self.pool.reclaim.add_namespace(kept, self.tree.shared_epoch)
        return found

    def _count_in(self) -> None:
        mine, record = self.record, self.target.record
        record.files += mine.files - 1
        record.blocks += mine.blocks
        record.logical_bytes += mine.logical_bytes
        self.target.store_record()
