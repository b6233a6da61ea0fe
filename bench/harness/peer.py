"""A peer: something that stores images and copies them, behind one interface.

A scenario sees nothing else of it.  ``start`` puts what undoes it on the stack it is given *as it
goes*, so that a peer which fails half-way, or an interrupt, leaves nothing behind.  Names are plain
file names without a slash; what a peer makes of them is its own affair.
"""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

Role = Literal["images", "data path", "vms"]
"""What it takes part in: a yardstick of the data path, or of VMs, copies no images."""

Block = tuple[int, bytes]
"""Where in the image, in bytes, and what is written there."""
File = tuple[str, bytes]
"""``directory/name`` and what is in it."""


@dataclass(frozen=True)
class Share:
    """Images over NFSv3: the URL of their directory, and words before a command to reach it."""

    url: str
    enter: tuple[str, ...] = ()


class Peer(ABC):
    """One way to keep images.  ``settings`` is what a reader needs to judge it, in words."""

    name: ClassVar[str]  # as in --peers and results.json
    title: ClassVar[str]
    threads: ClassVar[bool] = True  # may clone() be called by several at once?
    mounted: ClassVar[bool] = True  # have images a path?
    data_path_of: ClassVar[str] = ""  # reads and writes are those of the peer named so
    role: ClassVar[Role] = "images"

    def __init__(self, given: Path | None = None) -> None:
        """``given``: a directory to use in place of a loop device of the peer's own."""
        self.given = given
        self.settings: dict[str, str] = {}
        self.folder = Path()  # of its own, there once it is started
        self.root = Path()  # where its images are

    @abstractmethod
    def detect(self) -> str | None:
        """None when it can run here; else why not, and what would help.  Changes nothing."""

    @abstractmethod
    def start(self, undo: contextlib.ExitStack) -> None:
        """Set up in ``self.folder``, an empty directory; say in ``self.root`` where images are."""

    @abstractmethod
    def clone(self, source: str, target: str) -> None:
        """Make ``target`` a copy of ``source`` that can be written."""

    def clone_command(self, source: str, target: str) -> list[str] | None:
        """The same as a person types it; None when nobody would."""
        return None

    def clone_many(self, source: str, prefix: str, count: int) -> list[str]:
        """``count`` copies, in the best way there is; returns their names."""
        names = numbered(prefix, count)
        for name in names:
            self.clone(source, name)
        return names

    def path(self, name: str) -> Path:
        """The file that ``clone`` makes and ``delete`` removes."""
        return self.root / name

    def make(self, name: str, size_bytes: int) -> None:
        """A new image that is all hole."""
        with self.path(name).open("xb") as file:
            file.truncate(size_bytes)

    def write(self, name: str, blocks: Iterable[Block]) -> None:
        """Write through the page cache; ``sync`` makes it durable."""
        with self.opened(name) as path:
            fd = os.open(path, os.O_WRONLY)
            try:
                for at, data in blocks:
                    os.pwrite(fd, data, at)
                os.fsync(fd)
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """A file or device with the bytes a guest would see, to read and write meanwhile."""
        yield self.path(name)

    def disk(self, name: str) -> tuple[Path, str]:
        """What QEMU is given to run a guest from the image: a path and its format."""
        return self.path(name), "raw"

    def no_nfs(self) -> str | None:
        """None when ``export`` can serve its images by NFS; else why not.  Changes nothing."""
        return "it has no NFS server, and none is known that could serve it"

    def export(self, undo: contextlib.ExitStack) -> Share:
        """Serve all its images by NFSv3, until it is undone."""
        raise NotImplementedError

    def sync(self, names: Sequence[str]) -> None:
        """What was done to these images is durable when it returns."""
        for name in names:
            fsync(self.path(name))
        fsync(self.root)

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.path(name).unlink()

    def reclaim(self) -> None:
        """The space of what was deleted is free for others when it returns."""
        return

    @abstractmethod
    def used_bytes(self) -> int:
        """What all images take on disk, metadata included."""


class TreePeer(Peer):
    """A peer that copies a whole datastore, a directory of files, in one operation."""

    @abstractmethod
    def make_tree(self, name: str, files: Iterable[File]) -> None:
        """A new datastore with these files, durable."""

    @abstractmethod
    def clone_tree(self, source: str, target: str) -> None: ...

    def clone_tree_command(self, source: str, target: str) -> list[str] | None:
        """The same as a person types it; None when nobody would."""
        return None

    @abstractmethod
    def sync_tree(self, name: str) -> None:
        """What was done to it is durable when it returns."""


class VmPeer(Peer):
    """A peer that makes VMs of a base VM, each known to libvirt when it is made."""

    @abstractmethod
    def add_base(self, disk: Path, xml: str, prefix: str) -> None:
        """A base VM: the XML has ``{name}``, ``{uuid}`` and ``{disk}`` to fill in.

        All names of domains, and of volumes and pools for them, begin with ``prefix``.
        """

    @abstractmethod
    def clone_vms(self, name: str, count: int) -> None:
        """Make and register ``count`` VMs, called after ``name``."""


def write_files(root: Path, files: Iterable[File]) -> None:
    """By plain system calls, as a user would."""
    for name, data in files:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{n:06d}" for n in range(1, count + 1)]


def fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
