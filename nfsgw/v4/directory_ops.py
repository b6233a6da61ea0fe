"""Operations on directories (RFC 8881, 18.4, 18.9, 18.22 to 18.26).

What changes a directory tells its change counter before and after, in one step.  The one thing
that RFC 8881 wants and POSIX does not: a rename onto what cannot be replaced is EXIST.
"""

import os
import stat

from engine import errors
from engine.keys import SYMLINK_MAX
from nfsgw.files import Place
from nfsgw.gate import Waits
from nfsgw.v4.attributes import pack_bitmap, pack_change, supported
from nfsgw.v4.current import Current, Operation
from nfsgw.v4.fattr import Attr, bits
from nfsgw.v4.names import read_name
from nfsgw.v4.places import directory_here, here, room_for_names, saved_directory, saved_here
from nfsgw.v4.protocol import Failed, Op, Status
from nfsgw.v4.readdir import read_dir
from nfsgw.v4.settable import Settable, read_settable
from nfsgw.xdr import Packer, Unpacker

NF4DIR, NF4BLK, NF4CHR, NF4LNK, NF4SOCK, NF4FIFO = 2, 3, 4, 5, 6, 7
_KINDS = {
    NF4BLK: stat.S_IFBLK, NF4CHR: stat.S_IFCHR, NF4SOCK: stat.S_IFSOCK, NF4FIFO: stat.S_IFIFO,
}  # fmt: skip
_DEVICES = (NF4BLK, NF4CHR)
MAJOR_MAX, MINOR_MAX = (1 << 12) - 1, (1 << 20) - 1
DEFAULT_MODE, DEFAULT_DIRECTORY_MODE = 0o644, 0o755


def create(current: Current, args: Unpacker, out: Packer) -> Waits:
    """Anything but a regular file, which OPEN makes."""
    kind, target, rdev = args.u32(), b"", 0
    if kind == NF4LNK:
        target = bytes(args.opaque(args.left))
    elif kind in _DEVICES:
        rdev = _device(args.u32(), args.u32())
    elif kind not in _KINDS and kind != NF4DIR:
        raise Failed(Status.BADTYPE)
    name = read_name(args)
    wished = read_settable(args, supported(current.minor))
    if wished.bitmap & bits(Attr.SIZE):
        raise Failed(Status.INVAL)
    if kind == NF4LNK and len(target) > SYMLINK_MAX:
        raise Failed(Status.NAMETOOLONG)
    yield from room_for_names(current, (current.place, name))
    directory = directory_here(current)
    before = directory.inode.change
    made = _make(current, directory, name, kind, target, rdev, wished)
    current.go(made)
    current.must_store = True
    pack_change(out, before, directory.inode.change)
    pack_bitmap(out, wished.bitmap)


def _device(major: int, minor: int) -> int:
    """dev_t; INVAL for numbers that Linux has no room for."""
    if major > MAJOR_MAX or minor > MINOR_MAX:
        raise Failed(Status.INVAL)
    return os.makedev(major, minor)


def _make(
    current: Current, directory: Place, name: bytes, kind: int, target: bytes, rdev: int,
    wished: Settable,
) -> Place:  # fmt: skip
    """The new file with its attributes, or no file."""
    files = current.files
    if kind == NF4LNK:
        made = files.symlink(directory, name, target)
    elif kind == NF4DIR:
        made = files.mkdir(directory, name, wished.mode_of_new(DEFAULT_DIRECTORY_MODE))
    else:
        mode = _KINDS[kind] | wished.mode_of_new(DEFAULT_MODE)
        made = files.create(directory, name, mode, rdev=rdev)
    try:
        wished.apply_to_new(files, made)
    except errors.RametError:
        if kind == NF4DIR:
            files.rmdir(directory, name)
        else:
            files.unlink(directory, name)
        raise
    return made


def remove(current: Current, args: Unpacker, out: Packer) -> Waits:
    name = read_name(args)
    yield from room_for_names(current, (current.place, name))
    directory, files = directory_here(current), current.files
    before = directory.inode.change
    try:
        files.unlink(directory, name)
    except errors.IsADirectory:
        files.rmdir(directory, name)
    current.must_store = True
    pack_change(out, before, directory.inode.change)


def rename(current: Current, args: Unpacker, out: Packer) -> Waits:
    name, new_name = read_name(args), read_name(args)
    yield from room_for_names(current, (current.saved_place, name), (current.place, new_name))
    source, target = saved_directory(current), directory_here(current)
    before, before_target = source.inode.change, target.inode.change
    try:
        current.files.rename(source, name, target, new_name)
    except (errors.IsADirectory, errors.NotADirectory, errors.NotEmpty) as error:
        raise Failed(Status.EXIST) from error
    current.must_store = True
    pack_change(out, before, source.inode.change)
    pack_change(out, before_target, target.inode.change)


def link(current: Current, args: Unpacker, out: Packer) -> Waits:
    name = read_name(args)
    yield from room_for_names(current, (current.place, name))
    place, directory = saved_here(current), directory_here(current)
    if place.inode.is_dir:
        raise Failed(Status.ISDIR)
    before = directory.inode.change
    current.files.link(place, directory, name)
    current.must_store = True
    pack_change(out, before, directory.inode.change)


def read_link(current: Current, args: Unpacker, out: Packer) -> None:
    at = here(current)
    if not isinstance(at, Place) or not at.inode.is_symlink:
        raise Failed(Status.WRONG_TYPE)
    out.opaque(current.files.readlink(at))


OPERATIONS: dict[Op, Operation] = {
    Op.CREATE: create,
    Op.REMOVE: remove,
    Op.RENAME: rename,
    Op.LINK: link,
    Op.READLINK: read_link,
    Op.READDIR: read_dir,
}
