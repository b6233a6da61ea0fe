"""MOUNT version 3 (RFC 1813, appendix I): a path becomes a handle.

It is no barrier: each NFS call is checked anew. A directory below an export can be mounted too, by
whom its modes let there: libnfs, and so QEMU, mounts the directory of the file it opens. The list
of mounts (DUMP) is hearsay, as the RFC says; it is kept for DUMP_MAX mounts and not stored.
"""

import struct

from engine import errors
from nfsgw.access import AccessDenied
from nfsgw.exports import Export
from nfsgw.files import Files, Place
from nfsgw.gate import Outcome
from nfsgw.nfs3.names import sound_name
from nfsgw.nfs3.protocol import FAILURES, STATUS, Status
from nfsgw.rpc import AUTH_NONE, AUTH_SYS, NO_SHORT_WAYS, Address, Call, ProcedureUnavailable
from nfsgw.xdr import Packer, Unpacker

PROGRAM = 100_005
VERSION = 3
PATH_BYTES_MAX = 1024
DUMP_MAX = 1024
NULL, MNT, DUMP, UMNT, UMNTALL, EXPORT = range(6)
_FLAVORS = struct.Struct(">3I").pack(2, AUTH_SYS, AUTH_NONE)
_STATUSES = frozenset(
    {
        Status.PERM, Status.NOENT, Status.IO, Status.ACCES, Status.NOTDIR, Status.INVAL,
        Status.NAMETOOLONG, Status.NOTSUPP, Status.SERVERFAULT,
    }
)  # fmt: skip


class Mount3:
    """The mounts of a store's exports."""

    number = PROGRAM
    versions: tuple[int, ...] = (VERSION,)
    again = NO_SHORT_WAYS

    def __init__(self, files: Files) -> None:
        self._files = files
        self._mounts: dict[tuple[Address, bytes], None] = {}  # in the order they came

    @staticmethod
    def cached(call: Call) -> bool:
        return False

    def call(self, call: Call, args: Unpacker, out: Packer) -> Outcome:
        match call.procedure:
            case 0:
                pass
            case 1:
                self._mount(call, args, out)
            case 2:
                self._dump(call, out)
            case 3:
                path = bytes(args.opaque(PATH_BYTES_MAX))
                self._mounts.pop((call.peer.address, path), None)
            case 4:
                for each in [each for each in self._mounts if each[0] == call.peer.address]:
                    del self._mounts[each]
            case 5:
                self._export(call, out)
            case _:
                raise ProcedureUnavailable
        return None

    def _mount(self, call: Call, args: Unpacker, out: Packer) -> None:
        path = bytes(args.opaque(PATH_BYTES_MAX))
        try:
            place = self._resolve(call, path)
            if not place.inode.is_dir:
                raise errors.NotADirectory("mount the directory it is in")
            raw = self._files.handle(place)
        except FAILURES as error:
            out.u32(_status_of(error))
            return
        self._mounts.pop((call.peer.address, path), None)
        self._mounts[call.peer.address, path] = None
        if len(self._mounts) > DUMP_MAX:
            del self._mounts[next(iter(self._mounts))]
        out.u32(Status.OK)
        out.opaque(raw)
        out.raw(_FLAVORS)

    def _resolve(self, call: Call, path: bytes) -> Place:
        """An export and a way down from it, each step of which the client may take."""
        first, *rest = [part for part in path.split(b"/") if part not in (b"", b".")] or [b""]
        export = self._files.exports.by_path("/" + first.decode(errors="surrogateescape"))
        if export is None or not path.startswith(b"/"):
            raise errors.NotFound("no such export; `showmount -e` lists them")
        place = self._files.root(call, export)
        for part in rest:
            place = self._files.lookup(place, sound_name(part))
        return place

    def _usable(self, call: Call) -> list[Export]:
        """What a client has no right to, it does not learn of."""
        exports = self._files.exports.all()
        return [each for each in exports if each.right_of(call.peer.address) is not None]

    def _dump(self, call: Call, out: Packer) -> None:
        shown = {each.path.encode(errors="surrogateescape") for each in self._usable(call)}
        for address, path in self._mounts:
            if b"/" + path.strip(b"/").split(b"/")[0] in shown:
                out.u32(1)
                out.opaque(str(address).encode())
                out.opaque(path)
        out.u32(0)

    def _export(self, call: Call, out: Packer) -> None:
        """Networks stand for groups; none: everybody."""
        for export in self._usable(call):
            out.u32(1)
            out.opaque(export.path.encode(errors="surrogateescape"))
            networks = [rule.network for rule in export.rules]
            if all(each.prefixlen for each in networks):
                for each in networks:
                    single = each.prefixlen == each.max_prefixlen
                    out.u32(1)
                    out.opaque(str(each.network_address if single else each).encode())
            out.u32(0)
        out.u32(0)


def _status_of(error: Exception) -> Status:
    """mountstat3, which has fewer words than NFS."""
    if isinstance(error, AccessDenied):
        return Status.ACCES
    if isinstance(error, errors.Stale):
        return Status.NOENT  # the volume is gone
    found = STATUS.get(type(error), Status.IO)  # type: ignore[arg-type]
    return found if found in _STATUSES else Status.SERVERFAULT
