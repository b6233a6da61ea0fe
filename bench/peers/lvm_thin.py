"""LVM thin volumes: an image is a logical volume, a clone a thin snapshot."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from bench.harness.peer import Peer, fsync
from bench.peers.commands import missing, not_root, quietly, version

POOL_BYTES = 64 << 30  # sparse


class LvmThin(Peer):
    name = "lvm-thin"
    title = "LVM thin snapshot"

    def detect(self) -> str | None:
        if " device-mapper\n" not in Path("/proc/misc").read_text():
            return "this kernel has no device-mapper"
        return missing("lvcreate", "losetup", package="lvm2 thin-provisioning-tools") or not_root()

    def start(self, undo: contextlib.ExitStack) -> None:
        disk = self.folder / "pool.img"
        with disk.open("xb") as file:
            file.truncate(POOL_BYTES)
        loop = quietly("losetup", "--find", "--show", disk).strip()
        undo.callback(quietly, "losetup", "--detach", loop)
        self.group = f"ramet-bench-{os.getpid()}"
        quietly("vgcreate", "-q", self.group, loop)
        undo.callback(quietly, "vgremove", "-q", "-f", self.group)
        quietly("lvcreate", "-q", "-l", "95%FREE", "--thinpool", "pool", "-Zn", self.group)
        self.root = Path("/dev") / self.group
        self.settings["clone"] = "lvcreate -s -kn of a thin volume, chunk size default, -Zn"
        self.settings["durable"] = "lvcreate commits the pool's metadata; of writes fsync"
        self.settings["version"] = version("lvm", "version")

    def make(self, name: str, size_bytes: int) -> None:
        quietly("lvcreate", "-q", "-V", f"{size_bytes}b", "-T", f"{self.group}/pool", "-n", name)

    def clone(self, source: str, target: str) -> None:
        quietly(*self.clone_command(source, target))

    def clone_command(self, source: str, target: str) -> list[str]:
        return ["lvcreate", "-q", "-s", "-kn", "-n", target, f"{self.group}/{source}"]

    def sync(self, names: Sequence[str]) -> None:
        for name in names:
            fsync(self.path(name))

    def delete(self, names: Sequence[str]) -> None:
        quietly("lvremove", "-q", "-f", *(f"{self.group}/{name}" for name in names))

    def used_bytes(self) -> int:
        told = quietly("lvs", "--noheadings", "--nosuffix", "--units", "b", "-o",
                       "lv_size,data_percent", f"{self.group}/pool").split()  # fmt: skip
        return int(int(told[0]) * float(told[1]) / 100)
