"""A peer: something that stores images and copies them, behind one interface.

A scenario sees nothing else of it.  ``start`` puts what undoes it on the stack it is given *as it
goes*, so that a peer which fails half-way, or an interrupt, leaves nothing behind.  Names are plain
file names without a slash; what a peer makes of them is its own affair.
"""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

Block = tuple[int, bytes]
"""Where in the image, in bytes, and what is written there."""
File = tuple[str, bytes]
"""``directory/name`` and what is in it."""


class Peer(ABC):
    """One way to keep images.  ``settings`` is what a reader needs to judge it, in words."""

    name: ClassVar[str]  # as in --peers and results.json
    title: ClassVar[str]
    threads: ClassVar[bool] = True  # may clone() be called by several at once?
    mounted: ClassVar[bool] = True  # have images a path?

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

    def sync(self, names: Sequence[str]) -> None:
        """What was done to these images is durable when it returns."""
        for name in names:
            fsync(self.path(name))
        fsync(self.root)

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.path(name).unlink()

    @abstractmethod
    def used_bytes(self) -> int:
        """What all images take on disk, metadata included, as the host sees it."""


class TreePeer(Peer):
    """A peer that copies a whole datastore, a directory of files, in one operation."""

    @abstractmethod
    def make_tree(self, name: str, files: Iterable[File]) -> None:
        """A new datastore with these files, durable."""

    @abstractmethod
    def clone_tree(self, source: str, target: str) -> None: ...

    @abstractmethod
    def sync_tree(self, name: str) -> None:
        """What was done to it is durable when it returns."""


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
