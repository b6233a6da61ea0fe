"""The file an operation is for: of the right kind, or the status that RFC 8881 has for others.

An operation asks here after each wait: what it stands on may have gone meanwhile, or be another's.
"""

from collections.abc import Callable
from contextlib import suppress

from engine import errors
from nfsgw.files import Place
from nfsgw.gate import Waits
from nfsgw.v4.current import At, Current, PseudoRoot
from nfsgw.v4.protocol import Failed, Status


def here(current: Current) -> At:
    """What the current filehandle names; NOFILEHANDLE, STALE."""
    at = current.at
    if at is None:
        raise Failed(Status.NOFILEHANDLE)
    return at if isinstance(at, PseudoRoot) else _alive(current, at)


def file_here(current: Current) -> Place:
    """The current regular file; NOFILEHANDLE, STALE, ISDIR, SYMLINK, WRONG_TYPE."""
    return file_of(current, current.at)


def saved_file(current: Current) -> Place:
    """The saved regular file."""
    return file_of(current, current.saved)


def directory_here(current: Current) -> Place:
    """The current directory, of an export; NOTDIR, ROFS for the pseudo-root."""
    return _directory(current, current.place())


def saved_directory(current: Current) -> Place:
    """The saved one."""
    return _directory(current, current.saved_place())


def saved_here(current: Current) -> Place:
    """What was saved; NOFILEHANDLE, ROFS for the pseudo-root."""
    return _alive(current, current.saved_place())


def room_for_names(current: Current, *names: tuple[Callable[[], Place], bytes]) -> Waits:
    """Before names (where, the name) are made or taken away: there is room, and what that reads is
    in memory.  What is wrong is for the change itself to say."""

    def look() -> None:
        with suppress(Failed):
            for directory, name in names:
                at = directory()
                at.volume.look_at_name(at.inode.ino, name)

    yield from current.files.gate.room()
    yield from current.files.gate.warm(look)


def _alive(current: Current, place: Place) -> Place:
    """While the compound waited, the volume may have been restored or the file deleted; then what
    the place remembers of it is of the past: STALE.  So it is when it is not exported any more;
    DELAY when the export's rules have changed what the client may: it asks again, by those."""
    files = current.files
    unchanged = files.exports.changed_ns == current.exports_ns
    if not unchanged and files.who_now(current.call, place.export) != place.who:
        raise Failed(Status.DELAY)
    if not place.snapshots and place.volume.inode(place.inode.ino) is not place.inode:
        raise errors.Stale("the volume was restored meanwhile; look the file up again")
    return place


def file_of(current: Current, at: At | None) -> Place:
    """The regular file that something is; NOFILEHANDLE, STALE, ISDIR, SYMLINK, WRONG_TYPE."""
    if at is None:
        raise Failed(Status.NOFILEHANDLE)
    if isinstance(at, PseudoRoot) or at.inode.is_dir:
        raise Failed(Status.ISDIR)
    if not at.inode.is_file:
        raise Failed(Status.SYMLINK if at.inode.is_symlink else Status.WRONG_TYPE)
    return _alive(current, at)


def _directory(current: Current, place: Place) -> Place:
    if not place.inode.is_dir:
        raise Failed(Status.SYMLINK if place.inode.is_symlink else Status.NOTDIR)
    return _alive(current, place)
