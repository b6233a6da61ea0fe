"""An NFSv3 and MOUNT client with types: each result is read to its last byte, a failed one too."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import pytest
from rpc_client import RpcClient

from nfsgw.xdr import Packer, Unpacker

NFS, MOUNT = 100_003, 100_005
UNSTABLE, DATA_SYNC, FILE_SYNC = range(3)
REG, DIR, BLK, CHR, LNK, SOCK, FIFO = range(1, 8)
PERM, NOENT, IO, ACCES, EXIST, XDEV, NOTDIR, ISDIR, INVAL = 1, 2, 5, 13, 17, 18, 20, 21, 22
FBIG, NOSPC, ROFS, MLINK, NAMETOOLONG, NOTEMPTY, DQUOT, STALE = 27, 28, 30, 31, 63, 66, 69, 70
BADHANDLE, NOT_SYNC, TOOSMALL, SERVERFAULT, BADTYPE = 10001, 10002, 10005, 10006, 10007
SERVER_TIME = "now"
Time = tuple[int, int]


class Attributes(NamedTuple):
    """fattr3."""

    type: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    used: int
    rdev: tuple[int, int]
    fsid: int
    fileid: int
    atime: Time
    mtime: Time
    ctime: Time


class Before(NamedTuple):
    """wcc_attr."""

    size: int
    mtime: Time
    ctime: Time


class Wcc(NamedTuple):
    """wcc_data."""

    before: Before | None
    after: Attributes | None


class Failed3(Exception):
    """``tells``: what the failed result said of its objects."""

    def __init__(self, status: int, tells: list[Attributes | Wcc | None]) -> None:
        super().__init__(f"nfsstat3 {status}")
        self.status, self.tells = status, tells


def failed(status: int) -> "pytest.RaisesContext[Failed3]":
    """A call in this context fails with just this status."""
    return pytest.raises(Failed3, match=rf"^nfsstat3 {status}$")


class Made(NamedTuple):
    """diropres3."""

    handle: bytes
    attributes: Attributes
    wcc: Wcc


class Written(NamedTuple):
    """WRITE3resok."""

    wcc: Wcc
    count: int
    committed: int
    verifier: bytes


class Entry(NamedTuple):
    """entry3 and entryplus3."""

    fileid: int
    name: bytes
    cookie: int
    attributes: Attributes | None = None
    handle: bytes | None = None


class Listing(NamedTuple):
    """``size``: of the whole resok, ``names_size``: what dircount counts."""

    entries: list[Entry]
    eof: bool
    verifier: bytes
    size: int
    names_size: int


def _time(reply: Unpacker) -> Time:
    return reply.u32(), reply.u32()


def attributes(reply: Unpacker) -> Attributes:
    kind, mode, nlink, uid, gid = (reply.u32() for _ in range(5))
    size, used = reply.u64(), reply.u64()
    rdev = reply.u32(), reply.u32()
    fsid, fileid = reply.u64(), reply.u64()
    return Attributes(
        kind, mode, nlink, uid, gid, size, used, rdev, fsid, fileid,
        _time(reply), _time(reply), _time(reply),
    )  # fmt: skip


def post_op(reply: Unpacker) -> Attributes | None:
    return attributes(reply) if reply.boolean() else None


def wcc(reply: Unpacker) -> Wcc:
    before = None
    if reply.boolean():
        before = Before(reply.u64(), _time(reply), _time(reply))
    return Wcc(before, post_op(reply))


def _handle(reply: Unpacker) -> bytes | None:
    return bytes(reply.opaque(64)) if reply.boolean() else None


T = TypeVar("T")


def sure(value: T | None) -> T:
    assert value is not None
    return value


def sattr(
    out: Packer, *, mode: int | None = None, uid: int | None = None, gid: int | None = None,
    size: int | None = None, atime: Time | str | None = None, mtime: Time | str | None = None,
) -> None:  # fmt: skip
    for value, put in ((mode, out.u32), (uid, out.u32), (gid, out.u32), (size, out.u64)):
        out.boolean(value is not None)
        if value is not None:
            put(value)
    for time in (atime, mtime):
        if time is None:
            out.u32(0)
        elif isinstance(time, str):
            out.u32(1)
        else:
            for word in (2, *time):
                out.u32(word)


Users = Callable[..., "Nfs3Client"]  # the fixture ``user``


class Nfs3Client:
    """A user at a server."""

    def __init__(self, address: tuple[str, int], **user: object) -> None:
        self.rpc = RpcClient(address, **user)  # type: ignore[arg-type]

    def close(self) -> None:
        self.rpc.close()

    def _call(self, procedure: int, out: Packer, tells: Iterable[object] = ()) -> Unpacker:
        reply = self.rpc.call(NFS, 3, procedure, out)
        return self.result(reply, tells)

    @staticmethod
    def result(reply: Unpacker, tells: Iterable[object] = ()) -> Unpacker:
        """After the status; Failed3."""
        status = reply.u32()
        if status:
            told = [each(reply) for each in tells]  # type: ignore[operator]
            reply.end()
            raise Failed3(status, told)
        return reply

    @staticmethod
    def _args(*parts: bytes | int | tuple[str, int]) -> Packer:
        """Bytes are opaque, numbers u32; ("u64", n)."""
        out = Packer()
        for part in parts:
            if isinstance(part, tuple):
                out.u64(part[1])
            elif isinstance(part, int):
                out.u32(part)
            else:
                out.opaque(part)
        return out

    def null(self) -> None:
        self.rpc.call(NFS, 3, 0).end()

    def getattr(self, handle: bytes) -> Attributes:
        reply = self._call(1, self._args(handle))
        found = attributes(reply)
        reply.end()
        return found

    def setattr(self, handle: bytes, *, guard: Time | None = None, **new: object) -> Wcc:
        out = self._args(handle)
        sattr(out, **new)  # type: ignore[arg-type]
        out.boolean(guard is not None)
        for word in guard or ():
            out.u32(word)
        return self._wcc(self._call(2, out, (wcc,)))

    @staticmethod
    def _wcc(reply: Unpacker) -> Wcc:
        found = wcc(reply)
        reply.end()
        return found

    def lookup(self, handle: bytes, name: bytes) -> tuple[bytes, Attributes]:
        reply = self._call(3, self._args(handle, name), (post_op,))
        raw, found, directory = bytes(reply.opaque(64)), sure(post_op(reply)), sure(post_op(reply))
        assert directory.type == DIR
        reply.end()
        return raw, found

    def walk(self, handle: bytes, path: str) -> bytes:
        for part in path.encode().split(b"/"):
            handle = self.lookup(handle, part)[0]
        return handle

    def access(self, handle: bytes, wanted: int = 63) -> int:
        reply = self._call(4, self._args(handle, wanted), (post_op,))
        sure(post_op(reply))
        granted = reply.u32()
        reply.end()
        return granted

    def readlink(self, handle: bytes) -> bytes:
        reply = self._call(5, self._args(handle), (post_op,))
        sure(post_op(reply))
        target = bytes(reply.opaque(1 << 20))
        reply.end()
        return target

    def read(self, handle: bytes, offset: int, count: int) -> tuple[bytes, bool]:
        reply = self._call(6, self._args(handle, ("u64", offset), count), (post_op,))
        sure(post_op(reply))
        size, eof = reply.u32(), reply.boolean()
        data = bytes(reply.opaque(1 << 20))
        reply.end()
        assert size == len(data)
        return data, eof

    @classmethod
    def write_arguments(
        cls, handle: bytes, offset: int, data: bytes, stable: int = UNSTABLE
    ) -> Packer:
        return cls._args(handle, ("u64", offset), len(data), stable, data)

    def write(self, handle: bytes, offset: int, data: bytes, stable: int = UNSTABLE) -> Written:
        out = self.write_arguments(handle, offset, data, stable)
        return self.written(self._call(7, out, (wcc,)))

    @staticmethod
    def written(reply: Unpacker) -> Written:
        found = Written(wcc(reply), reply.u32(), reply.u32(), bytes(reply.fixed(8)))
        reply.end()
        return found

    def _made(self, procedure: int, out: Packer) -> Made:
        reply = self._call(procedure, out, (wcc,))
        found = Made(sure(_handle(reply)), sure(post_op(reply)), wcc(reply))
        reply.end()
        return found

    def create(
        self, handle: bytes, name: bytes, *, exclusive: int | None = None, guarded: bool = False,
        **new: object,
    ) -> Made:  # fmt: skip
        out = self._args(handle, name, 2 if exclusive is not None else int(guarded))
        if exclusive is not None:
            out.u64(exclusive)
        else:
            sattr(out, **new)  # type: ignore[arg-type]
        return self._made(8, out)

    def mkdir(self, handle: bytes, name: bytes, **new: object) -> Made:
        out = self._args(handle, name)
        sattr(out, **new)  # type: ignore[arg-type]
        return self._made(9, out)

    def symlink(self, handle: bytes, name: bytes, target: bytes, **new: object) -> Made:
        out = self._args(handle, name)
        sattr(out, **new)  # type: ignore[arg-type]
        out.opaque(target)
        return self._made(10, out)

    def mknod(
        self, handle: bytes, name: bytes, kind: int, rdev: tuple[int, int] = (0, 0), **new: object
    ) -> Made:
        out = self._args(handle, name, kind)
        if kind in (CHR, BLK, SOCK, FIFO):
            sattr(out, **new)  # type: ignore[arg-type]
        if kind in (CHR, BLK):
            out.u32(rdev[0])
            out.u32(rdev[1])
        return self._made(11, out)

    def remove(self, handle: bytes, name: bytes) -> Wcc:
        return self._wcc(self._call(12, self._args(handle, name), (wcc,)))

    def rmdir(self, handle: bytes, name: bytes) -> Wcc:
        return self._wcc(self._call(13, self._args(handle, name), (wcc,)))

    def rename(self, handle: bytes, name: bytes, target: bytes, new: bytes) -> tuple[Wcc, Wcc]:
        reply = self._call(14, self._args(handle, name, target, new), (wcc, wcc))
        found = wcc(reply), wcc(reply)
        reply.end()
        return found

    def link(self, handle: bytes, directory: bytes, name: bytes) -> tuple[Attributes, Wcc]:
        reply = self._call(15, self._args(handle, directory, name), (post_op, wcc))
        found = sure(post_op(reply)), wcc(reply)
        reply.end()
        return found

    def readdir(
        self, handle: bytes, cookie: int = 0, verifier: bytes = bytes(8), count: int = 8192
    ) -> Listing:
        out = self._args(handle, ("u64", cookie))
        out.fixed(verifier)
        out.u32(count)
        return self._listing(self._call(16, out, (post_op,)), plus=False)

    def readdirplus(
        self, handle: bytes, cookie: int = 0, verifier: bytes = bytes(8), *,
        dircount: int = 8192, maxcount: int = 32768,
    ) -> Listing:  # fmt: skip
        out = self._args(handle, ("u64", cookie))
        out.fixed(verifier)
        out.u32(dircount)
        out.u32(maxcount)
        return self._listing(self._call(17, out, (post_op,)), plus=True)

    @staticmethod
    def _listing(reply: Unpacker, *, plus: bool) -> Listing:
        size, names_size = reply.left, 0
        sure(post_op(reply))
        verifier = bytes(reply.fixed(8))
        entries = []
        while reply.boolean():
            start = reply.at
            entry = Entry(reply.u64(), bytes(reply.opaque(1 << 20)), reply.u64())
            names_size += reply.at - start
            if plus:
                entry = entry._replace(attributes=post_op(reply), handle=_handle(reply))
            entries.append(entry)
        eof = reply.boolean()
        reply.end()
        return Listing(entries, eof, verifier, size, names_size)

    def names(self, handle: bytes, count: int = 8192) -> list[bytes]:
        """All of a directory, ``.`` and ``..`` apart."""
        found: list[Entry] = []
        listing = self.readdir(handle, count=count)
        while True:
            found += listing.entries
            if listing.eof:
                return [each.name for each in found if each.name not in (b".", b"..")]
            listing = self.readdir(handle, found[-1].cookie, listing.verifier, count)

    def fsstat(self, handle: bytes) -> tuple[int, ...]:
        """tbytes, fbytes, abytes, tfiles, ffiles, afiles, invarsec."""
        reply = self._call(18, self._args(handle), (post_op,))
        sure(post_op(reply))
        found = *(reply.u64() for _ in range(6)), reply.u32()
        reply.end()
        return found

    def fsinfo(self, handle: bytes) -> tuple[int, ...]:
        """rtmax, rtpref, rtmult, wtmax, wtpref, wtmult, dtpref, maxfilesize, time_delta (2),
        properties."""
        reply = self._call(19, self._args(handle), (post_op,))
        sure(post_op(reply))
        found = *(reply.u32() for _ in range(7)), reply.u64(), *(reply.u32() for _ in range(3))
        reply.end()
        return found

    def pathconf(self, handle: bytes) -> tuple[int, ...]:
        """linkmax, name_max, no_trunc, chown_restricted, case_insensitive, case_preserving."""
        reply = self._call(20, self._args(handle), (post_op,))
        sure(post_op(reply))
        found = tuple(reply.u32() for _ in range(6))
        reply.end()
        return found

    def commit(self, handle: bytes, offset: int = 0, count: int = 0) -> tuple[Wcc, bytes]:
        reply = self._call(21, self._args(handle, ("u64", offset), count), (wcc,))
        found = wcc(reply), bytes(reply.fixed(8))
        reply.end()
        return found

    # --- MOUNT

    def mount(self, path: bytes) -> bytes:
        """The handle of a directory; Failed3 with a mountstat3."""
        reply = self.result(self.rpc.call(MOUNT, 3, 1, self._args(path)))
        raw = bytes(reply.opaque(64))
        assert 1 in [reply.u32() for _ in range(reply.count(8))], "AUTH_SYS"
        reply.end()
        return raw

    def dump(self) -> list[tuple[bytes, bytes]]:
        reply, found = self.rpc.call(MOUNT, 3, 2), []
        while reply.boolean():
            found.append((bytes(reply.opaque(255)), bytes(reply.opaque(1024))))
        reply.end()
        return found

    def unmount(self, path: bytes) -> None:
        self.rpc.call(MOUNT, 3, 3, self._args(path)).end()

    def unmount_all(self) -> None:
        self.rpc.call(MOUNT, 3, 4).end()

    def exports(self) -> dict[bytes, list[bytes]]:
        reply, found = self.rpc.call(MOUNT, 3, 5), {}
        while reply.boolean():
            path = bytes(reply.opaque(1024))
            groups = found[path] = []
            while reply.boolean():
                groups.append(bytes(reply.opaque(255)))
        reply.end()
        return found
