"""The synchronous storage engine: blocks, extent maps, namespaces, epochs, commits, gc.

Nothing here knows trio, FUSE, NFS or libvirt.  All methods run on one thread, the engine thread,
and each is atomic against all others; only ``Commit.write`` and ``Gc.mark`` may run elsewhere, on
captured state.

``from engine import Store`` imports the module that has it, and no other import does: who needs an
error's class, as a command that asks a daemon, does not load LMDB and the C core for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from engine import errors

if TYPE_CHECKING:
    from engine.block_range import BlockRange
    from engine.inode import Inode
    from engine.keys import ROOT_INO, DirEntry
    from engine.store import Change, Space, Store
    from engine.volume import Volume
else:
    _HOMES = {
        "BlockRange": "block_range", "Inode": "inode", "ROOT_INO": "keys", "DirEntry": "keys",
        "Change": "store", "Space": "store", "Store": "store", "Volume": "volume",
    }  # fmt: skip

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "ROOT_INO", "BlockRange", "Change", "DirEntry", "Inode", "Space", "Store", "Volume", "errors",
]  # fmt: skip
