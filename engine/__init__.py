"""The synchronous storage engine: blocks, extent maps, namespaces, epochs, commits, gc.

Nothing here knows trio, FUSE, NFS or libvirt.  All methods run on one thread, the engine thread,
and each is atomic against all others; only ``Commit.write`` and ``Gc.mark`` may run elsewhere, on
captured state.
"""

from engine import errors
from engine.inode import Inode
from engine.keys import ROOT_INO, DirEntry
from engine.ranges import BlockRange
from engine.store import Change, Space, Store
from engine.volume import Volume

__all__ = [
    "ROOT_INO", "BlockRange", "Change", "DirEntry", "Inode", "Space", "Store", "Volume", "errors",
]  # fmt: skip
