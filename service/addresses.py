"""Addresses: ``VOL:/path`` and ``VOL@SNAP:/path``, or a path under the mount for the same thing."""

from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from engine import Store, Volume, errors
from service.jobs import Jobs
from service.share_records import Table

if TYPE_CHECKING:
    from service.gateway import Gateway
    from service.presenter import Presenter

SNAPSHOTS = ".snapshots"


class View(NamedTuple):
    """The mount of one volume or snapshot."""

    root: Path
    volume: Volume


@dataclass(frozen=True, slots=True)
class Context:
    """What a command works on: the store, and where it is mounted as a whole (None: nowhere).

    ``view`` is the mount of a single volume, in place of that one: paths on it are understood, but
    what needs a path for any file (hypervisors, shares) needs the whole.
    ``running`` has what goes on at the moment, for ``status``; ``jobs`` is the store's table;
    ``presenter`` is the daemon's, None where there is no mount to present; ``gateway`` too, None
    where there is no daemon.
    """

    store: Store
    mountpoint: Path | None = None
    view: View | None = None
    running: dict[str, object] = field(default_factory=dict)
    presenter: "Presenter | None" = None
    gateway: "Gateway | None" = None
    jobs: Jobs = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "jobs", Jobs(self.store))
        Table(self.store).mark_presented()  # from now on the engine keeps the names of LUNs

    @property
    def own_mount(self) -> Path | None:
        """Where the daemon answers for files, whatever it shows there."""
        return self.mountpoint if self.view is None else self.view.root

    def mounted_path(self, volume: Volume, path: str) -> Path:
        """The path of a file on the mount; InvalidArgument when the store is not mounted."""
        if self.view is not None:
            raise errors.InvalidArgument(
                f"only {self.view.volume} is mounted, at {self.view.root}; unmount it, and mount "
                "the whole store"
            )
        if self.mountpoint is None:
            raise errors.InvalidArgument("the store is not mounted; run `ramet mount DIR` first")
        return mounted(self.mountpoint, volume, path)


def mounted(mountpoint: Path, volume: Volume, path: str) -> Path:
    """Where a mount has a file of a volume or snapshot."""
    name, at, snapshot = str(volume).partition("@")
    root = mountpoint / name / SNAPSHOTS / snapshot if at else mountpoint / name
    return root / path.lstrip("/")


class Address(NamedTuple):
    """A volume or snapshot, and a path in it."""

    volume: Volume
    path: str

    def __str__(self) -> str:
        return f"{self.volume}:{self.path}"


def parse(context: Context, text: str) -> Address:
    """NotFound when the volume or snapshot is not there, InvalidArgument for another form."""
    if text.startswith("/"):
        text = from_view(context.view, text) or from_mount(context.mountpoint, text)
    head, colon, path = text.partition(":")
    if not colon or not path.startswith("/"):
        raise errors.InvalidArgument(f"{text!r} is no address; write VOL:/path or VOL@SNAP:/path")
    return Address(parse_volume(context, head), path)


def parse_volume(context: Context, text: str) -> Volume:
    """VOL or VOL@SNAP."""
    return volume_named(context.store, text)


def volume_named(store: Store, text: str) -> Volume:
    """VOL or VOL@SNAP."""
    name, at, snapshot = text.partition("@")
    volume = store.volume(name)
    return store.snapshot(volume, snapshot) if at else volume


def volume_of_all(context: Context, text: str) -> Volume:
    """``VOL:`` or ``VOL:/``: all that is in a volume."""
    name, _, path = text.partition(":")
    if path not in ("", "/"):
        raise errors.InvalidArgument(f"--all is for a whole volume; write {name}:")
    return context.store.volume(name)


def from_view(view: View | None, text: str) -> str | None:
    """The address of a path on the mount of one volume; None for another path."""
    if view is None or not PurePath(text).is_relative_to(view.root):
        return None
    parts = PurePath(text).relative_to(view.root).parts
    if len(parts) > 1 and parts[0] == SNAPSHOTS and not view.volume.is_snapshot:
        return f"{view.volume}@{parts[1]}:/{'/'.join(parts[2:])}"
    return f"{view.volume}:/{'/'.join(parts)}"


def from_mount(root: PurePath | None, text: str) -> str:
    """The address of a path on a mount at ``root``; InvalidArgument for another path."""
    if root is None or not PurePath(text).is_relative_to(root):
        where = f"not under the mount {root}" if root else "and the store is not mounted"
        raise errors.InvalidArgument(f"{text} is a path {where}; write VOL:/path")
    parts = PurePath(text).relative_to(root).parts
    if not parts:
        raise errors.InvalidArgument(f"{text} is the mount itself; name a volume's directory in it")
    if len(parts) > 2 and parts[1] == SNAPSHOTS:
        return f"{parts[0]}@{parts[2]}:/{'/'.join(parts[3:])}"
    return f"{parts[0]}:/{'/'.join(parts[1:])}"
