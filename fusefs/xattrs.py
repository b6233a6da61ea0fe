"""Extended attributes: those that programs set, and ``user.ramet.*``, which are computed."""

import json

import pyfuse3

from engine import errors, numbers
from fusefs.errnos import mapped
from fusefs.places import Places

BLOCK_BYTES = 4096
STATS_XATTR = b"user.ramet.stats"
VIRTUAL_PREFIX = b"user.ramet."


class Xattrs(Places):
    """The requests for extended attributes."""

    def _virtual(self, number: int) -> dict[bytes, bytes]:
        """Attributes that Ramet computes; read-only."""
        if number == numbers.ROOT:
            stats = {"writes": self.writes, "shared_ranges": self.shared_ranges}
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
