"""Directories: every operation that makes, finds, moves or removes a name.

Each operation checks everything first and changes after, so an error leaves nothing half done.
Both records of an entry (by name, by cookie) change together.  Directories keep ``parent``, so a
rename can refuse to move a directory below itself without a search.

What takes the place of a name keeps its cookie, and so does what is renamed within its directory:
a listing that goes on meanwhile meets it once, and comes to an end.
"""

import stat

from engine import errors, keys
from engine.inode import FLAG_MARKED, Inode
from engine.inodes import InodeTable
from engine.keys import ROOT_INO, DirEntry
from engine.pool import now_ns

LINKS_MAX = 65_000
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


class Namespace(InodeTable):
    """Name operations of a volume."""

    def directory(self, ino: int) -> Inode:
        inode = self.inode(ino)
        if not inode.is_dir:
            raise errors.NotADirectory(f"inode {ino} is no directory")
        return inode

    def live_directory(self, ino: int) -> Inode:
        """A directory that a name can be made in: one that was removed while held has none."""
        inode = self.directory(ino)
        if inode.orphan:
            raise errors.NotFound("the directory was removed")
        return inode

    def entry(self, parent: int, name: bytes) -> DirEntry | None:
        value = self.tree.get(keys.name_key(parent, name))
        return None if value is None else keys.unpack_by_name(name, value)

    def lookup(self, parent: int, name: bytes) -> Inode:
        """The inode that ``name`` in directory ``parent`` stands for; NotFound."""
        value = self.tree.get(keys.name_key(parent, name))
        if value is None:
            self.directory(parent)
            raise _not_here(name)
        return self.inode(keys.unpack_by_name(name, value).ino)

    def look_at_name(self, parent: int, name: bytes) -> None:
        """Read what making, replacing or removing a name reads, and change nothing: for who does
        not want to wait for it in the middle (engine/cold.py).  Errors are those of the change."""
        directory = self.directory(parent)
        self._load_for_entry(directory, name)
        self.tree.load(keys.target_prefix(self.pool.state.next_ino))
        entry = self.entry(parent, name)
        if entry is not None:
            self._load_of_entry(directory, entry, self.inode(entry.ino))

    def readdir(self, ino: int, cookie: int = 0, limit: int = 1024) -> list[DirEntry]:
        """At most ``limit`` entries after ``cookie``, in cookie order."""
        self.directory(ino)
        found: list[DirEntry] = []
        if cookie >= keys.COOKIE_MAX:
            return found
        start = keys.cookie_key(ino, cookie + 1)
        for key, value in self.tree.scan(start, keys.cookie_prefix(ino)):
            if len(found) == limit:
                break
            found.append(keys.unpack_by_cookie(key, value))
        return found

    def create(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, *, rdev: int = 0,
        verifier: int = 0,
    ) -> Inode:  # fmt: skip
        """A regular file (also when ``mode`` has no type), device, fifo or socket."""
        directory = self._check_new(parent, name)
        if not stat.S_IFMT(mode):
            mode |= stat.S_IFREG
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            raise errors.InvalidArgument("use mkdir or symlink for these")
        inode = self.new_inode(mode, uid, self._group(directory, gid))
        inode.rdev = rdev
        inode.verifier = verifier
        self._enter(directory, name, inode)
        return inode

    def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Inode:
        directory = self._check_new(parent, name)
        if directory.nlink >= LINKS_MAX:
            raise errors.TooManyLinks("the directory has too many subdirectories")
        mode = stat.S_IFDIR | stat.S_IMODE(mode) | (directory.mode & stat.S_ISGID)
        inode = self.new_inode(mode, uid, self._group(directory, gid))
        inode.nlink = 2
        directory.nlink += 1
        self._enter(directory, name, inode)
        return inode

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Inode:
        if not target or b"\0" in target:
            raise errors.InvalidArgument("a symlink's target is not empty and has no NUL")
        if len(target) > keys.SYMLINK_MAX:
            raise errors.NameTooLong(f"symlink target of {len(target)} bytes")
        directory = self._check_new(parent, name)
        self.tree.load(keys.target_prefix(self.pool.state.next_ino))
        inode = self.new_inode(stat.S_IFLNK | 0o777, uid, self._group(directory, gid))
        inode.size = len(target)
        for chunk, start in enumerate(range(0, len(target), keys.CHUNK_BYTES)):
            piece = target[start : start + keys.CHUNK_BYTES]
            self.tree.put(keys.target_key(inode.ino, chunk), piece)
        self._enter(directory, name, inode)
        return inode

    def readlink(self, ino: int) -> bytes:
        if not self.inode(ino).is_symlink:
            raise errors.InvalidArgument(f"inode {ino} is no symlink")
        prefix = keys.target_prefix(ino)
        return b"".join(value for _, value in self.tree.scan(prefix, prefix))

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        directory = self._check_new(parent, name)
        inode = self.inode(ino)
        if inode.is_dir:
            raise errors.NotPermitted("a directory has one name only")
        if inode.nlink >= LINKS_MAX:
            raise errors.TooManyLinks(f"inode {ino} has {inode.nlink} links already")
        if inode.orphan:
            raise errors.NotFound("the file was deleted; publish it or clone it")
        inode.nlink += 1
        inode.ctime_ns = now_ns()
        self._add_entry(directory, name, inode)
        self.touch(inode)
        return inode

    def unlink(self, parent: int, name: bytes) -> None:
        self.check_writable()
        directory = self.directory(parent)
        entry, inode = self._must_find(directory, name)
        if inode.is_dir:
            raise errors.IsADirectory(f"{name!r} is a directory; use rmdir")
        self.check_not_presented(inode)
        self._remove_entry(directory, entry)
        self._drop_link(inode)

    def rmdir(self, parent: int, name: bytes) -> None:
        self.check_writable()
        directory = self.directory(parent)
        entry, inode = self._must_find(directory, name)
        if not inode.is_dir:
            raise errors.NotADirectory(f"{name!r} is no directory")
        if inode.entries:
            raise errors.NotEmpty(f"directory {name!r} still has {inode.entries} entries")
        self._remove_entry(directory, entry)
        directory.nlink -= 1
        self.mark_dirty(directory)
        self._drop_inode(inode)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        """rename(2) and renameat2(2) with NOREPLACE or EXCHANGE."""
        self.check_writable()
        source_dir, target_dir = self.directory(parent), self.live_directory(new_parent)
        keys.check_name(new_parent, new_name)
        entry, inode = self._must_find(source_dir, name)
        existing = self.entry(new_parent, new_name)
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise errors.InvalidArgument(f"unknown rename flags {flags}")
        if inode.is_dir:
            self._check_not_below(inode, target_dir)
        if flags == RENAME_EXCHANGE:
            self._exchange(source_dir, entry, inode, target_dir, existing)
            return
        if existing is not None:
            if flags == RENAME_NOREPLACE:
                raise errors.AlreadyExists(f"{new_name!r} exists")
            if existing.ino == entry.ino:
                return
            target = self.inode(existing.ino)
            self._check_replace(inode, target)
            self.check_not_presented(target)
            self._check_counts(target_dir, target)
        if inode.is_dir and source_dir is not target_dir and target_dir.nlink >= LINKS_MAX:
            raise errors.TooManyLinks("the directory has too many subdirectories")
        self._load_for_entry(target_dir, new_name)
        if existing is not None:
            self._load_of_entry(target_dir, existing, self.inode(existing.ino))
        self._remove_entry(source_dir, entry)
        if existing is not None:
            self._replace_target(target_dir, existing)
        place = entry if source_dir is target_dir else None
        self._add_entry(target_dir, new_name, inode, existing or place)
        if inode.is_dir:
            source_dir.nlink -= 1
            target_dir.nlink += 1
            self.mark_dirty(source_dir)  # a flush may have come since it was touched
            self.mark_dirty(target_dir)
        inode.ctime_ns = now_ns()
        self.touch(inode)

    def create_staged(self, mode: int, uid: int, gid: int) -> Inode:
        """A file without a name, held by the caller: invisible until ``publish``."""
        self.check_writable()
        self.pool.check_room()
        inode = self.new_inode(stat.S_IFREG | stat.S_IMODE(mode), uid, gid)
        inode.nlink = 0
        self._remember(inode)
        self.make_orphan(inode)
        self._holds[inode.ino] = 1
        return inode

    def publish(self, ino: int, parent: int, name: bytes, *, replace: bool = False) -> Inode:
        """Give a staged file its name, and the caller's hold back, in one step."""
        self.check_writable()
        self.pool.check_room()
        inode = self.inode(ino)
        if not inode.orphan or inode.nlink:
            raise errors.InvalidArgument(f"inode {ino} is not staged")
        directory = self.live_directory(parent)
        keys.check_name(parent, name)
        self.check_quota(inode.blocks)
        self._load_for_entry(directory, name)
        existing = self.entry(parent, name)
        if existing is not None:
            if not replace:
                raise errors.AlreadyExists(f"{name.decode(errors='replace')!r} exists")
            if self.inode(existing.ino).is_dir:
                raise errors.IsADirectory(f"{name!r} is a directory; remove it first")
            self.check_not_presented(self.inode(existing.ino))
            self._check_counts(directory, self.inode(existing.ino))
            self._load_of_entry(directory, existing, self.inode(existing.ino))
            self._replace_target(directory, existing)
        self.pool.adopt_orphan(self.id, ino)
        if self.tree.shared_epoch > inode.shared_epoch:  # it has nodes from before and after that
            inode.shared_epoch = self.pool.bump_epoch()
        inode.orphan = False
        inode.nlink = 1
        self._count(inode, 1)
        self._add_entry(directory, name, inode, existing)
        self.touch(inode)
        self.release(ino)
        return inode

    def path_of(self, ino: int) -> str | None:
        """The path of an inode by its last-made name; None when that name is gone."""
        parts: list[str] = []
        seen: set[int] = set()
        while ino != ROOT_INO:
            if ino in seen:
                return None
            seen.add(ino)
            try:
                inode = self.inode(ino)
            except errors.Stale:
                return None
            name = self.last_name(inode)
            if name is None:
                return None
            parts.append(name.decode(errors="surrogateescape"))
            ino = inode.parent
        return "/" + "/".join(reversed(parts))

    def last_name(self, inode: Inode) -> bytes | None:
        """The last name made for an inode, in its ``parent``; None when that is gone."""
        value = self.tree.get(keys.cookie_key(inode.parent, inode.parent_cookie))
        if value is None:
            return None
        found = keys.unpack_by_cookie(keys.cookie_key(0, 0), value)
        return found.name if found.ino == inode.ino else None

    def _check_new(self, parent: int, name: bytes) -> Inode:
        self.check_writable()
        directory = self.live_directory(parent)
        keys.check_name(parent, name)
        if self.tree.get(keys.name_key(parent, name)) is not None:
            raise errors.AlreadyExists(f"{name.decode(errors='replace')!r} exists")
        self.pool.check_room()
        self._load_for_entry(directory, name)
        return directory

    def _load_for_entry(self, directory: Inode, name: bytes) -> None:
        """A new entry's path, so that damage there is met before anything has changed."""
        self.tree.load(keys.name_key(directory.ino, name))
        self.tree.load(keys.cookie_key(directory.ino, directory.next_cookie))
        self.tree.load(keys.inode_key(self.pool.state.next_ino))

    def _load_of_entry(self, directory: Inode, entry: DirEntry, inode: Inode) -> None:
        """The paths of an entry and of all that goes with an inode's last name."""
        ino = inode.ino
        load = self.tree.load
        load(keys.name_key(directory.ino, entry.name), delete=True)
        load(keys.cookie_key(directory.ino, entry.cookie), delete=True)
        load(keys.inode_key(ino), delete=True)
        for prefix in (keys.target_prefix(ino), keys.xattr_prefix(ino)):
            for key, _ in self.tree.scan(prefix, prefix):
                load(key, delete=True)

    @staticmethod
    def _group(directory: Inode, gid: int) -> int:
        return directory.gid if directory.mode & stat.S_ISGID else gid

    def _must_find(self, directory: Inode, name: bytes) -> tuple[DirEntry, Inode]:
        entry = self.entry(directory.ino, name)
        if entry is None:
            raise _not_here(name)
        inode = self.inode(entry.ino)
        self._check_counts(directory, inode)
        self._load_of_entry(directory, entry, inode)
        return entry, inode

    def check_not_presented(self, inode: Inode) -> None:
        """Busy when the inode, or one below it, is some host's disk; a rename is no harm to it."""
        presented = self.pool.presented
        if inode.is_dir:
            below = (i for v, i in presented if v == self.id and self._is_below(i, inode))
            found = next(below, None)
        else:
            found = inode.ino if (self.id, inode.ino) in presented else None
        if found is not None:
            raise errors.Busy(
                f"{self}:{self.path_of(found)} is presented as a LUN; take that away first "
                "(`ramet share lun rm`)"
            )

    def _is_below(self, ino: int, directory: Inode) -> bool:
        seen: set[int] = set()
        while directory.is_dir and ino != ROOT_INO and ino not in seen:
            seen.add(ino)
            try:
                ino = self.inode(ino).parent
            except errors.Stale:
                return False
            if ino == directory.ino:
                return True
        return False

    def _check_counts(self, directory: Inode, inode: Inode) -> None:
        """That no count falls below zero when the inode leaves the directory."""
        least = 2 if inode.is_dir else 1
        fewest = 3 if inode.is_dir else 2
        if (
            not directory.entries or directory.nlink < fewest or inode.nlink < least
            or self.record.files < 2
        ):  # fmt: skip
            raise errors.Corrupt(
                f"{self}: the counts of directory {directory.ino} or of inode {inode.ino} in it "
                "are wrong; run `ramet fsck`"
            )

    def _enter(self, directory: Inode, name: bytes, inode: Inode) -> None:
        """A new inode with its first name."""
        self._add_entry(directory, name, inode)
        self._count(inode, 1)
        self.store_inode(inode)
        self._remember(inode)

    def _add_entry(
        self, directory: Inode, name: bytes, inode: Inode, place: DirEntry | None = None
    ) -> None:
        """``place``: the entry of this directory, gone just now, whose cookie the new one has."""
        cookie = directory.next_cookie if place is None else place.cookie
        directory.next_cookie += place is None
        directory.entries += 1
        put, parent = self.tree.put, directory.ino
        put(keys.name_key(parent, name), keys.pack_by_name(cookie, inode.ino, inode.kind))
        put(keys.cookie_key(parent, cookie), keys.pack_by_cookie(inode.ino, inode.kind, name))
        inode.parent, inode.parent_cookie = parent, cookie
        directory.mtime_ns = directory.ctime_ns = now_ns()
        self.touch(directory)
        self.pool.notify(self.id, inode.ino, "entry", name, parent)

    def _remove_entry(self, directory: Inode, entry: DirEntry) -> None:
        self.tree.delete(keys.name_key(directory.ino, entry.name))
        self.tree.delete(keys.cookie_key(directory.ino, entry.cookie))
        directory.entries -= 1
        directory.mtime_ns = directory.ctime_ns = now_ns()
        self.touch(directory)
        self.pool.notify(self.id, entry.ino, "entry", entry.name, directory.ino)

    def _drop_link(self, inode: Inode) -> None:
        inode.nlink -= 1
        if inode.nlink:
            inode.ctime_ns = now_ns()
            self.touch(inode)
            self.pool.notify(self.id, inode.ino, "attr")
        else:
            self._drop_inode(inode)

    def _drop_inode(self, inode: Inode) -> None:
        """No name is left: delete the inode, or keep it as an orphan while it is held."""
        ino = inode.ino
        inode.nlink = 0
        inode.ctime_ns = now_ns()
        if inode.is_symlink:
            self._delete_range(keys.target_prefix(ino))
        self._delete_range(keys.xattr_prefix(ino))
        if inode.flags & FLAG_MARKED:
            prefix = keys.mark_of_inode_prefix(ino)
            for key, _ in list(self.tree.scan(prefix, prefix)):
                self.tree.delete(key)
                self.tree.delete(keys.mark_key(key[9:], ino))
        self.tree.delete(keys.inode_key(ino))
        self._count(inode, -1)
        if ino in self._holds:
            self.make_orphan(inode)
        else:
            self.pool.reclaim.add_map(inode.root, inode.height, self.effective_epoch(inode))
            self._forget(inode)

    def _delete_range(self, prefix: bytes) -> None:
        for key, _ in list(self.tree.scan(prefix, prefix)):
            self.tree.delete(key)

    def _count(self, inode: Inode, sign: int) -> None:
        record = self.record
        record.files += sign
        record.blocks += sign * inode.blocks
        record.logical_bytes += sign * inode.size
        self.store_record()

    def _check_not_below(self, inode: Inode, directory: Inode) -> None:
        ino = directory.ino
        seen: set[int] = set()
        while ino != ROOT_INO:
            if ino == inode.ino:
                raise errors.InvalidArgument("a directory cannot move below itself")
            if ino in seen:
                raise errors.Corrupt(f"{self}: directory {ino} is below itself; run `ramet fsck`")
            seen.add(ino)
            ino = self.inode(ino).parent

    @staticmethod
    def _check_replace(inode: Inode, target: Inode) -> None:
        if target.is_dir:
            if not inode.is_dir:
                raise errors.IsADirectory("the target is a directory")
            if target.entries:
                raise errors.NotEmpty("the target directory is not empty")
        elif inode.is_dir:
            raise errors.NotADirectory("the target is no directory")

    def _replace_target(self, directory: Inode, existing: DirEntry) -> None:
        target = self.inode(existing.ino)
        self._remove_entry(directory, existing)
        if target.is_dir:
            directory.nlink -= 1
            self._drop_inode(target)
        else:
            self._drop_link(target)

    def _exchange(
        self, source_dir: Inode, entry: DirEntry, inode: Inode, target_dir: Inode,
        existing: DirEntry | None,
    ) -> None:  # fmt: skip
        if existing is None:
            raise errors.NotFound("exchange needs both names to exist")
        other = self.inode(existing.ino)
        if other is inode:
            return
        if other.is_dir:
            self._check_not_below(other, source_dir)
        self._load_of_entry(target_dir, existing, other)
        self._remove_entry(source_dir, entry)
        self._remove_entry(target_dir, existing)
        self._add_entry(target_dir, existing.name, inode, existing)
        self._add_entry(source_dir, entry.name, other, entry)
        for moved, old, new in ((inode, source_dir, target_dir), (other, target_dir, source_dir)):
            if moved.is_dir:
                old.nlink -= 1
                new.nlink += 1
                self.mark_dirty(old)
                self.mark_dirty(new)
            moved.ctime_ns = now_ns()
            self.touch(moved)


def _not_here(name: bytes) -> errors.RametError:
    """Why a name is not found: of one that no directory may hold, the user is told that."""
    if len(name) > keys.NAME_MAX:
        return errors.NameTooLong(f"name of {len(name)} bytes; the limit is {keys.NAME_MAX}")
    return errors.NotFound(f"no file {name.decode(errors='replace')!r} here")
