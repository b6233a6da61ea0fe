"""A volume's record in the table of volumes: one root, its epoch, and O(1) totals."""

import struct
from dataclasses import dataclass

from engine import errors

_RECORD = struct.Struct("<QQQIqQQQqqQQH")
FLAG_SNAPSHOT = 1
FLAG_HIDDEN = 2  # work in hand, nobody's to see (engine/staging.py); removed when a store is opened
VOLUME_NAME_MAX = 200
_TOTAL_MAX = 1 << 62


@dataclass
class VolumeRecord:
    """``parent_id``: of a snapshot, the volume it is seen in.  ``origin_id``: cloned from."""

    id: int
    name: str
    root: int
    shared_epoch: int
    flags: int
    created_ns: int
    parent_id: int = 0
    origin_id: int = 0
    files: int = 0
    blocks: int = 0
    logical_bytes: int = 0
    quota_bytes: int = 0  # 0: none
    domain: int = 0  # of dedup; 0: the one that volumes share

    @property
    def sound_flags(self) -> bool:
        """A hidden one goes at the next open, so one damaged bit must not be enough for it."""
        hidden = self.flags == FLAG_HIDDEN and self.name == hidden_name(self.id)
        return hidden or self.flags in (0, FLAG_SNAPSHOT)

    def pack(self) -> bytes:
        name = self.name.encode()
        return (
            _RECORD.pack(
                self.id, self.root, self.shared_epoch, self.flags, self.created_ns,
                self.parent_id, self.origin_id, self.files, self.blocks, self.logical_bytes,
                self.quota_bytes, self.domain, len(name),
            )
            + name
        )  # fmt: skip

    @classmethod
    def unpack(cls, raw: bytes) -> "VolumeRecord":
        try:
            fields = _RECORD.unpack_from(raw)
            name = raw[_RECORD.size :].decode()
        except (struct.error, UnicodeDecodeError) as error:
            raise errors.Corrupt("a volume's record is damaged; run `ramet fsck`") from error
        if len(raw) != _RECORD.size + fields[-1]:
            raise errors.Corrupt("a volume's record is cut short; run `ramet fsck`")
        ident, root, shared, flags, created, *rest = fields[:-1]
        record = cls(ident, name, root, shared, flags, created, *rest)
        if max(record.files, abs(record.blocks), abs(record.logical_bytes)) > _TOTAL_MAX:
            raise errors.Corrupt(f"the totals of volume {ident} make no sense; run `ramet fsck`")
        try:
            check_volume_name(name)
        except errors.InvalidArgument as error:
            raise errors.Corrupt(f"volume {ident} has a damaged name; run `ramet fsck`") from error
        return record


def hidden_name(volume_id: int) -> str:
    return f"hidden-{volume_id}"


def check_volume_name(name: str) -> None:
    """Volume and snapshot names stand in addresses, paths and XML: letters, digits, ``._-``."""
    good = all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    if not name or not good or name[0] in ".-" or len(name) > VOLUME_NAME_MAX:
        raise errors.InvalidArgument(
            f"{name!r} is no volume name: use letters, digits, '.', '_' and '-', "
            f"not first '.' or '-', at most {VOLUME_NAME_MAX}"
        )
