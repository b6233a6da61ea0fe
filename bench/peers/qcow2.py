"""qcow2 files that name the golden image as their backing file."""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.harness.peer import Peer
from bench.peers.commands import missing, quietly, taken_bytes, version

END_S = 30


class Qcow2(Peer):
    """An image that was made or put is raw; a clone is qcow2, of that or of another clone."""

    name = "qcow2"
    title = "qcow2 backing file"

    def detect(self) -> str | None:
        return missing("qemu-img", "qemu-storage-daemon", package="qemu-utils qemu-system-common")

    def start(self, undo: contextlib.ExitStack) -> None:
        self.root = self.folder / "images"
        self.root.mkdir()
        self._copies: set[str] = set()
        self.settings["clone"] = (
            "qemu-img create -f qcow2 -b IMAGE -F FORMAT, other options default"
        )
        self.settings["durable"] = "fsync of the new file and its directory"
        self.settings["read and write"] = "qemu-storage-daemon, FUSE export (a guest has no FUSE)"
        self.settings["version"] = version("qemu-img", "--version")

    def clone(self, source: str, target: str) -> None:
        quietly(*self.clone_command(source, target))
        self._copies.add(target)

    def clone_command(self, source: str, target: str) -> list[str]:
        form = "qcow2" if source in self._copies else "raw"
        backing = ["-b", str(self.path(source)), "-F", form]
        return ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(self.path(target))]

    def no_nfs(self) -> str | None:
        return (
            "QEMU's NFS client looks for a backing file one directory too high (7.2: a mount of it "
            "is refused); by a mount of the kernel's it can be used"
        )

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """A qcow2 file as the disk a guest would see, by an export of its own."""
        if name not in self._copies:
            yield self.path(name)
            return
        export, pid_file = self.folder / f"{name}.disk", self.folder / f"{name}.pid"
        export.touch()
        process = subprocess.Popen(
            ["qemu-storage-daemon", "--pidfile", str(pid_file), "--blockdev",
             f"driver=file,node-name=file,filename={self.path(name)}", "--blockdev",
             "driver=qcow2,node-name=disk,file=file", "--export",
             f"type=fuse,id=disk,node-name=disk,mountpoint={export},writable=on", "--daemonize"],
            start_new_session=True, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, said = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args, stderr=said)
        try:
            yield export
        finally:
            self._end(int(pid_file.read_text()))
            export.unlink()

    def disk(self, name: str) -> tuple[Path, str]:
        return self.path(name), "qcow2" if name in self._copies else "raw"

    @staticmethod
    def _end(pid: int) -> None:
        """Tell the storage daemon to stop, and wait until it has let go of the image."""
        fd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGTERM)
            select.select([fd], [], [], END_S)
        finally:
            os.close(fd)

    def delete(self, names: Sequence[str]) -> None:
        super().delete(names)
        self._copies -= set(names)

    def used_bytes(self) -> int:
        return taken_bytes(self.root)
