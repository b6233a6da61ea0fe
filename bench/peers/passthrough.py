"""Yardsticks of the data path: FUSE programs that do nothing but pass on to one flat file."""

import contextlib
import os
from pathlib import Path

from bench.harness.peer import Peer
from bench.mounts import bare, bare_c
from bench.peers.commands import missing, taken_bytes


class PassThrough(Peer):
    """Its one image has whatever name it was made by."""

    name = "passthrough"
    title = "bare pyfuse3 pass-through"
    role = "data path"

    def detect(self) -> str | None:
        return None if os.access("/dev/fuse", os.W_OK) else "no /dev/fuse here; modprobe fuse"

    def start(self, undo: contextlib.ExitStack) -> None:
        place = undo.enter_context(bare(self.folder))
        self._image = place.file("")
        self.settings["program"] = "bench/passthrough.py: pyfuse3 and trio, pread and pwrite"

    def path(self, name: str) -> Path:
        return self._image

    def make(self, name: str, size_bytes: int) -> None:
        os.truncate(self.folder / "flat", size_bytes)

    def clone(self, source: str, target: str) -> None:
        raise NotImplementedError

    def sync(self, names: object) -> None:
        """Each write is passed on, and fsync too."""

    def used_bytes(self) -> int:
        return taken_bytes(self.folder)


class PassThroughC(PassThrough):
    name = "passthrough-c"
    title = "bare C pass-through"

    def detect(self) -> str | None:
        return super().detect() or missing("cc", "pkg-config", package="build-essential pkg-config")

    def start(self, undo: contextlib.ExitStack) -> None:
        place = undo.enter_context(bare_c(self.folder))
        self._image = place.file("")
        self.settings["program"] = "bench/passthrough.c: libfuse, one thread, pread and pwrite"
