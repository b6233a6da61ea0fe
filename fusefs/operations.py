"""The requests of a mount, straight on the engine.

Engine calls are synchronous and short, so each request is one atomic step on the loop's thread; an
``await`` stands only where a request waits for durability or for room among the dirty nodes.  A
file handle remembers the era of its volume: a forced restore makes it stale, even where the same
inode is there again, so that no program goes on writing into a past it has not seen.

The kernel may keep attributes and names for a second.  What it is told is noted (known.py), so that
it hears of what other doors change.
"""

import json
import mmap
import os
import stat
from collections.abc import Awaitable, Callable, Sequence

import pyfuse3

from engine import DirEntry, Inode, Store, Volume, errors, numbers
from engine.keys import ROOT_INO, SNAPSHOT_DIR
from fusefs.errnos import FAILURES, mapped, plain, refusal
from fusefs.extra import writer
from fusefs.known import Known
from fusefs.privileges import strip, stripped

BLOCK_BYTES = 4096
READ_BYTES_MAX = 1 << 20
PREFERRED_IO_BYTES = 1 << 17
ATTR_TIMEOUT_S = 1.0
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
SEEK_DATA, SEEK_HOLE = 3, 4
STATS_XATTR = b"user.ramet.stats"
VIRTUAL_PREFIX = b"user.ramet."


class Operations(pyfuse3.Operations):  # type: ignore[misc]
    """One mount: of all volumes, or of one.

    ``durable`` returns when all that was done before it is on disk; ``admit`` when there is room
    for another change.  ``real_blocks`` makes st_blocks the mapped blocks instead of the size
    (coreutils' cp then takes sparse-looking files for sparse and does not clone them).
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
        real_blocks: bool = False,
        known: Known | None = None,
    ) -> None:
        super().__init__()
        self.store = store
        self.single = volume
        self.durable = durable
        self.admit = admit
        self.real_blocks = real_blocks
        self.known = known or Known()
        self.writes = 0
        self.shared_ranges = 0
        self.attributes_asked = 0
        self._handles: dict[int, tuple[Volume, int, int, int]] = {}  # volume, inode, era, number
        self._next_handle = 1
        # On a page's start: the kernel copies into it, and out of it again, in half the time.
        self._scratch = memoryview(mmap.mmap(-1, READ_BYTES_MAX))

    # --- which volume, which inode

    def _locate(self, number: int) -> tuple[Volume, int]:
        if number == numbers.ROOT:
            if self.single is None:
                raise errors.NotPermitted("the mount's root holds volumes; use `ramet volume`")
            return self.single, ROOT_INO
        if numbers.is_snapshots(number):
            raise errors.ReadOnly(".snapshots changes by `ramet snapshot` only")
        volume_id, ino = numbers.split(number)
        return self.store.volume_by_id(volume_id), ino

    def _hold(self, volume: Volume, ino: int) -> pyfuse3.FileInfo:
        volume.hold(ino)
        handle = self._next_handle
        self._next_handle = handle + 1
        self._handles[handle] = (volume, ino, volume.era, self._number(volume, ino))
        return pyfuse3.FileInfo(fh=handle)

    def _opened(self, handle: int) -> tuple[Volume, int]:
        volume, ino, era, number = self._handles[handle]
        self.known.told(number)  # the answer to a read or write stays in the kernel's pages
        if era != volume.era:
            raise errors.Stale("the volume was restored or removed; open the file again")
        return volume, ino

    def _number(self, volume: Volume, ino: int) -> int:
        if ino == ROOT_INO and volume is self.single:
            return numbers.ROOT
        return numbers.join(volume.id, ino)

    def _named(self, entry: pyfuse3.EntryAttributes) -> pyfuse3.EntryAttributes:
        """What the kernel gets as an inode of its own, until it forgets it."""
        self.known.named(entry.st_ino)
        return entry

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
        if numbers.is_snapshots(number) or (number == numbers.ROOT and self.single is None):
            return self._directory(number)
        volume, ino = self._locate(number)
        self.known.told(number)
        return self._attributes(volume, volume.inode(ino))

    # --- names

    @mapped
    async def lookup(
        self, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._named(self._looked_up(parent, name))

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
        return self._attributes_of(number)

    @mapped
    async def setattr(
        self, number: int, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields,
        fh: int | None, ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:  # fmt: skip
        await self.admit()
        volume, ino = self._locate(number) if fh is None else self._opened(fh)
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

    @mapped
    async def readlink(self, number: int, ctx: pyfuse3.RequestContext) -> bytes:
        volume, ino = self._locate(number)
        return volume.readlink(ino)

    @mapped
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self.admit()
        volume, ino = self._locate(parent)
        mode &= ~ctx.umask
        inode = volume.create(ino, name, mode, ctx.uid, ctx.gid, rdev=rdev)
        return self._named(self._attributes(volume, inode))

    @mapped
    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self.admit()
        volume, ino = self._locate(parent)
        inode = volume.mkdir(ino, name, mode & ~ctx.umask, ctx.uid, ctx.gid)
        return self._named(self._attributes(volume, inode))

    @mapped
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self.admit()
        volume, ino = self._locate(parent)
        inode = volume.symlink(ino, name, target, ctx.uid, ctx.gid)
        return self._named(self._attributes(volume, inode))

    @mapped
    async def link(
        self, number: int, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self.admit()
        volume, ino = self._locate(number)
        into, directory = self._locate(parent)
        if into is not volume:
            raise errors.CrossVolume("a link stays in its volume; clone the file instead")
        return self._named(self._attributes(volume, volume.link(ino, directory, name)))

    @mapped
    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self.admit()
        volume, ino = self._locate(parent)
        volume.unlink(ino, name)

    @mapped
    async def rmdir(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self.admit()
        volume, ino = self._locate(parent)
        volume.rmdir(ino, name)

    @mapped
    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:  # fmt: skip
        await self.admit()
        volume, ino = self._locate(parent)
        into, directory = self._locate(new_parent)
        if into is not volume:
            raise errors.CrossVolume("a rename stays in its volume; clone the file instead")
        volume.rename(ino, name, directory, new_name, flags)

    # --- directories

    @mapped
    async def opendir(self, number: int, ctx: pyfuse3.RequestContext) -> int:
        self._attributes_of(number)
        return number

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries after the cookie ``start_id``; 1 and 2 are '.' and '..'."""
        cookie = start_id
        for cookie, name in ((1, b"."), (2, b"..")):
            if start_id < cookie:
                number = fh if cookie == 1 else self._parent(fh)
                if not pyfuse3.readdir_reply(token, name, self._attributes_of(number), cookie):
                    return
        if numbers.is_snapshots(fh) or (fh == numbers.ROOT and self.single is None):
            self._list_volumes(fh, start_id, token)
            return
        volume, ino = self._locate(fh)
        cookie = max(start_id, 2)
        while entries := volume.readdir(ino, cookie, 256):
            for entry in entries:
                if not self._reply_entry(volume, entry, token):
                    return
            cookie = entries[-1].cookie

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
        await self.admit()
        volume, ino = self._locate(parent)
        inode = volume.create(ino, name, mode & ~ctx.umask, ctx.uid, ctx.gid)
        return self._hold(volume, inode.ino), self._named(self._attributes(volume, inode))

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
            strip(volume, ino, ctx.uid)
            volume.setattr(ino, size=0)
        return self._hold(volume, ino)

    @mapped
    async def release(self, fh: int) -> None:
        volume, ino, era, _ = self._handles.pop(fh)
        if era == volume.era:
            volume.release(ino)

    # Reads and writes map their errors themselves: a wrapper is a coroutine more for each.

    async def read(  # type: ignore[override]
        self, fh: int, offset: int, size: int
    ) -> memoryview:  # fmt: skip
        try:
            volume, ino = self._opened(fh)
            if size <= READ_BYTES_MAX:  # pyfuse3 replies before anything else runs: one will do
                buffer = self._scratch[:size]
            else:
                buffer = memoryview(bytearray(size))
            done = volume.read_into(ino, offset, buffer)
            return buffer if done == size else buffer[:done]
        except FAILURES as error:
            raise refusal(error) from error

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        try:
            uid = writer()
            await self.admit()
            volume, ino = self._opened(fh)
            self.writes += 1
            if uid:
                strip(volume, ino, uid)
            return volume.write(ino, offset, data)
        except FAILURES as error:
            raise refusal(error) from error

    async def flush(self, fh: int) -> None:
        """close(2) promises nothing about the disk."""

    @mapped
    async def fsync(self, fh: int, datasync: bool) -> None:
        self._opened(fh)
        await self.durable()

    @mapped
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.durable()

    @mapped
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        space = self.store.space()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        data.f_blocks = (space.physical_bytes + space.free_bytes) // BLOCK_BYTES
        data.f_bfree = data.f_bavail = space.free_bytes // BLOCK_BYTES
        data.f_files = 1 << 40
        data.f_ffree = data.f_favail = (1 << 40) - space.files
        data.f_namemax = 255
        return data

    # --- extended attributes

    def _virtual(self, number: int) -> dict[bytes, bytes]:
        """Attributes that Ramet computes; read-only."""
        if number == numbers.ROOT:
            stats = {
                "writes": self.writes, "shared_ranges": self.shared_ranges,
                "attributes_asked": self.attributes_asked,
            }  # fmt: skip
            return {STATS_XATTR: json.dumps(stats).encode()}
        volume, ino = self._locate(number)
        inode = volume.inode(ino)
        found = {VIRTUAL_PREFIX + b"referenced_bytes": b"%d" % (inode.blocks * BLOCK_BYTES)}
        if inode.cloned_ns:
            origin = f"{inode.origin_volume}:{inode.origin_ino}"
            found[VIRTUAL_PREFIX + b"cloned_from"] = origin.encode()
        return found

    @mapped
    async def getxattr(self, number: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        self.attributes_asked += 1
        if name.startswith(VIRTUAL_PREFIX):
            value = self._virtual(number).get(name)
            if value is None:
                raise errors.NoAttribute(f"no attribute {name!r}")
            return value
        if numbers.is_snapshots(number) or (number == numbers.ROOT and self.single is None):
            raise errors.NoAttribute(f"no attribute {name!r}")
        volume, ino = self._locate(number)
        return volume.get_xattr(ino, name)

    @mapped
    async def listxattr(self, number: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        if numbers.is_snapshots(number) or (number == numbers.ROOT and self.single is None):
            return []
        volume, ino = self._locate(number)
        return volume.list_xattrs(ino)

    @mapped
    async def setxattr(
        self, number: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        await self.admit()
        volume, ino = self._locate(number)
        if name.startswith(VIRTUAL_PREFIX):
            raise errors.NotPermitted(f"{name!r} is computed; choose another name")
        if name.startswith(b"system.posix_acl"):
            raise errors.Unsupported("no ACLs here; use modes")
        volume.set_xattr(ino, name, value)

    @mapped
    async def removexattr(self, number: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        volume, ino = self._locate(number)
        volume.remove_xattr(ino, name)

    # --- what pyfuse3 does not bind (fusefs/extra.py)

    def callbacks(self) -> tuple[Callable[..., int], Callable[..., int], Callable[..., int]]:
        return plain(self.copy_range), plain(self.allocate), plain(self.seek)

    def copy_range(
        self, fh: int, offset: int, into: int, into_offset: int, length: int, uid: int
    ) -> int:  # fmt: skip
        """copy_file_range(2) is a range clone."""
        source, source_ino = self._opened(fh)
        target, target_ino = self._opened(into)
        self.shared_ranges += 1
        strip(target, target_ino, uid)
        return self.store.clone_range(
            source, source_ino, offset, target, target_ino, into_offset, length
        )

    def allocate(self, fh: int, mode: int, offset: int, length: int, uid: int) -> int:
        """fallocate(2): punch and zero are holes; plain allocation only sets the size."""
        volume, ino = self._opened(fh)
        if mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
            raise errors.Unsupported("collapse and insert are not supported")
        strip(volume, ino, uid)
        if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
            volume.punch(ino, offset, length)
        if not mode & FALLOC_KEEP_SIZE and offset + length > volume.file(ino).size:
            volume.setattr(ino, size=offset + length)
        return 0

    def seek(self, fh: int, offset: int, whence: int) -> int:
        volume, ino = self._opened(fh)
        if whence not in (SEEK_DATA, SEEK_HOLE):
            raise errors.InvalidArgument(f"whence {whence}")
        call = volume.seek_data if whence == SEEK_DATA else volume.seek_hole
        found = call(ino, offset)
        if found is None:
            raise OSError(6, "no data after the offset")  # ENXIO
        return found
