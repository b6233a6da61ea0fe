"""A full copy on the host's own file system: what everything else is measured to avoid."""

import contextlib
from collections.abc import Iterable

from bench.harness.peer import File, TreePeer, fsync, write_files
from bench.peers.commands import quietly, taken_bytes, version
from bench.peers.exported import ByGanesha
from bench.peers.file_system import syncfs


class FullCopy(ByGanesha, TreePeer):
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

    def make_tree(self, name: str, files: Iterable[File]) -> None:
        (self.root / name).mkdir()
        write_files(self.root / name, files)
        syncfs(self.root)

    def clone_tree(self, source: str, target: str) -> None:
        quietly(*self.clone_tree_command(source, target))

    def clone_tree_command(self, source: str, target: str) -> list[str]:
        return ["cp", "-a", "--reflink=never", str(self.root / source), str(self.root / target)]

    def sync_tree(self, name: str) -> None:
        syncfs(self.root)

    def reclaim(self) -> None:
        fsync(self.root)

    def used_bytes(self) -> int:
        return taken_bytes(self.root)
