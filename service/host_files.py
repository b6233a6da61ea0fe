"""Files of the host that a command names: which of them the daemon may touch.

The daemon answers for its own mount: if its loop waited for a file there, nobody would answer, and
all guests with it.  So each path is looked at on a thread first, and one on the mount is refused.
"""

import os
import stat
from pathlib import Path

from engine import errors


def check_not_own(mountpoint: Path | None, path: str) -> None:
    """InvalidArgument when the path lies on the daemon's own mount.  Any thread but the loop's."""
    if mountpoint is not None and os.stat(path).st_dev == os.stat(mountpoint).st_dev:
        raise errors.InvalidArgument(f"{path} is on the store's own mount; write VOL:/path")


def check_host_file(mountpoint: Path | None, path: str) -> None:
    """As above, and InvalidArgument for what is no regular file (a FIFO would never answer)."""
    check_not_own(mountpoint, path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise errors.InvalidArgument(f"{path} is no regular file")


def check_new_file(mountpoint: Path | None, path: str) -> None:
    """Of a file that is to be made: its directory counts."""
    check_not_own(mountpoint, os.path.dirname(path) or ".")


def owner_only(path: str, flags: int) -> int:
    """An opener (``open``): a new file is its owner's alone."""
    return os.open(path, flags, 0o600)


def sync_name(path: str) -> None:
    """Make a new file's name durable."""
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
