"""XFS, whose reflink is what a KVM host with raw images would use today."""

from bench.peers.file_system import FileSystemPeer


class Xfs(FileSystemPeer):
    name = "xfs"
    title = "XFS reflink"
    kind = "xfs"
    package = "xfsprogs"
    make_options = ("-m", "reflink=1")
