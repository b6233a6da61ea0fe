"""Inode numbers as the users of mounts and NFS exports see them.

A mount shows all volumes under one device number, an export its snapshots too, so a number has to
name the volume as well: volume id << 40 | inode. The mount's root, where each volume is a
directory, is 1. The .snapshots directory of a volume, which no volume stores, has the top bit and
the volume's id. Numbers do not depend on the mount or its age.
"""

ROOT = 1
_INO_BITS = 40
_INO_MASK = (1 << _INO_BITS) - 1
_SNAPSHOTS = 1 << 63


def join(volume_id: int, ino: int) -> int:
    return volume_id << _INO_BITS | ino


def split(number: int) -> tuple[int, int]:
    """(volume id, inode number)."""
    return number >> _INO_BITS, number & _INO_MASK


def snapshots_of(volume_id: int) -> int:
    return _SNAPSHOTS | volume_id


def is_snapshots(number: int) -> bool:
    return bool(number & _SNAPSHOTS)


def volume_of_snapshots(number: int) -> int:
    return number & ~_SNAPSHOTS
