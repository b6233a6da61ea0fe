"""Addresses: ``VOL:/path`` and ``VOL@SNAP:/path``."""

from typing import NamedTuple

from engine import Store, Volume, errors


class Address(NamedTuple):
    """A volume or snapshot, and a path in it."""

    volume: Volume
    path: str


def parse(store: Store, text: str) -> Address:
    """NotFound when the volume or snapshot is not there, InvalidArgument for another form."""
    head, colon, path = text.partition(":")
    if not colon or not path.startswith("/"):
        raise errors.InvalidArgument(f"{text!r} is no address; write VOL:/path or VOL@SNAP:/path")
    name, at, snapshot = head.partition("@")
    volume = store.volume(name)
    return Address(store.snapshot(volume, snapshot) if at else volume, path)
