"""A full copy on the host's own file system: what everything else is measured to avoid."""

import contextlib
import os

from bench.harness.peer import Peer
from bench.peers.commands import quietly, taken_bytes, version


class FullCopy(Peer):
    name = "copy"
    title = "full copy"

    def detect(self) -> str | None:
        return None

    def start(self, undo: contextlib.ExitStack) -> None:
        self.root = self.folder
        self.settings["clone"] = "cp --reflink=never --sparse=auto: holes are not copied"
        self.settings["durable"] = "fsync of the copy and its directory"
        self.settings["version"] = version("cp", "--version")

    def clone(self, source: str, target: str) -> None:
        quietly(*self.clone_command(source, target))

    def clone_command(self, source: str, target: str) -> list[str]:
        words = [str(self.path(source)), str(self.path(target))]
        return ["cp", "--reflink=never", "--sparse=auto", *words]

    def used_bytes(self) -> int:
        os.sync()  # ext4 gives blocks to what was written when it writes it back
        return taken_bytes(self.root)
