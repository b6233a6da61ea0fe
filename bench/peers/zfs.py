"""ZFS: an image is a volume (zvol), a clone a snapshot and its clone."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from bench.harness.peer import Peer
from bench.peers.commands import missing, not_root, quietly, version

POOL_BYTES = 64 << 30  # sparse


class Zfs(Peer):
    name = "zfs"
    title = "ZFS clone"

    def detect(self) -> str | None:
        if not Path("/dev/zfs").exists():
            return "the zfs module is not loaded; apt-get install zfs-dkms zfsutils-linux"
        return missing("zpool", "zfs", "udevadm", package="zfsutils-linux udev") or not_root()

    def start(self, undo: contextlib.ExitStack) -> None:
        disk = self.folder / "pool.img"
        with disk.open("xb") as file:
            file.truncate(POOL_BYTES)
        self.pool = f"ramet-bench-{os.getpid()}"
        quietly("zpool", "create", "-o", "ashift=12", self.pool, disk)
        undo.callback(quietly, "zpool", "destroy", "-f", self.pool)
        self.root = Path("/dev/zvol") / self.pool
        self.settings["clone"] = (
            "zfs snapshot, zfs clone; volblocksize 16k, compression lz4, no dedup"
        )
        self.settings["durable"] = "zpool sync"
        self.settings["version"] = version("zfs", "version")

    def make(self, name: str, size_bytes: int) -> None:
        quietly("zfs", "create", "-s", "-b", "16k", "-o", "compression=lz4", "-V", size_bytes,
                f"{self.pool}/{name}")  # fmt: skip
        quietly("udevadm", "settle")

    def clone(self, source: str, target: str) -> None:
        snapshot = f"{self.pool}/{source}@{target}"
        quietly("zfs", "snapshot", snapshot)
        quietly("zfs", "clone", snapshot, f"{self.pool}/{target}")

    def sync(self, names: Sequence[str]) -> None:
        quietly("zpool", "sync", self.pool)

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            origin = quietly("zfs", "get", "-H", "-o", "value", "origin", f"{self.pool}/{name}")
            quietly("zfs", "destroy", "-R", f"{self.pool}/{name}")
            if "@" in origin:
                quietly("zfs", "destroy", "-d", origin.strip())

    def used_bytes(self) -> int:
        quietly("zpool", "sync", self.pool)
        return int(quietly("zpool", "list", "-Hp", "-o", "alloc", self.pool))
