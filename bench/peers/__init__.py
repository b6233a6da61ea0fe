"""What people would use instead of Ramet, and Ramet itself: a module each."""

from bench.harness.peer import Peer
from bench.peers.btrfs import Btrfs, BtrfsSnapshot
from bench.peers.full_copy import FullCopy
from bench.peers.juicefs import JuiceFS
from bench.peers.lvm_thin import LvmThin
from bench.peers.passthrough import PassThrough, PassThroughC
from bench.peers.qcow2 import Qcow2
from bench.peers.ramet import Ramet, RametCp, RametEngine
from bench.peers.virt import Define, VirtClone, VirtCloneReflink
from bench.peers.xfs import Xfs
from bench.peers.zfs import Zfs

PEERS: tuple[type[Peer], ...] = (
    Ramet, RametCp, RametEngine, Xfs, Btrfs, BtrfsSnapshot, Qcow2, FullCopy, JuiceFS, LvmThin, Zfs,
    PassThrough, PassThroughC, VirtClone, VirtCloneReflink, Define,
)  # fmt: skip
