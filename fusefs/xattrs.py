"""Extended attributes: those that programs set, and ``user.ramet.*``, which are computed.

The computed ones are answered by name and listed nowhere: what copies attributes (``cp -a``, tar,
rsync) copies what it finds in the list, and a copy has figures of its own.

Names are of the kernel's namespaces; what it lets pass besides is refused here.  ACLs are kept
nowhere, so they are refused in both directions: a program then goes by the mode.
"""

import json

import pyfuse3

from engine import Inode, Volume, errors, numbers
from engine.superblock import BLOCK_BYTES
from fusefs.errnos import mapped
from fusefs.extra import setxattr_flags
from fusefs.places import Places

VIRTUAL_PREFIX = b"user.ramet."
NAMESPACES = (b"user.", b"trusted.", b"security.")
MAP_EXTENTS_MAX = 256  # what one value tells of a map; `ramet vm map` tells all


class Xattrs(Places):
    """The requests for extended attributes."""

    def _virtual(self, number: int, name: bytes) -> bytes:
        """An attribute that Ramet computes; NoAttribute."""
        what, found = name.removeprefix(VIRTUAL_PREFIX).decode(errors="replace"), None
        if number == numbers.ROOT and what == "stats":
            stats = {
                "writes": self.writes, "shared_ranges": self.shared_ranges,
                "attributes_asked": self.attributes_asked,
            }  # fmt: skip
            found = json.dumps(stats)
        elif not self._is_unstored(number):
            volume, ino = self._locate(number)
            found = self._computed(volume, volume.inode(ino), what)
        if found is None:
            raise errors.NoAttribute(f"no attribute {name!r}")
        return found.encode(errors="surrogateescape")

    def _computed(self, volume: Volume, inode: Inode, what: str) -> str | None:
        """Figures in bytes; None: there is no such attribute, or nothing to tell."""
        match what:
            case "logical_bytes":
                return str(inode.size)
            case "referenced_bytes":
                return str(inode.blocks * BLOCK_BYTES)
            case "unique_bytes":
                unique = self.store.unique
                found = None if unique is None else unique.of_inode(volume.id, inode.ino)
                return None if found is None else str(found)
            case "unique_as_of_ns":
                return None if self.store.unique is None else str(self.store.unique.as_of_ns)
            case "cloned_from":
                return self._origin(inode)
            case "cloned_ns":
                return str(inode.cloned_ns) if inode.cloned_ns else None
            case "extents":
                return self._extents(volume, inode) if inode.is_file else None
        return None

    def _origin(self, inode: Inode) -> str | None:
        """``VOL:/path`` of what it was cloned from, by the name that has now; numbers when it is
        gone."""
        if not inode.cloned_ns:
            return None
        by_number = f"{inode.origin_volume}:{inode.origin_ino}"
        try:
            origin = self.store.volume_by_id(inode.origin_volume)
            path = origin.path_of(inode.origin_ino)
        except errors.RametError:
            return by_number
        return f"{origin}:{path}" if path else by_number

    def _extents(self, volume: Volume, inode: Inode) -> str:
        """One line each: offset, length, slab:slot and whether it is shared; a last one that says
        where more would begin."""
        slots = self.store.pool.superblock.slab_slots
        found, following = volume.extents_page(inode.ino, 0, MAP_EXTENTS_MAX)
        lines = []
        for each in found:
            slab, slot = divmod(each.address, slots)
            shared = " shared" if each.shared else ""
            lines.append(
                f"{each.block * BLOCK_BYTES} {each.count * BLOCK_BYTES} {slab}:{slot}{shared}"
            )
        if following is not None:
            lines.append(f"more from {following * BLOCK_BYTES}")
        return "\n".join(lines)

    @staticmethod
    def _check_namespace(name: bytes) -> None:
        """Unsupported for names of no namespace that is kept here."""
        if not name.startswith(NAMESPACES):
            raise errors.Unsupported(f"{name!r} is kept nowhere; ACLs neither: use modes")
        if name in NAMESPACES:
            raise errors.InvalidArgument(f"{name!r} is a namespace, not a name")

    @mapped
    async def getxattr(self, number: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        self.attributes_asked += 1
        if name.startswith(VIRTUAL_PREFIX):
            return self._virtual(number, name)
        self._check_namespace(name)
        if self._is_unstored(number):
            raise errors.NoAttribute(f"no attribute {name!r}")
        volume, ino = self._locate(number)
        return await self.cold.found(volume.get_xattr, ino, name)

    @mapped
    async def listxattr(self, number: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        if self._is_unstored(number):
            return []
        volume, ino = self._locate(number)
        return await self.cold.found(volume.list_xattrs, ino)

    @mapped
    async def setxattr(
        self, number: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        flags = setxattr_flags()  # before another request has its own
        self._check_settable(name)
        await self.admit()
        volume, ino = self._locate(number)
        await self.cold.before(volume.look_at_xattr, ino, name)
        volume.set_xattr(ino, name, value, flags)

    @mapped
    async def removexattr(self, number: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._check_settable(name)
        await self.admit()
        volume, ino = self._locate(number)
        await self.cold.before(volume.look_at_xattr, ino, name)
        volume.remove_xattr(ino, name)

    def _check_settable(self, name: bytes) -> None:
        if name.startswith(VIRTUAL_PREFIX):
            raise errors.NotPermitted(f"{name!r} is computed; choose another name")
        self._check_namespace(name)
