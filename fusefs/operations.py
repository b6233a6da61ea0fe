"""The requests of a mount, straight on the engine.

Engine calls are synchronous and short, so each request is one atomic step on the loop's thread; an
``await`` stands only where a request waits for durability, for room among the dirty nodes, or on a
thread for what is not in memory (cold_requests.py).  places.py says which file a request is about;
ranges.py, xattrs.py and space.py have requests of their own.

The kernel may keep attributes and names for a second.  What it is told is noted (known.py), so that
it hears of what other doors change.
"""

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Sequence

import pyfuse3
import trio

from engine import DirEntry, Inode, Store, Volume, errors, numbers
from engine.keys import ROOT_INO, SNAPSHOT_DIR
from engine.namespace import RENAME_EXCHANGE
from fusefs.cold_requests import OnThread
from fusefs.errnos import FAILURES, mapped
from fusefs.extra import direct, writer
from fusefs.invalidate import STUCK_S, Drop
from fusefs.known import Known
from fusefs.listings import Listings
from fusefs.privileges import stripped
from fusefs.ranges import Ranges
from fusefs.space import Statfs
from fusefs.xattrs import Xattrs

BLOCK_BYTES = 4096
PREFERRED_IO_BYTES = 1 << 17
ATTR_TIMEOUT_S = 1.0


class Operations(Xattrs, Ranges, Statfs):
    """One mount: of all volumes, or of one.

    ``durable`` returns when all that was done before it is on disk; ``admit`` when there is room
    for another change; ``on_thread`` runs what waits for the disk to read.  ``real_blocks`` makes
    st_blocks the mapped blocks instead of the size (coreutils' cp then takes sparse-looking files
    for sparse and does not clone them).
    """

    enable_writeback_cache = False
    supports_dot_lookup = True

    def __init__(
        self,
        store: Store,
        *,
        volume: Volume | None,
        durable: Callable[[], Awaitable[None]],
        admit: Callable[[], Awaitable[None]],
        on_thread: OnThread,
        real_blocks: bool = False,
        known: Known | None = None,
        drop_pages: Drop | None = None,
        settled: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        super().__init__(
            store, volume=volume, durable=durable, admit=admit, on_thread=on_thread,
            real_blocks=real_blocks, known=known, drop_pages=drop_pages,
        )  # fmt: skip
        self._listings = Listings()
        self._settled = settled

    def _named(
        self, entry: pyfuse3.EntryAttributes, parent: int, name: bytes
    ) -> pyfuse3.EntryAttributes:
        """What the kernel gets as an inode of its own, until it forgets it, and as a name."""
        self.known.named(entry.st_ino)
        if parent == numbers.ROOT:
            self.known.names_at_root.add(name)
        return entry

    def _unnamed(self, parent: int, name: bytes) -> None:
        """The kernel knows that a name is gone: it is who asked."""
        if parent == numbers.ROOT:
            self.known.names_at_root.discard(name)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self.known.forget(inode_list)

    def _attributes(self, volume: Volume, inode: Inode) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = self._number(volume, inode.ino)
        entry.generation = inode.generation
        entry.attr_timeout = entry.entry_timeout = ATTR_TIMEOUT_S
        entry.st_mode = inode.mode
        entry.st_nlink = inode.nlink
        entry.st_uid, entry.st_gid = inode.uid, inode.gid
        entry.st_rdev = inode.rdev
        entry.st_size = inode.size
        entry.st_blksize = PREFERRED_IO_BYTES
        blocks = inode.blocks if self.real_blocks else -(-inode.size // BLOCK_BYTES)
        entry.st_blocks = blocks * (BLOCK_BYTES // 512)
        entry.st_atime_ns, entry.st_mtime_ns = inode.atime_ns, inode.mtime_ns
        entry.st_ctime_ns = inode.ctime_ns
        return entry

    def _directory(self, number: int) -> pyfuse3.EntryAttributes:
        """The attributes of a directory that no volume stores."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = number
        entry.entry_timeout = 0.0
        entry.attr_timeout = ATTR_TIMEOUT_S  # the root's are asked for in each walk of a path
        entry.st_mode = stat.S_IFDIR | 0o555
        entry.st_nlink = 2
        entry.st_blksize = PREFERRED_IO_BYTES
        return entry

    def _attributes_of(self, number: int) -> pyfuse3.EntryAttributes:
        if self._is_unstored(number):
            return self._directory(number)
        volume, ino = self._locate(number)
        self.known.told(number)
        try:
            inode = volume.inode(ino)
        except errors.Stale:
            if number not in self.known.departed:
                raise
            inode = self.known.departed[number]
        return self._attributes(volume, inode)

    # --- names

    async def _admit_names(self, *names: tuple[int, bytes]) -> None:
        """Before names in directories change: there is room, and nothing has to be waited for."""
        await self.admit()
        await self.cold.before(self._look_at, names)

    def _look_at(self, names: tuple[tuple[int, bytes], ...]) -> None:
        for number, name in names:
            volume, ino = self._locate(number)
            volume.look_at_name(ino, name)

    @mapped
    async def lookup(
        self, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        found = await self.cold.found(self._looked_up, parent, name)
        return self._named(found, parent, name)

    def _looked_up(self, parent: int, name: bytes) -> pyfuse3.EntryAttributes:
        if name == b".":
            return self._attributes_of(parent)
        if name == b"..":
            return self._attributes_of(self._parent(parent))
        if parent == numbers.ROOT and self.single is None:
            volume = self.store.volume(name.decode(errors="surrogateescape"))
            return self._attributes(volume, volume.inode(ROOT_INO))
        if numbers.is_snapshots(parent):
            volume = self.store.volume_by_id(numbers.volume_of_snapshots(parent))
            snapshot = self.store.snapshot(volume, name.decode(errors="surrogateescape"))
            return self._attributes(snapshot, snapshot.inode(ROOT_INO))
        volume, ino = self._locate(parent)
        if ino == ROOT_INO and name == SNAPSHOT_DIR and not volume.is_snapshot:
            return self._directory(numbers.snapshots_of(volume.id))
        return self._attributes(volume, volume.lookup(ino, name))

    def _parent(self, number: int) -> int:
        if numbers.is_snapshots(number):
            volume = self.store.volume_by_id(numbers.volume_of_snapshots(number))
            return self._number(volume, ROOT_INO)
        if number == numbers.ROOT:
            return number
        volume, ino = self._locate(number)
        if ino != ROOT_INO:
            return self._number(volume, volume.directory(ino).parent)
        return numbers.snapshots_of(volume.parent.id) if volume.parent else numbers.ROOT

    @mapped
    async def getattr(self, number: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return await self.cold.found(self._attributes_of, number)

    @mapped
    async def setattr(
        self, number: int, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields,
        fh: int | None, ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:  # fmt: skip
        await self.admit()
        if fields.update_size and fh is not None:
            await self.cold.edges(fh, attr.st_size)
        await self.cold.before(self._look_at_file, number, fh, fields.update_size, attr.st_size)
        volume, ino = self._locate(number) if fh is None else self.opened(fh)
        mode = None
        if fields.update_uid or fields.update_gid or (fields.update_size and ctx.uid):
            mode = stripped(volume.inode(ino))
        inode = volume.setattr(
            ino,
            mode=attr.st_mode if fields.update_mode else mode,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        self.known.told(number)
        return self._attributes(volume, inode)

    def _look_at_file(self, number: int, fh: int | None, cut: bool, size: int) -> None:
        volume, ino = self._locate(number) if fh is None else self.opened(fh)
        volume.inode(ino)
        if cut:
            volume.look_at_cut(ino, size)

    @mapped
    async def readlink(self, number: int, ctx: pyfuse3.RequestContext) -> bytes:
        volume, ino = self._locate(number)
        return await self.cold.found(volume.readlink, ino)

    @mapped
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self._admit_names((parent, name))
        volume, ino = self._locate(parent)
        mode &= ~ctx.umask
        inode = volume.create(ino, name, mode, ctx.uid, ctx.gid, rdev=rdev)
        return self._named(self._attributes(volume, inode), parent, name)

    @mapped
    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self._admit_names((parent, name))
        volume, ino = self._locate(parent)
        inode = volume.mkdir(ino, name, mode & ~ctx.umask, ctx.uid, ctx.gid)
        return self._named(self._attributes(volume, inode), parent, name)

    @mapped
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self._admit_names((parent, name))
        volume, ino = self._locate(parent)
        inode = volume.symlink(ino, name, target, ctx.uid, ctx.gid)
        return self._named(self._attributes(volume, inode), parent, name)

    @mapped
    async def link(
        self, number: int, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self._admit_names((parent, name))
        await self.cold.before(self._look_at_file, number, None, False, 0)
        volume, ino = self._locate(number)
        into, directory = self._locate(parent)
        if into is not volume:
            raise errors.CrossVolume("a link stays in its volume; clone the file instead")
        inode = volume.link(ino, directory, name)
        return self._named(self._attributes(volume, inode), parent, name)

    @mapped
    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._admit_names((parent, name))
        volume, ino = self._locate(parent)
        inode = volume.lookup(ino, name)
        volume.unlink(ino, name)
        self._unnamed(parent, name)
        self.known.departs(self._number(volume, inode.ino), inode)

    @mapped
    async def rmdir(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._admit_names((parent, name))
        volume, ino = self._locate(parent)
        inode = volume.lookup(ino, name)
        volume.rmdir(ino, name)
        self._unnamed(parent, name)
        self.known.departs(self._number(volume, inode.ino), inode)

    @mapped
    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:  # fmt: skip
        await self._admit_names((parent, name), (new_parent, new_name))
        volume, ino = self._locate(parent)
        into, directory = self._locate(new_parent)
        if into is not volume:
            raise errors.CrossVolume("a rename stays in its volume; clone the file instead")
        target = volume.entry(directory, new_name)
        replaced = volume.inode(target.ino) if target else None
        volume.rename(ino, name, directory, new_name, flags)
        if not flags & RENAME_EXCHANGE:
            self._unnamed(parent, name)
        if new_parent == numbers.ROOT:
            self.known.names_at_root.add(new_name)
        if replaced:
            self.known.departs(self._number(volume, replaced.ino), replaced)

    # --- directories

    @mapped
    async def opendir(self, number: int, ctx: pyfuse3.RequestContext) -> int:
        await self.cold.found(self._attributes_of, number)
        return self._listings.opened(number)

    @mapped
    async def releasedir(self, fh: int) -> None:
        self._listings.closed(fh)

    @mapped
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries after the cookie ``start_id``; 1 and 2 are '.' and '..'.

        What the token has been told the kernel knows only if it is answered: an error after that
        is left to the next call, which begins with it.
        """
        directory = self._listings.number(fh)
        cookie = start_id
        for cookie, name in ((1, b"."), (2, b"..")):
            if start_id < cookie:
                number = directory if cookie == 1 else self._parent(directory)
                if not pyfuse3.readdir_reply(token, name, self._attributes_of(number), cookie):
                    return
        if self._is_unstored(directory):
            self._list_volumes(directory, start_id, token)
            return
        volume, ino = self._locate(directory)
        end = self._listings.end(fh, start_id, volume.directory(ino).next_cookie)
        cookie = first = max(start_id, 2)
        try:
            while entries := await self.cold.found(self._listed, volume, ino, cookie):
                for entry in entries:
                    if entry.cookie >= end:
                        return
                    if directory == numbers.ROOT:
                        self.known.names_at_root.add(entry.name)
                    if not self._reply_entry(volume, entry, token):
                        return
                    cookie = entry.cookie
        except FAILURES:
            if cookie == first:
                raise

    def _listed(self, volume: Volume, ino: int, cookie: int) -> list[DirEntry]:
        """A page of entries, whose inodes are in memory."""
        entries = volume.readdir(ino, cookie, 256)
        for entry in entries:
            self._gone(volume, entry)
        return entries

    @staticmethod
    def _gone(volume: Volume, entry: DirEntry) -> Inode | None:
        try:
            return volume.inode(entry.ino)
        except errors.Stale:
            return None

    def _reply_entry(self, volume: Volume, entry: DirEntry, token: pyfuse3.ReaddirToken) -> bool:
        inode = self._gone(volume, entry)
        if inode is None:
            return True
        attributes = self._attributes(volume, inode)
        return self._reply(token, entry.name, attributes, entry.cookie)

    def _reply(
        self, token: pyfuse3.ReaddirToken, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int
    ) -> bool:
        """The kernel takes an entry of a directory for a lookup, if there was room for it."""
        if not pyfuse3.readdir_reply(token, name, entry, cookie):
            return False
        self.known.named(entry.st_ino)
        return True

    def _list_volumes(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Volumes or snapshots; the cookie is the volume's number, which is never reused."""
        if fh == numbers.ROOT:
            found = self.store.volumes()
        else:
            volume = self.store.volume_by_id(numbers.volume_of_snapshots(fh))
            found = self.store.snapshots(volume)
        for each in sorted(found, key=lambda v: v.id):
            cookie = each.id + 2
            if cookie > start_id:
                entry = self._attributes(each, each.inode(ROOT_INO))
                if not self._reply(token, each.name.encode(), entry, cookie):
                    return

    # --- files

    @mapped
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """The kernel has looked, and the name was free.  If another door has taken it since, ESTALE
        makes it look again, and check whether the caller may open what is there."""
        await self._admit_names((parent, name))
        volume, ino = self._locate(parent)
        try:
            inode = volume.create(ino, name, mode & ~ctx.umask, ctx.uid, ctx.gid)
        except errors.AlreadyExists:
            if flags & os.O_EXCL:
                raise
            raise pyfuse3.FUSEError(errno.ESTALE) from None
        return self._hold(volume, inode.ino), self._named(
            self._attributes(volume, inode), parent, name
        )

    @mapped
    async def open(
        self, number: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:  # fmt: skip
        """The kernel leaves O_TRUNC to us (FUSE_ATOMIC_O_TRUNC, which libfuse asks for)."""
        volume, ino = self._locate(number)
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY and volume.read_only:
            raise errors.ReadOnly("a snapshot is read-only; clone it")
        if flags & os.O_TRUNC:
            await self.admit()
            await self.cold.before(volume.look_at_cut, ino, 0)
            self.strip(volume, ino, ctx.uid)
            volume.setattr(ino, size=0)
        return await self.cold.found(self._hold, volume, ino)

    @mapped
    async def release(self, fh: int) -> None:
        volume, ino, era, _ = self._handles.pop(fh)
        if era == volume.era:
            volume.release(ino)

    # Reads and writes come here when they could not be answered at once (at_once.py).

    @mapped
    async def read(  # type: ignore[override]
        self, fh: int, offset: int, size: int
    ) -> memoryview:  # fmt: skip
        if not direct():
            self.used(fh, offset, size)
        data = await self.cold.read(fh, offset, size)
        self.known.told(self._handles[fh][3])  # a notice may have gone out since it began
        return data

    @mapped
    async def write(self, fh: int, offset: int, data: bytes) -> int:
        uid, is_direct = writer(), direct()
        if not is_direct:
            self.used(fh, offset, len(data))
        await self.admit()
        if uid:
            self.strip(*self.opened(fh), uid)
        self.writes += 1
        done = await self.cold.write(fh, offset, data)
        if is_direct and self.drop(fh, offset, done):
            with trio.move_on_after(STUCK_S):  # as long as others are held (invalidate.py)
                await self._settled()
        return done

    @mapped
    async def flush(self, fh: int) -> None:
        """close(2) promises nothing about the disk: the kernel need not ask again."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @mapped
    async def fsync(self, fh: int, datasync: bool) -> None:
        self.opened(fh)
        await self.durable()

    @mapped
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.durable()
