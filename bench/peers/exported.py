"""Peers without an NFS server of their own, by the one that user space has for any file system."""

import contextlib
import shutil

from bench.ganesha import ganesha
from bench.harness.peer import Peer, Share
from bench.peers.commands import missing, not_root, version

PACKAGES = "nfs-ganesha nfs-ganesha-vfs rpcbind nfs-common util-linux iproute2"


class ByGanesha(Peer):
    """In a network of its own, for it wants rpcbind's port at every address."""

    def no_nfs(self) -> str | None:
        programs = "ganesha.nfsd", "rpcbind", "showmount", "nsenter", "ip"
        return missing(*programs, package=PACKAGES) or not_root()

    def export(self, undo: contextlib.ExitStack) -> Share:
        own = self.folder / "ganesha"
        own.mkdir()
        undo.callback(shutil.rmtree, own, ignore_errors=True)
        root = self.root.absolute()
        enter = undo.enter_context(ganesha(own, root))
        self.settings["NFS"] = f"{version('ganesha.nfsd', '-v')}, FSAL VFS, else as delivered"
        return Share(f"nfs://127.0.0.1{root}", enter)
