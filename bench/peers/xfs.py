"""XFS, whose reflink is what a KVM host with raw images would use today."""

import contextlib

from bench.peers.commands import quietly
from bench.peers.file_system import FileSystemPeer, syncfs


class Xfs(FileSystemPeer):
    name = "xfs"
    title = "XFS reflink"
    kind = "xfs"
    package = "xfsprogs"
    make_options = ("-m", "reflink=1")

    def start(self, undo: contextlib.ExitStack) -> None:
        super().start(undo)
        self.settings["space"] = (
            "statvfs, after xfs_spaceman prealloc: what it takes ahead for copy-on-write, 128 KiB "
            "a write, it would give back by itself within half an hour"
        )

    def used_bytes(self) -> int:
        syncfs(self.root)
        quietly("xfs_spaceman", "-c", "prealloc -s", self.root)
        return super().used_bytes()
