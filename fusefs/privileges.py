"""Set-id bits: what a write, a truncation or a new owner takes off a file.

The mount promises the kernel to do it (privileges.c says why).  The rules are Linux's own: root
may write without it; a new owner or group always does it.  Directories keep theirs.
"""

import stat

from engine import Inode, Volume


def stripped(inode: Inode) -> int | None:
    """The mode without the bits, or None when there is nothing to take off."""
    mode = inode.mode
    if not mode & (stat.S_ISUID | stat.S_ISGID) or inode.is_dir:
        return None
    left = mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:  # without it, the bit means something else
        left &= ~stat.S_ISGID
    return None if left == mode else left


def strip(volume: Volume, ino: int, uid: int) -> bool:
    """A user has changed what is in the file; whether that took bits off."""
    mode = stripped(volume.inode(ino)) if uid else None
    if mode is not None:
        volume.setattr(ino, mode=mode)
    return mode is not None
