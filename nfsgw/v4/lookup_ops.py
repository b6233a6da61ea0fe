"""Operations that choose the current file (RFC 8881, 18.8, 18.13, 18.14, 18.19 to 18.21, 18.27,
18.28).

NFSv4 has no MOUNT: a client starts at one root. Ours is the directory of all exports that the
client may use, each under its name; it is no place of any volume. Crossing from it into an export
shows by another fsid, the export's root has the pseudo-root above it, and that has nothing above.
"""

from nfsgw.exports import Export
from nfsgw.files import Place
from nfsgw.handles import Kind
from nfsgw.v4.attributes import handle_of
from nfsgw.v4.current import Current, Operation, PseudoRoot
from nfsgw.v4.names import read_name
from nfsgw.v4.protocol import Failed, Op, Status
from nfsgw.xdr import Packer, Unpacker

HANDLE_BYTES_MAX = 128


def visible_exports(current: Current) -> list[Export]:
    """What this client finds in the pseudo-root, by number."""
    call, files = current.call, current.files
    right = [e for e in files.exports.all() if e.right_of(call.peer.address) is not None]
    return sorted(right, key=lambda export: export.id)


def put_fh(current: Current, args: Unpacker, out: Packer) -> None:
    files, raw = current.files, bytes(args.opaque(HANDLE_BYTES_MAX))
    handle = files.handles.unpack(raw)
    if handle.kind == Kind.PSEUDO_ROOT:
        current.go(PseudoRoot())
    else:
        current.go(files.place_of(current.call, handle))


def put_root_fh(current: Current, args: Unpacker, out: Packer) -> None:
    """PUTROOTFH and PUTPUBFH: one root for both (RFC 8881, 18.20.4)."""
    current.go(PseudoRoot())


def get_fh(current: Current, args: Unpacker, out: Packer) -> None:
    if current.at is None:
        raise Failed(Status.NOFILEHANDLE)
    out.opaque(handle_of(current.files, current.at))


def save_fh(current: Current, args: Unpacker, out: Packer) -> None:
    current.save()


def restore_fh(current: Current, args: Unpacker, out: Packer) -> None:
    current.restore()


def lookup(current: Current, args: Unpacker, out: Packer) -> None:
    name = read_name(args)
    at, files = current.at, current.files
    if at is None:
        raise Failed(Status.NOFILEHANDLE)
    if isinstance(at, PseudoRoot):
        export = files.exports.by_path("/" + name.decode(errors="surrogateescape"))
        if export is None or export.right_of(current.call.peer.address) is None:
            raise Failed(Status.NOENT)
        current.go(files.root(current.call, export))
        return
    if at.inode.is_symlink:
        raise Failed(Status.SYMLINK)
    current.go(files.lookup(at, name))


def lookup_parent(current: Current, args: Unpacker, out: Packer) -> None:
    at = current.at
    if at is None:
        raise Failed(Status.NOFILEHANDLE)
    if isinstance(at, PseudoRoot):
        raise Failed(Status.NOENT)
    current.go(parent_of(current, at))


def parent_of(current: Current, at: Place) -> Place | PseudoRoot:
    """The directory above a directory: NOTDIR, SYMLINK, AccessDenied."""
    if at.inode.is_symlink:
        raise Failed(Status.SYMLINK)
    above = current.files.lookup(at, b"..")
    return PseudoRoot() if current.files.is_root(at) else above


OPERATIONS: dict[Op, Operation] = {
    Op.PUTFH: put_fh,
    Op.PUTROOTFH: put_root_fh,
    Op.PUTPUBFH: put_root_fh,
    Op.GETFH: get_fh,
    Op.SAVEFH: save_fh,
    Op.RESTOREFH: restore_fh,
    Op.LOOKUP: lookup,
    Op.LOOKUPP: lookup_parent,
}
