"""``init``: a directory becomes a store in one step, the rename of ``meta.new`` to ``meta``.

Until then it is none, and what an attempt leaves behind - by a crash, or where even removing it
failed - is known by its names and taken away by the next attempt.  A slab file is never removed:
then somebody has lost ``meta``, not been interrupted.
"""

import contextlib
import errno
import os
import shutil
from pathlib import Path

import lmdb

from engine import errors
from engine.meta import STATE_KEY, SUPERBLOCK_KEY, Meta, disk_error
from engine.reserve import BALLAST, Reserve
from engine.superblock import State, Superblock

DIRECTORIES = ("slabs", "index", "run", "meta.new")
FILES = ("lock", BALLAST)


def create_store(root: Path, superblock: Superblock) -> None:
    """Make a store in an empty or new directory.  AlreadyExists, NotEmpty, NoSpace, StoreFailed."""
    made = [each for each in (root, *root.parents) if not each.exists()]
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (root / "meta").exists():
            raise errors.AlreadyExists(f"{root} is a store already; choose another directory")
        _remove_leftovers(root)
        if any(root.iterdir()):
            raise errors.NotEmpty(f"{root} is not empty; choose an empty directory")
        try:
            _fill(root, superblock)
            _sync(root.parent, *(each.parent for each in made))
        except BaseException:
            shutil.rmtree(root / "meta", ignore_errors=True)
            _remove_leftovers(root)
            with contextlib.suppress(OSError):
                for each in made:
                    each.rmdir()
            raise
    except (OSError, lmdb.Error) as error:
        if isinstance(error, OSError) and error.errno not in errors.DISK_FULL | {errno.EIO}:
            raise  # not the disk: a file in the way, no permission
        raise disk_error(error, "run init again") from error


def _fill(root: Path, superblock: Superblock) -> None:
    for name in DIRECTORIES:
        (root / name).mkdir(mode=0o700)
    (root / "lock").touch(mode=0o600)
    meta = Meta(root / "meta.new", create=True)
    try:
        meta.write(
            (), (), [("super", SUPERBLOCK_KEY, superblock.pack()),
                     ("super", STATE_KEY, State().pack())], (),
        )  # fmt: skip
        reserve = Reserve(root, meta, directory="meta.new")
        try:
            if not reserve.whole:
                raise errors.NoSpace(f"a store needs {reserve.floor * meta.page_bytes >> 20} MiB")
        finally:
            reserve.close()
    finally:
        meta.close()
    _sync(root / "meta.new", root)  # where there is a meta/, there is all the rest
    os.rename(root / "meta.new", root / "meta")
    _sync(root)


def _remove_leftovers(root: Path) -> None:
    """What an init made that did not come to its end."""
    if any((root / "slabs").glob("*")):
        return
    for name in DIRECTORIES:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in FILES:
        (root / name).unlink(missing_ok=True)


def _sync(*directories: Path) -> None:
    """Make the names in them durable."""
    for directory in directories:
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
