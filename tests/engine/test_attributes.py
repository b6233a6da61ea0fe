"""Extended attributes: how much of them an inode may have."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import ROOT_INO, Store, Volume, errors
from engine.attributes import XATTRS_BYTES_MAX

LARGE = 60_000


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Volume]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        yield store.create_volume("lab")


def test_all_attributes_of_an_inode_have_a_bound(lab: Volume) -> None:
    """They are listed, and go with it, in one step."""
    ino = lab.create(ROOT_INO, b"f", 0o644, 0, 0).ino
    value, count = os.urandom(LARGE), 0
    with pytest.raises(errors.NoSpace, match="1 MiB"):
        while True:
            lab.set_xattr(ino, b"user.%d" % count, value)
            count += 1
    assert XATTRS_BYTES_MAX - 2 * LARGE < count * LARGE < XATTRS_BYTES_MAX
    assert len(lab.list_xattrs(ino)) == count
    lab.set_xattr(ino, b"user.0", value[::-1])
    lab.set_xattr(ino, b"user.1", b"smaller")
    lab.set_xattr(ino, b"user.instead", value)
    with pytest.raises(errors.NoSpace):
        lab.set_xattr(ino, b"user.1", value)
    assert lab.get_xattr(ino, b"user.1") == b"smaller"
    lab.remove_xattr(ino, b"user.2")
    lab.set_xattr(ino, b"user.1", value)


def test_many_small_ones_are_bounded_by_their_names_too(lab: Volume) -> None:
    ino = lab.create(ROOT_INO, b"f", 0o644, 0, 0).ino
    with pytest.raises(errors.NoSpace):
        for n in range(XATTRS_BYTES_MAX // 200):
            lab.set_xattr(ino, b"user.%0240d" % n, b"")
