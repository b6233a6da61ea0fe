"""`mount -t ramet`: what mount(8) calls for a store, and where it looks for that.

A store has one daemon, and that one mount.  The first mount of a store starts a daemon, and the
last umount ends it: the kernel tells the daemon, which commits and closes the store after umount(8)
has returned, so a mount right after that waits for it.  When the store is mounted as a whole, a
further mount - of the whole, or of a volume - is a bind of it; a bind keeps the file system, and so
the daemon, until it is gone as well.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from engine import errors
from service import background
from service.mount_options import MountOptions
from service.mount_table import Mounted, mount_at, mounts
from service.rpc import Client

HELPER = "mount.ramet"
TYPES = ("ramet", "fuse.ramet")
KIND = "fuse.ramet"
CHANGE_S = 30.0  # a daemon takes no longer to begin or to end
Row = dict[str, Any]


def install(directory: str = "/sbin") -> list[str]:
    """Link the helper where mount(8) looks; those that are links already are made anew."""
    source, made = Path(sys.executable).parent / HELPER, []
    if not source.exists():
        raise errors.NotFound(f"{source} is not there; install the package again")
    for each in TYPES:
        link = Path(directory) / f"mount.{each}"
        if link.exists() and not link.is_symlink():
            raise errors.AlreadyExists(f"{link} is there and no link; remove it first")
        link.unlink(missing_ok=True)
        link.symlink_to(source)
        made.append(str(link))
    return made


def parse_source(text: str) -> tuple[str, str | None]:
    """STORE or STORE:VOL, as findmnt shows it or as one writes it."""
    path = text.removeprefix("ramet:")
    if ":" in path and not (Path(path) / "meta").is_dir():
        path, _, volume = path.rpartition(":")
        if not volume:
            raise errors.InvalidArgument(f"{text}: a volume's name belongs after the colon")
        return os.path.realpath(path), volume
    return os.path.realpath(path), None


def mount(store: str, volume: str | None, mountpoint: str, options: MountOptions) -> None:
    """Returns when the mount is usable, or was there already.

    NoSuchStore, NotFound, NotADirectory, Busy (something else is mounted there), NotEmpty,
    StoreInUse (its daemon has no mount, or shows another volume only).
    """
    try:
        background.drop_dead_mount(mountpoint)
    except FileNotFoundError:
        raise errors.NotADirectory(f"{mountpoint} is no directory; make it first") from None
    at = mount_at(Path(mountpoint))
    deadline = time.monotonic() + CHANGE_S
    while True:
        served = _served(store)
        if served is not None and at is not None:
            return _check_same(at, served, volume)
        if served is not None:
            return _bind(served, volume, mountpoint, options)
        try:
            return background.start(store, mountpoint, options)
        except errors.StoreInUse:  # its daemon is about to begin, or to end
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _served(store: str) -> Row | None:
    """What the daemon says of itself; None when there is none, or it is about to end."""
    client = Client.connect(Path(store))
    if client is None:
        return None
    try:
        served: Row = client.call("status")
    except (errors.RametError, OSError):
        return None
    mounted = {parse_source(each.source)[0] for each in mounts() if each.kind == KIND}
    return served if served["mountpoint"] is None or store in mounted else None


def _check_same(at: Mounted, served: Row, volume: str | None) -> None:
    """A mount that is there already is no error, one of something else is."""
    whole = None if served["mountpoint"] is None else mount_at(Path(str(served["mountpoint"])))
    root = "/" if served["volume"] == volume else f"/{_inside(volume)}"
    if whole is None or (at.device, at.root) != (whole.device, root.rstrip("/") or "/"):
        raise errors.Busy(f"{at.source} is mounted at {at.path}; unmount it first")


def _inside(volume: str | None) -> str:
    name, at, snapshot = (volume or "").partition("@")
    return f"{name}/.snapshots/{snapshot}" if at else name


def _bind(served: Row, volume: str | None, mountpoint: str, options: MountOptions) -> None:
    """Show the whole, or a volume of it, at one more place."""
    if served["mountpoint"] is None:
        raise errors.StoreInUse(
            f"process {served['pid']} serves the store without a mount; stop it with `ramet umount`"
        )
    if mount_at(Path(str(served["mountpoint"]))) is None:
        raise errors.StoreInUse(
            f"the store was unmounted from {served['mountpoint']}, but not from all places; "
            "unmount those (`findmnt -t fuse.ramet`), then mount it again"
        )
    if served["volume"] not in (None, volume):
        raise errors.StoreInUse(
            f"only volume {served['volume']} of the store is mounted, at {served['mountpoint']}; "
            "mount the whole store first, then volumes of it"
        )
    if not options.nonempty and any(Path(mountpoint).iterdir()):
        raise errors.NotEmpty(f"{mountpoint} is not empty; mount at an empty directory")
    inside = "" if served["volume"] == volume else _inside(volume)
    source = os.path.join(str(served["mountpoint"]), inside)
    if not os.path.isdir(source):
        raise errors.NotFound(f"no volume {volume!r}; see `ramet volume ls`")
    flags = ",".join(["bind", "nosuid", "nodev", *sorted(options.flags - {"sync", "dirsync"})])
    _run("mount", "-o", flags, source, mountpoint)


def remount(mountpoint: str, options: MountOptions) -> None:
    """Change what the kernel minds: ro, noexec, noatime, ...; one mount point, or the only one."""
    at = mount_at(Path(mountpoint))
    if at is None or at.kind != KIND:
        raise errors.NotFound(f"no store is mounted at {mountpoint}")
    if options.volume is not None or options.real_blocks or options.poll_us is not None:
        raise errors.Unsupported("only the kernel's options change by remount; unmount it first")
    words = [("rw" if "ro" not in options.flags else "ro"), "nosuid", "nodev"]
    words += sorted(options.flags - {"ro", "sync", "dirsync"})
    _run("mount", "-i", "-o", ",".join(["remount", "bind", *words]), mountpoint)


def _run(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise errors.RametError(done.stderr.strip() or f"{words[0]} failed")
