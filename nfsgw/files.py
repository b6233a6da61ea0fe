"""Files as NFS clients see them: places, permissions, and the engine's operations on them.

Both versions of NFS stand on this: it knows exports, handles and rights, and nothing of XDR.
Each method is one step on the loop's thread. What changes something is told to the mount's kernel
(``Gate.foreign``), needs ``Gate.room`` before and ``Gate.stored`` or ``shown`` after.

A place carries the client's rights with it, looked up anew for each call.
"""

import stat
from collections.abc import Callable, Generator
from typing import NamedTuple

from engine import Change, DirEntry, Inode, Store, Volume, errors, numbers
from engine.cold import Reading, finished, hasty, until_warm
from engine.inode import FILE_BYTES_MAX
from engine.keys import ROOT_INO, SNAPSHOT_DIR
from engine.pool import now_ns
from native import Pieces
from nfsgw.access import (
    EXECUTE,
    NO_ID,
    READ,
    WRITE,
    AccessDenied,
    Who,
    check,
    check_contents,
    check_removal,
    check_writes,
    may,
    who_is,
)
from nfsgw.buffers import Buffers
from nfsgw.exports import Export, Exports
from nfsgw.gate import Gate, Wait, Waits
from nfsgw.handles import BadHandle, Handle, Handles, Kind
from nfsgw.rpc import Address, Call, Credential, Peer
from nfsgw.verifier import WriteVerifier

READ_BYTES_MAX = 1 << 20
FILES_MAX = 1 << 40  # of a store: inode numbers have as many bits where clients see them
SETS_ID = stat.S_ISUID | stat.S_ISGID
NOW = -(1 << 63)  # a time to set: the server's; no client can say it, the format has no such time
_TYPE_MASK = 0o170000
_CLIENTS_MAX, _USERS_MAX = 1024, 256


class Place(NamedTuple):
    """A file or directory of an export, and who is there.  ``snapshots``: the ``.snapshots`` of
    its volume, which no volume stores and ``inode`` stands in for."""

    export: Export
    who: Who
    volume: Volume
    inode: Inode
    snapshots: bool = False

    @property
    def fileid(self) -> int:
        """Unique in the export, its snapshots included."""
        if self.snapshots:
            return numbers.snapshots_of(self.volume.id)
        return numbers.join(self.volume.id, self.inode.ino)

    @property
    def fsid(self) -> int:
        """One a volume: its snapshots too, so that ``cp --reflink`` can bring a file back."""
        return self.export.volume_id


class Files:
    """The exports of a store."""

    def __init__(self, gate: Gate, exports: Exports, handles: Handles) -> None:
        self.gate = gate
        self.exports = exports
        self.handles = handles
        self.store: Store = gate.store
        self._core = gate.store.pool.core
        self.verifier = WriteVerifier(gate.store)
        self._known: dict[Address, dict[tuple[int, Credential | None], Who]] = {}
        self._known_of = -1  # exports.changed_ns of what is known
        self._peer: Peer | None = None  # who called last,
        self._peers: dict[tuple[int, Credential | None], Who] = {}  # and what is known of him
        self.buffers = Buffers()
        self._snapshots_ns = now_ns()  # when a list of snapshots last changed
        self.store.listeners.append(self._changed)

    def _changed(self, change: Change) -> None:
        if change.what == "volumes":
            self._snapshots_ns = max(now_ns(), self._snapshots_ns + 1)

    # --- places

    def root(self, call: Call, export: Export) -> Place:
        """The root of an export; AccessDenied for whom no rule of it is, Stale when it is gone."""
        who = self._who(call, export)
        volume = self.store.volume_by_id(export.volume_id)
        return Place(export, who, volume, volume.inode(ROOT_INO))

    def _who(self, call: Call, export: Export) -> Who:
        """Found out once for each client and user, until the exports are replaced."""
        peer = call.peer
        if peer is not self._peer or self._known_of != self.exports.changed_ns:
            self._meet(peer)
        key = export.id, call.credential
        who = self._peers.get(key)
        if who is None:
            right = export.right_of(peer.address)
            if right is None:
                raise AccessDenied(f"{peer.address} may not use {export.path}")
            if len(self._peers) >= _USERS_MAX:
                self._peers.clear()
            who = self._peers[key] = who_is(call.credential, right)
        return who

    def who_now(self, call: Call, export: Export) -> Who:
        """What the client's rights in an export have become while the call waited; Stale,
        AccessDenied."""
        now = self.exports.by_id(export.id)
        if now is None:
            raise errors.Stale("the export is gone")
        return self._who(call, now)

    def _meet(self, peer: Peer) -> None:
        if self._known_of != self.exports.changed_ns or len(self._known) >= _CLIENTS_MAX:
            self._known.clear()
            self._known_of = self.exports.changed_ns
        self._peer = peer
        self._peers = self._known.setdefault(peer.address, {})

    def place(self, call: Call, raw: bytes) -> Place:
        """What a handle names; BadHandle, Stale, AccessDenied."""
        return self.place_of(call, self.handles.unpack(raw))

    def place_of(self, call: Call, handle: Handle) -> Place:
        export = self.exports.by_id(handle.export)
        if export is None:
            raise errors.Stale("the export is gone")
        who = self._who(call, export)
        volume = self.store.volume_by_id(handle.volume)
        if export.volume_id not in (volume.id, volume.parent.id if volume.parent else 0):
            raise BadHandle("a handle of another export")
        if handle.kind == Kind.SNAPSHOTS:
            return self._snapshots(export, who, volume)
        inode = volume.inode(handle.ino)
        if inode.generation != handle.generation:
            raise errors.Stale("the file is gone")
        return Place(export, who, volume, inode)

    def handle(self, place: Place) -> bytes:
        inode = place.inode
        kind = Kind.SNAPSHOTS if place.snapshots else Kind.INODE
        return self.handles.pack(
            Handle(kind, place.export.id, place.volume.id, inode.ino, inode.generation)
        )

    def _snapshots(self, export: Export, who: Who, volume: Volume) -> Place:
        inode = Inode(0, stat.S_IFDIR | 0o555, 0, 0, self._snapshots_ns)
        inode.nlink, inode.change = 2, self._snapshots_ns
        return Place(export, who, volume, inode, snapshots=True)

    @staticmethod
    def at(place: Place, volume: Volume, inode: Inode) -> Place:
        """Another file of the same export, seen by the same client."""
        return Place(place.export, place.who, volume, inode)

    # --- names

    def lookup(self, place: Place, name: bytes) -> Place:
        """The place of a name in a directory; ``.`` and ``..`` too."""
        if not place.inode.is_dir:
            raise errors.NotADirectory("no directory")
        check(place.inode, place.who, EXECUTE)
        if name == b".":
            return place
        if name == b"..":
            return self.parent(place)
        if place.snapshots:
            text = name.decode(errors="surrogateescape")
            snapshot = self.store.snapshot(place.volume, text)
            return self.at(place, snapshot, snapshot.inode(ROOT_INO))
        volume, inode = place.volume, place.inode
        if inode.ino == ROOT_INO and name == SNAPSHOT_DIR and not volume.is_snapshot:
            return self._snapshots(place.export, place.who, volume)
        return self.at(place, volume, volume.lookup(inode.ino, name))

    def parent(self, place: Place) -> Place:
        """The directory above; that of an export's root is the root itself."""
        volume, inode = place.volume, place.inode
        if place.snapshots:
            return self.at(place, volume, volume.inode(ROOT_INO))
        if inode.ino != ROOT_INO:
            return self.at(place, volume, volume.inode(volume.directory(inode.ino).parent))
        if volume.parent is not None and place.export.volume_id == volume.parent.id:
            return self._snapshots(place.export, place.who, volume.parent)
        return place

    def is_root(self, place: Place) -> bool:
        """Whether the place is its export's root."""
        return (
            not place.snapshots
            and place.inode.ino == ROOT_INO
            and place.volume.id == place.export.volume_id
        )

    def readdir(self, place: Place, cookie: int, limit: int) -> list[DirEntry]:
        """Up to ``limit`` entries after a cookie, without ``.`` and ``..`` (cookies 1 and 2)."""
        if not place.inode.is_dir:
            raise errors.NotADirectory("no directory")
        check(place.inode, place.who, READ)
        if not place.snapshots:
            return place.volume.readdir(place.inode.ino, max(cookie, 2), limit)
        found = (each for each in self.store.snapshots(place.volume) if each.id + 2 > cookie)
        return [
            DirEntry(each.name.encode(), ROOT_INO, stat.S_IFDIR, each.id + 2) for each in found
        ][:limit]

    def entry_place(self, place: Place, entry: DirEntry) -> Place | None:
        """The place of an entry that ``readdir`` gave; None when it is gone meanwhile."""
        try:
            if place.snapshots:
                volume = self.store.volume_by_id(entry.cookie - 2)
                return self.at(place, volume, volume.inode(ROOT_INO))
            return self.at(place, place.volume, place.volume.inode(entry.ino))
        except errors.Stale:
            return None

    def _check_change(self, place: Place, name: bytes) -> None:
        """That names may be made or taken away in a directory."""
        if not place.inode.is_dir:
            raise errors.NotADirectory("no directory")
        check_writes(place.who)
        if place.snapshots or (place.inode.ino == ROOT_INO and name == SNAPSHOT_DIR):
            raise errors.ReadOnly(".snapshots changes by `ramet snapshot` only")
        place.volume.check_writable()
        check(place.inode, place.who, WRITE | EXECUTE)

    def create(
        self, place: Place, name: bytes, mode: int, *, rdev: int = 0, verifier: int = 0
    ) -> Place:
        """A file, device, fifo or socket, by the S_IFMT part of ``mode``; AlreadyExists."""
        self._check_change(place, name)
        who, volume = place.who, place.volume
        if stat.S_IFMT(mode) in (stat.S_IFCHR, stat.S_IFBLK) and not who.root:
            raise errors.NotPermitted("only root makes devices")
        if mode & stat.S_ISGID and not who.root:
            of_directory = place.inode.mode & stat.S_ISGID
            if of_directory and not self._member(place.inode.gid, who):
                mode &= ~stat.S_ISGID
        with self.gate.foreign():
            inode = volume.create(
                place.inode.ino, name, mode, who.uid, who.gid, rdev=rdev, verifier=verifier
            )
        return self.at(place, volume, inode)

    def mkdir(self, place: Place, name: bytes, mode: int) -> Place:
        """mkdir(2) knows no setuid and setgid bits; the latter is inherited."""
        self._check_change(place, name)
        mode &= ~SETS_ID
        with self.gate.foreign():
            inode = place.volume.mkdir(place.inode.ino, name, mode, place.who.uid, place.who.gid)
        return self.at(place, place.volume, inode)

    def symlink(self, place: Place, name: bytes, target: bytes) -> Place:
        self._check_change(place, name)
        who, volume = place.who, place.volume
        with self.gate.foreign():
            inode = volume.symlink(place.inode.ino, name, target, who.uid, who.gid)
        return self.at(place, volume, inode)

    def readlink(self, place: Place) -> bytes:
        return place.volume.readlink(place.inode.ino)

    def link(self, place: Place, directory: Place, name: bytes) -> None:
        self._check_change(directory, name)
        self._check_same_volume(place, directory)
        if place.inode.is_dir:
            raise errors.NotPermitted("a directory has one name only")
        with self.gate.foreign():
            place.volume.link(place.inode.ino, directory.inode.ino, name)

    def unlink(self, place: Place, name: bytes) -> None:
        """A name that is no directory's; IsADirectory."""
        self._check_change(place, name)
        inode = place.volume.lookup(place.inode.ino, name)
        check_removal(place.inode, inode, place.who)
        with self.gate.foreign():
            place.volume.unlink(place.inode.ino, name)

    def rmdir(self, place: Place, name: bytes) -> None:
        self._check_change(place, name)
        inode = place.volume.lookup(place.inode.ino, name)
        check_removal(place.inode, inode, place.who)
        with self.gate.foreign():
            place.volume.rmdir(place.inode.ino, name)

    def rename(self, source: Place, name: bytes, target: Place, new_name: bytes) -> None:
        self._check_change(source, name)
        self._check_change(target, new_name)
        self._check_same_volume(source, target)
        volume = source.volume
        moved = volume.lookup(source.inode.ino, name)
        check_removal(source.inode, moved, source.who)
        if moved.is_dir and source.inode is not target.inode:
            check(moved, source.who, WRITE)  # its ``..`` changes
        replaced = volume.entry(target.inode.ino, new_name)
        if replaced is not None:
            check_removal(target.inode, volume.inode(replaced.ino), target.who)
        with self.gate.foreign():
            volume.rename(source.inode.ino, name, target.inode.ino, new_name)

    @staticmethod
    def _check_same_volume(one: Place, other: Place) -> None:
        if one.volume is not other.volume or one.export.id != other.export.id:
            raise errors.CrossVolume("names stay in their export; clone the file instead")

    # --- attributes

    def setattr(
        self, place: Place, *, mode: int | None = None, uid: int | None = None,
        gid: int | None = None, size: int | None = None, atime_ns: int | None = None,
        mtime_ns: int | None = None, opened: bool = False, new: bool = False,
    ) -> None:  # fmt: skip
        """Change attributes, all or none of them; times may be NOW.

        ``opened``: the size is that of a file the client has open for writing.  ``new``: it was
        made just now, with its mode, so its owner is no change of hands.
        """
        check_writes(place.who)
        if place.snapshots:
            raise errors.ReadOnly(".snapshots changes by `ramet snapshot` only")
        place.volume.check_writable()
        inode, who = place.inode, place.who
        if NO_ID in (uid, gid):
            raise errors.InvalidArgument(f"{NO_ID} is no user or group")
        if size is not None:
            self._check_regular(inode)
            if size > FILE_BYTES_MAX:
                raise errors.TooLarge(f"a file holds at most {FILE_BYTES_MAX >> 50} PiB")
            if not opened:
                check_contents(inode, who, WRITE)
        self._check_owner(inode, who, mode, uid, gid)
        self._check_times(inode, who, (atime_ns, mtime_ns))
        given = uid is not None or gid is not None
        if given and not inode.is_dir and not (new and who.root):  # whatever mode comes with it
            mode = inode.mode if mode is None else mode
            mode &= ~(SETS_ID if mode & stat.S_IXGRP or not who.root else stat.S_ISUID)
        elif mode is None and size is not None and not who.root and inode.is_file:
            mode = inode.mode & ~SETS_ID
        elif mode is not None and not who.root and not self._member(inode.gid, who):
            mode &= ~stat.S_ISGID
        now = now_ns()
        with self.gate.foreign():
            place.volume.setattr(
                inode.ino, mode=mode, uid=uid, gid=gid, size=size,
                atime_ns=now if atime_ns == NOW else atime_ns,
                mtime_ns=now if mtime_ns == NOW else mtime_ns,
            )  # fmt: skip

    @staticmethod
    def _member(gid: int, who: Who) -> bool:
        return gid == who.gid or gid in who.gids

    def _check_owner(
        self, inode: Inode, who: Who, mode: int | None, uid: int | None, gid: int | None
    ) -> None:
        if who.root:
            return
        if mode is not None and who.uid != inode.uid:
            raise errors.NotPermitted("only the owner changes a mode")
        if uid is not None and (uid != inode.uid or who.uid != inode.uid):
            raise errors.NotPermitted("only root gives a file away")
        if gid is not None and (
            who.uid != inode.uid or (gid != inode.gid and not self._member(gid, who))
        ):
            raise errors.NotPermitted("only the owner changes a group, to one of his own")

    @staticmethod
    def _check_times(inode: Inode, who: Who, times: tuple[int | None, int | None]) -> None:
        wanted = [each for each in times if each is not None]
        if not wanted or who.uid in (0, inode.uid):
            return
        if any(each != NOW for each in wanted):
            raise errors.NotPermitted("only the owner sets times")
        check(inode, who, WRITE)

    def may_do(self, place: Place, wanted: int) -> bool:
        """Whether the client may do all of ``wanted`` (READ, WRITE, EXECUTE) with the object."""
        if wanted & WRITE and (
            not place.who.writes or place.snapshots or place.volume.read_only
        ):  # fmt: skip
            return False
        return may(place.inode, place.who, wanted)

    def space(self, place: Place | None) -> tuple[int, int]:
        """Bytes that the volume may have in all, and those it can still take.

        Of a store (None), that is what its files have on disk and the host has free; of a volume
        with a quota no more than that leaves.
        """
        space = self.store.space()
        total, free = space.physical_bytes + space.free_bytes, space.free_bytes
        if place is None:
            return total, free
        volume = place.volume.parent or place.volume
        quota = volume.quota_bytes
        if quota:
            total = quota
            free = min(free, max(quota - volume.referenced_bytes, 0))
        return total, free

    # --- contents

    @staticmethod
    def _check_regular(inode: Inode) -> None:
        kind = inode.mode & _TYPE_MASK
        if kind == stat.S_IFREG:
            return
        if kind == stat.S_IFDIR:
            raise errors.IsADirectory("a directory has no contents to read or write")
        raise errors.InvalidArgument("no regular file")

    def check_read(self, place: Place) -> None:
        """That the contents may be read; IsADirectory, InvalidArgument, AccessDenied."""
        inode = place.inode
        self._check_regular(inode)
        check_contents(inode, place.who, READ)

    def check_write(self, place: Place) -> None:
        """That the contents may be changed."""
        inode, who = place.inode, place.who
        check_writes(who)
        self._check_regular(inode)
        place.volume.check_writable()
        check_contents(inode, who, WRITE)

    def read(self, place: Place, offset: int, size: int) -> tuple[memoryview, bool]:
        """Up to READ_BYTES_MAX bytes, and whether they reach the end of the file.

        Cold when it may not wait (``hasty``) and the disk has to be asked: then it is a
        ``cold_read``.
        """
        size = self.readable(place, offset, size)
        buffer = self.buffers.take(size)
        if size:
            self.read_into(place, offset, buffer, wait=self._core.waits)
        return buffer, offset + size >= place.inode.size

    @staticmethod
    def readable(place: Place, offset: int, size: int) -> int:
        """As many of these bytes as a READ may have."""
        left = place.inode.size - offset
        size = min(size, READ_BYTES_MAX)
        return size if size <= left else max(left, 0)

    @staticmethod
    def read_into(place: Place, offset: int, buffer: memoryview, *, wait: bool) -> None:
        """Bytes that there are; without ``wait`` perhaps Cold."""
        place.volume.read_into(place.inode.ino, offset, buffer, wait=wait)

    def cold_read(
        self, found: Callable[[], Place], offset: int, size: int
    ) -> Generator[Wait, None, tuple[Place, memoryview, bool]]:
        """The same, on a thread.  ``found`` looks for the file and the right to read it anew."""
        place, end = None, False
        buffer = self.buffers.take(min(size, READ_BYTES_MAX))

        def begin(wait: bool) -> Reading:
            nonlocal place, end
            place = hasty(self.store.pool, found, wait)
            end = offset + len(buffer) >= place.inode.size
            return Reading(self.store, place.volume, place.inode.ino, offset, buffer, wait=wait)

        data = yield from self.gate.driven(finished(self.store.pool, begin))
        assert place is not None
        return place, data, end

    def write(self, place: Place, offset: int, data: memoryview | Pieces, *, wait: bool) -> None:
        """All of it, or an error; without ``wait`` perhaps Cold."""
        try:
            with self.gate.foreign():
                self.drop_privilege(place)
                place.volume.write(place.inode.ino, offset, data, wait=wait)
        except (errors.StoreFailed, OSError):  # the disk; a quota that is reached loses nothing
            self.verifier.renew()
            raise

    def patient(self, attempt: Callable[[bool], None]) -> Waits:
        """A change that was Cold, again: as often as a thread has to read something for it."""
        return self.gate.driven(until_warm(self.store.pool, attempt))

    @staticmethod
    def drop_privilege(place: Place) -> None:
        """What a program may do beyond its user's rights goes when another changes its contents."""
        inode = place.inode
        if inode.mode & SETS_ID and not place.who.root:
            place.volume.setattr(inode.ino, mode=inode.mode & ~SETS_ID)
