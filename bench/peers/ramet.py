"""Ramet by its public doors: the daemon's client, ``cp`` on the mount, the engine by itself."""

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.harness.peer import (
    Block,
    File,
    Peer,
    Share,
    TreePeer,
    VmPeer,
    fsync,
    numbered,
    write_files,
)
from bench.peers.commands import quietly
from engine import ROOT_INO, Store, Volume
from service.client import Client

VOLUME = "lab"
SPACE = (
    "physical and metadata bytes of ramet df, and the files of the fingerprint index; slab files "
    "get space from the host a GiB at a time and give it back by trims in the background"
)
COMMAND = [sys.executable, "-P", "-m", "cli"]


def index_bytes(store: Path) -> int:
    """By its files; what is in memory only, of the newest blocks, comes there at the close."""
    found = 0
    for file in (store / "index").iterdir():
        with contextlib.suppress(FileNotFoundError):  # made into another meanwhile
            found += file.stat().st_size
    return found


class Ramet(TreePeer, VmPeer):
    """A store with a daemon and its mount; clones are jobs of ``service.Client``."""

    name = "ramet"
    title = "Ramet (daemon)"

    def detect(self) -> str | None:
        return None if os.access("/dev/fuse", os.W_OK) else "no /dev/fuse here; modprobe fuse"

    def start(self, undo: contextlib.ExitStack) -> None:
        self.store, self.mount = self.folder / "store", self.folder / "mnt"
        self.mount.mkdir()
        self.ramet("init", self.store)
        self.ramet("volume", "create", VOLUME)
        undo.callback(self._unmount)
        self.ramet("mount", self.mount)
        self.client = Client(self.store)
        self.root = self.mount / VOLUME
        self.settings["store"] = (
            "ramet init without options, on the file system of the run's folder"
        )
        self.settings["clone"] = "service.Client.clone(...).wait(): a job, durable when it returns"
        self.settings["durable"] = "clones are; of writes fsync of the file on the mount"
        self.settings["space"] = SPACE

    def ramet(self, *words: object) -> str:
        return quietly(*self.command(*words))

    def command(self, *words: object) -> list[str]:
        return [*COMMAND, "--store", str(self.store), "--json", *map(str, words)]

    def _unmount(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.ramet("umount")
        if os.path.ismount(self.mount):
            quietly("umount", "-l", self.mount)

    def clone(self, source: str, target: str) -> None:
        self.client.clone(f"{VOLUME}:/{source}", f"{VOLUME}:/{target}").wait()

    def clone_command(self, source: str, target: str) -> list[str] | None:
        return self.command("clone", f"{VOLUME}:/{source}", f"{VOLUME}:/{target}")

    def clone_many(self, source: str, prefix: str, count: int) -> list[str]:
        pattern = f"{VOLUME}:/{prefix}{{n:06d}}"
        self.client.clone(f"{VOLUME}:/{source}", pattern, count=count).wait()
        return numbered(prefix, count)

    def sync(self, names: Sequence[str]) -> None:
        """A job is durable when it has ended."""

    def no_nfs(self) -> str | None:
        return None

    def export(self, undo: contextlib.ExitStack) -> Share:
        address = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"  # nobody's port mapper
        self.ramet("share", "nfs", "add", VOLUME, "--listen", address,
                   "--client", "127.0.0.0/8:root")  # fmt: skip
        undo.callback(self.ramet, "share", "nfs", "rm", VOLUME)
        self.settings["NFS"] = "ramet share nfs add, the store mounted as well"
        return Share(f"nfs://{address}/{VOLUME}")

    def reclaim(self) -> None:
        self.ramet("gc")

    def used_bytes(self) -> int:
        fsync(self.root)
        told = json.loads(self.ramet("df"))
        return int(told["physical_bytes"] + told["metadata_bytes"]) + index_bytes(self.store)

    def make_tree(self, name: str, files: Iterable[File]) -> None:
        self.ramet("volume", "create", name)
        write_files(self.mount / name, files)
        fsync(self.mount / name)

    def clone_tree(self, source: str, target: str) -> None:
        self.client.clone_volume(source, target).wait()

    def clone_tree_command(self, source: str, target: str) -> list[str] | None:
        return self.command("volume", "clone", source, target)

    def sync_tree(self, name: str) -> None:
        """A job is durable when it has ended."""

    def add_base(self, disk: Path, xml: str, prefix: str) -> None:
        self._vms = prefix
        definition = self.folder / "golden.xml"
        definition.write_text(xml.format(name=f"{prefix}-base", uuid=uuid.uuid4(), disk=disk.name))
        self.ramet("volume", "create", prefix)
        self.ramet("import", "-p", disk, f"{prefix}:/golden/{disk.name}")
        self.ramet("vm", "add", f"{prefix}:/golden", "--xml", definition)

    def clone_vms(self, name: str, count: int) -> None:
        (self.mount / self._vms / name).mkdir()
        self.ramet("vm", "clone", f"{self._vms}:/golden",
                   f"{self._vms}:/{name}/{self._vms}-{name}-{{n:04d}}", "--count", count,
                   "--register", "-c", "qemu:///system")  # fmt: skip


class RametCp(Ramet):
    """The same store, by a program that knows nothing of it: copy_file_range on the mount."""

    name = "ramet-cp"
    title = "Ramet (cp on the mount)"
    data_path_of = "ramet"

    def start(self, undo: contextlib.ExitStack) -> None:
        super().start(undo)
        self.settings["clone"] = (
            "copy_file_range on the mount, as cp; by the kernel 2 GiB a request"
        )
        self.settings["durable"] = "fsync of the clone and its directory"

    def clone(self, source: str, target: str) -> None:
        with self.path(source).open("rb") as old, self.path(target).open("xb") as new:
            left = os.fstat(old.fileno()).st_size
            while left and (done := os.copy_file_range(old.fileno(), new.fileno(), left)):
                left -= done

    def clone_command(self, source: str, target: str) -> list[str] | None:
        return ["cp", str(self.path(source)), str(self.path(target))]

    def clone_many(self, source: str, prefix: str, count: int) -> list[str]:
        return Peer.clone_many(self, source, prefix, count)

    def sync(self, names: Sequence[str]) -> None:
        """One commit of the store has all that was done before."""
        fsync(self.path(names[-1]))


class RametEngine(TreePeer):
    """A store opened by a Python program: ``engine.Store``, no daemon, no mount."""

    name = "ramet-engine"
    title = "Ramet (engine API)"
    threads = False
    mounted = False

    def detect(self) -> str | None:
        return None

    def start(self, undo: contextlib.ExitStack) -> None:
        Store.create(self.folder / "store")
        self.store: Store = undo.enter_context(Store.open(self.folder / "store"))
        self.volume: Volume = self.store.create_volume(VOLUME)
        self._numbers: dict[str, int] = {}
        self._volumes: dict[str, Volume] = {}
        self.settings["clone"] = "engine.Store.clone_file in this process"
        self.settings["durable"] = "engine.Store.commit"
        self.settings["space"] = SPACE

    def no_nfs(self) -> str | None:
        return "a store in a program of its own has no server"

    def make(self, name: str, size_bytes: int) -> None:
        ino = self.volume.create(ROOT_INO, name.encode(), 0o644, 0, 0).ino
        self.volume.setattr(ino, size=size_bytes)
        self._numbers[name] = ino

    def write(self, name: str, blocks: Iterable[Block]) -> None:
        for at, data in blocks:
            self.volume.write(self._numbers[name], at, data)
        self.store.commit()

    def clone(self, source: str, target: str) -> None:
        volume, ino = self.volume, self._numbers[source]
        made = self.store.clone_file(volume, ino, volume, ROOT_INO, target.encode())
        self._numbers[target] = made.ino

    def sync(self, names: Sequence[str]) -> None:
        self.store.commit()

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.volume.unlink(ROOT_INO, name.encode())
            del self._numbers[name]

    def reclaim(self) -> None:
        self.store.gc()

    def used_bytes(self) -> int:
        self.store.commit()
        told = self.store.space()
        return told.physical_bytes + told.metadata_bytes + index_bytes(self.folder / "store")

    def make_tree(self, name: str, files: Iterable[File]) -> None:
        volume = self.store.create_volume(name)
        above: dict[str, int] = {}
        for path, data in files:
            directory, _, base = path.partition("/")
            if directory not in above:
                made = volume.mkdir(ROOT_INO, directory.encode(), 0o755, 0, 0)
                above[directory] = made.ino
            inode = volume.create(above[directory], base.encode(), 0o644, 0, 0)
            volume.write(inode.ino, 0, data)
        self.store.commit()
        self._volumes[name] = volume

    def clone_tree(self, source: str, target: str) -> None:
        self._volumes[target] = self.store.clone_volume(self._volumes[source], target)

    def sync_tree(self, name: str) -> None:
        self.store.commit()
