"""The baseline: bare pyfuse3 to one flat file, as fast as pyfuse3 gets.

``python -m bench.passthrough FLATFILE MOUNTPOINT``: the file is ``flat`` there; ends on SIGTERM.
"""

import os
import signal
import stat
import sys

import pyfuse3
import trio

FLAT = pyfuse3.ROOT_INODE + 1


class PassThrough(pyfuse3.Operations):
    """No cache, no lock, no translation: a request is one system call."""

    enable_writeback_cache = False

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd

    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.attr_timeout = entry.entry_timeout = 1.0
        entry.st_nlink = 1
        if inode == FLAT:
            entry.st_mode = stat.S_IFREG | 0o644
            entry.st_size = os.fstat(self.fd).st_size
        else:
            entry.st_mode = stat.S_IFDIR | 0o755
        return entry

    async def lookup(
        self, parent: int, name: bytes, ctx: object = None
    ) -> pyfuse3.EntryAttributes:  # fmt: skip
        if name != b"flat":
            raise pyfuse3.FUSEError(2)
        return await self.getattr(FLAT)

    async def setattr(
        self, inode: int, attr: object, fields: object, fh: object, ctx: object
    ) -> pyfuse3.EntryAttributes:
        return await self.getattr(inode)

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        return os.pwrite(self.fd, data, offset)

    async def fsync(self, fh: int, datasync: bool) -> None:
        os.fdatasync(self.fd)


def main() -> None:
    path, mountpoint = sys.argv[1:]
    fd = os.open(path, os.O_RDWR)
    pyfuse3.init(PassThrough(fd), mountpoint, {"fsname=passthrough", "default_permissions"})

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                nursery.start_soon(pyfuse3.main)
                print("ready", flush=True)
                async for _ in signals:
                    nursery.cancel_scope.cancel()

    try:
        trio.run(serve)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
