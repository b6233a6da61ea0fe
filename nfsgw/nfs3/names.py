"""Names that come and go: CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME, LINK.

What is made gets its attributes in the same step, so nobody sees it without them; what could make
that fail is looked at before. An exclusive CREATE keeps its verifier with the inode: sent again,
after whatever crash, it finds its own file (RFC 1813, 3.3.8).
"""

import os
import stat
from collections.abc import Callable

from engine import errors
from engine.inode import FILE_BYTES_MAX
from nfsgw.access import AccessDenied
from nfsgw.files import Files, Place
from nfsgw.gate import Waits
from nfsgw.nfs3.answers import Change, Subject, changing, post_op_handle, read_handle, read_name
from nfsgw.nfs3.attributes import NewAttributes, post_op, read_attributes
from nfsgw.nfs3.protocol import NAME_MAX, CreateMode, Failed, FileType, Status
from nfsgw.rpc import Call
from nfsgw.xdr import Garbage, Unpacker

FILE_MODE = 0o600  # where a client gives none: it does when it sets the rest
DIRECTORY_MODE = 0o700
PATH_BYTES_MAX = 4096
_MAJOR_MAX, _MINOR_MAX = 1 << 12, 1 << 20
_NO_VERIFIER = 1 << 63  # stands for 0, which is what files have that were not made so
_DEVICES = {FileType.CHR: stat.S_IFCHR, FileType.BLK: stat.S_IFBLK}
_OTHERS = {FileType.SOCK: stat.S_IFSOCK, FileType.FIFO: stat.S_IFIFO}


def sound_name(name: bytes) -> bytes:
    """What may be looked up: RFC 1813, 3.2 says ACCES for none and NAMETOOLONG."""
    if not name:
        raise AccessDenied("a name has at least one byte")
    if len(name) > NAME_MAX:
        raise errors.NameTooLong(f"the limit is {NAME_MAX} bytes")
    if b"/" in name or b"\0" in name:
        raise errors.InvalidArgument(f"{name!r} is no file name")
    return name


def _new_name(name: bytes) -> bytes:
    """What may be made."""
    if name in (b".", b".."):
        raise errors.AlreadyExists("every directory has it")
    return sound_name(name)


def _old_name(name: bytes) -> bytes:
    """What may be taken away."""
    if name in (b".", b".."):
        raise errors.InvalidArgument("every directory keeps it")
    return sound_name(name)


def _room(files: Files, call: Call, *names: tuple[bytes, bytes]) -> Waits:
    """Before names (the directory's handle, the name) are made or taken away: there is room, and
    what that reads is in memory.  What is wrong is for the change itself to say."""

    def look() -> None:
        for raw, name in names:
            place = files.place(call, raw)
            place.volume.look_at_name(place.inode.ino, name)

    yield from files.gate.room()
    yield from files.gate.warm(look)


def setting(files: Files, place: Place, wanted: NewAttributes, *, new: bool = False) -> None:
    """SETATTR of an object."""
    files.setattr(
        place, mode=wanted.mode, uid=wanted.uid, gid=wanted.gid, size=wanted.size,
        atime_ns=wanted.atime, mtime_ns=wanted.mtime, new=new,
    )  # fmt: skip


def _check_initial(wanted: NewAttributes) -> None:
    wanted.check()
    if (wanted.size or 0) > FILE_BYTES_MAX:
        raise errors.TooLarge(f"a file holds at most {FILE_BYTES_MAX >> 50} PiB")


def _initial(files: Files, place: Place, wanted: NewAttributes) -> None:
    """The attributes of what was made just now, its mode apart.

    Clients send the owner they think it has; only root can make it another's.
    """
    who = place.who
    if not who.root:
        member = wanted.gid == who.gid or wanted.gid in who.gids
        wanted = wanted._replace(uid=None, gid=wanted.gid if member else None)
    if not place.inode.is_file:
        wanted = wanted._replace(size=None)
    wanted = wanted._replace(mode=None)
    if not wanted.empty:
        setting(files, place, wanted, new=True)


def _made(files: Files, place: Place, directory: Subject) -> bytes:
    """diropres3: what was made or found, and its directory."""
    directory.changed()
    return post_op_handle(files.handle(place)) + post_op(place) + directory.wcc()


@changing(Subject.wcc)
def create(files: Files, call: Call, args: Unpacker, subject: Subject) -> Change:
    """3.3.8."""
    raw, name, how = read_handle(args), read_name(args), args.u32()
    if how > CreateMode.EXCLUSIVE:
        raise Garbage(f"{how} is no createmode")
    verifier = (args.u64() or _NO_VERIFIER) if how == CreateMode.EXCLUSIVE else 0
    wanted = None if how == CreateMode.EXCLUSIVE else read_attributes(args)
    yield from _room(files, call, (raw, name))
    directory = subject.meets(files.place(call, raw))
    _new_name(name)
    if wanted is not None:
        _check_initial(wanted)
    found = None if how == CreateMode.GUARDED else _existing(files, directory, name)
    if found is None:
        mode = FILE_MODE if wanted is None or wanted.mode is None else wanted.mode
        found = files.create(directory, name, stat.S_IFREG | mode, verifier=verifier)
        if wanted is not None:
            _initial(files, found, wanted)
    elif not found.inode.is_file or found.inode.verifier != (verifier or found.inode.verifier):
        raise errors.AlreadyExists("there is another file of that name")
    elif wanted is not None and wanted.size is not None:
        files.setattr(found, size=wanted.size)
    result = _made(files, found, subject)
    yield from files.gate.stored()
    return result


def _existing(files: Files, directory: Place, name: bytes) -> Place | None:
    try:
        return files.lookup(directory, name)
    except errors.NotFound:
        return None


@changing(Subject.wcc)
def mkdir(files: Files, call: Call, args: Unpacker, subject: Subject) -> Change:
    """3.3.9."""
    raw, name, wanted = read_handle(args), read_name(args), read_attributes(args)
    yield from _room(files, call, (raw, name))
    directory = subject.meets(files.place(call, raw))
    wanted.check()
    mode = DIRECTORY_MODE if wanted.mode is None else wanted.mode
    made = files.mkdir(directory, _new_name(name), mode)
    _initial(files, made, wanted)
    result = _made(files, made, subject)
    yield from files.gate.stored()
    return result


@changing(Subject.wcc)
def symlink(files: Files, call: Call, args: Unpacker, subject: Subject) -> Change:
    """3.3.10; a symlink's mode is always 0777."""
    raw, name, wanted = read_handle(args), read_name(args), read_attributes(args)
    target = bytes(args.opaque(args.left)[:PATH_BYTES_MAX])
    yield from _room(files, call, (raw, name))
    directory = subject.meets(files.place(call, raw))
    wanted.check()
    made = files.symlink(directory, _new_name(name), target)
    _initial(files, made, wanted)
    result = _made(files, made, subject)
    yield from files.gate.stored()
    return result


@changing(Subject.wcc)
def mknod(files: Files, call: Call, args: Unpacker, subject: Subject) -> Change:
    """3.3.11: devices, sockets and fifos; BADTYPE for what other calls make."""
    raw, name, kind = read_handle(args), read_name(args), args.u32()
    wanted, rdev = None, 0
    if kind in _DEVICES or kind in _OTHERS:
        wanted = read_attributes(args)
    if kind in _DEVICES:
        rdev = _device(args.u32(), args.u32())
    yield from _room(files, call, (raw, name))
    directory = subject.meets(files.place(call, raw))
    if wanted is None:
        raise Failed(Status.BADTYPE)
    wanted.check()
    if rdev < 0:
        raise errors.InvalidArgument("no such device number")
    mode = FILE_MODE if wanted.mode is None else wanted.mode
    mode |= (_DEVICES | _OTHERS)[FileType(kind)]
    made = files.create(directory, _new_name(name), mode, rdev=rdev)
    _initial(files, made, wanted)
    result = _made(files, made, subject)
    yield from files.gate.stored()
    return result


def _device(major: int, minor: int) -> int:
    """A device number as Linux has it; -1 for what it cannot have."""
    if major >= _MAJOR_MAX or minor >= _MINOR_MAX:
        return -1
    return os.makedev(major, minor)


@changing(Subject.wcc)
def remove(files: Files, call: Call, args: Unpacker, subject: Subject) -> Change:
    """3.3.12."""
    return (yield from _without_a_name(files, call, args, subject, files.unlink))


@changing(Subject.wcc)
def rmdir(files: Files, call: Call, args: Unpacker, subject: Subject) -> Change:
    """3.3.13."""
    return (yield from _without_a_name(files, call, args, subject, files.rmdir))


def _without_a_name(
    files: Files, call: Call, args: Unpacker, subject: Subject,
    remove: Callable[[Place, bytes], None],
) -> Change:  # fmt: skip
    raw, name = read_handle(args), read_name(args)
    yield from _room(files, call, (raw, name))
    directory = subject.meets(files.place(call, raw))
    remove(directory, _old_name(name))
    subject.changed()
    yield from files.gate.stored()
    return subject.wcc()


@changing(Subject.wcc, Subject.wcc)
def rename(files: Files, call: Call, args: Unpacker, source: Subject, target: Subject) -> Change:
    """3.3.14: over what has the new name, too."""
    raw, name = read_handle(args), read_name(args)
    new_raw, new_name = read_handle(args), read_name(args)
    yield from _room(files, call, (raw, name), (new_raw, new_name))
    old = source.meets(files.place(call, raw))
    new = target.meets(files.place(call, new_raw))
    files.rename(old, _old_name(name), new, _old_name(new_name))
    source.changed()
    target.changed()
    yield from files.gate.stored()
    return source.wcc() + target.wcc()


@changing(Subject.attributes, Subject.wcc)
def link(files: Files, call: Call, args: Unpacker, subject: Subject, target: Subject) -> Change:
    """3.3.15."""
    raw, new_raw, name = read_handle(args), read_handle(args), read_name(args)
    yield from _room(files, call, (new_raw, name))
    place = subject.meets(files.place(call, raw))
    directory = target.meets(files.place(call, new_raw))
    files.link(place, directory, _new_name(name))
    subject.changed()
    target.changed()
    yield from files.gate.stored()
    return subject.attributes() + target.wcc()
