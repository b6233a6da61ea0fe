"""File handles: what a client keeps to name a file, for as long as it likes.

A handle says which export it was given for, which volume, inode and generation it means, and has a
keyed digest of all that (BLAKE2s, 16 bytes, the key in the store): made-up, damaged and foreign
handles are refused without a look at the store. It holds across restarts of the daemon; inode
numbers and generations are never used again, so an old handle never reaches a new file. 48 bytes:
NFSv3 takes 64 (RFC 1813, 2.4), NFSv4 128.
"""

import hashlib
import hmac
import struct
from enum import IntEnum
from typing import NamedTuple

from engine import errors

_HANDLE = struct.Struct(">BBHIQQQ")  # version, kind, 0, export, volume, inode, generation
_VERSION = 1
_DIGEST_BYTES = 16
HANDLE_BYTES = _HANDLE.size + _DIGEST_BYTES
KEY_BYTES = 32
_KNOWN_MAX = 65_536


class Kind(IntEnum):
    """What a handle names: an inode; the ``.snapshots`` of a volume; NFSv4's root of exports."""

    INODE = 0
    SNAPSHOTS = 1
    PSEUDO_ROOT = 2


class Handle(NamedTuple):
    """The meaning of a handle."""

    kind: Kind
    export: int
    volume: int
    ino: int
    generation: int


class BadHandle(errors.RametError):
    """No handle of ours: forged, damaged, or of another store."""


class Handles:
    """Makes handles and reads them, with a key of KEY_BYTES."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self._key = key
        self._known: dict[bytes, Handle] = {}  # checked before; emptied when full

    def _digest(self, body: bytes) -> bytes:
        return hashlib.blake2s(body, digest_size=_DIGEST_BYTES, key=self._key).digest()

    def pack(self, handle: Handle) -> bytes:
        kind, export, volume, ino, generation = handle
        body = _HANDLE.pack(_VERSION, kind, 0, export, volume, ino, generation)
        return body + self._digest(body)

    def unpack(self, raw: bytes) -> Handle:
        """BadHandle for what ``pack`` did not make with this key."""
        known = self._known.get(raw)
        if known is not None:
            return known
        body = raw[: _HANDLE.size]
        if len(raw) != HANDLE_BYTES or not hmac.compare_digest(
            raw[_HANDLE.size :], self._digest(body)
        ):
            raise BadHandle("no handle of this store")
        version, kind, _, export, volume, ino, generation = _HANDLE.unpack(body)
        if version != _VERSION:
            raise BadHandle(f"a handle of version {version}")
        handle = Handle(Kind(kind), export, volume, ino, generation)
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[raw] = handle
        return handle
