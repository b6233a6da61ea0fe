"""Extended attributes: kept ones, computed ones, and what is refused."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
from command import Ramet
from mounted import Mount

BLOCK = 4096
ACL = b"\2\0\0\0" + b"".join(
    tag + b"\0" + perms + b"\0\xff\xff\xff\xff"
    for tag, perms in ((b"\1", b"\6"), (b"\4", b"\4"), (b"\x20", b"\4"))
)


def ramet_xattr(path: Path, what: str) -> str:
    return os.getxattr(path, f"user.ramet.{what}").decode()


def refused(call: object, *arguments: object, **options: object) -> int:
    with pytest.raises(OSError) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    assert caught.value.errno is not None
    return caught.value.errno


def test_flags_say_whether_it_must_be_there(shared: Mount) -> None:
    path = shared.lab / "flags"
    path.touch()
    assert refused(os.setxattr, path, "user.a", b"1", os.XATTR_REPLACE) == errno.ENODATA
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    assert refused(os.setxattr, path, "user.a", b"2", os.XATTR_CREATE) == errno.EEXIST
    both = os.XATTR_CREATE | os.XATTR_REPLACE
    assert refused(os.setxattr, path, "user.a", b"2", both) == errno.EEXIST
    assert refused(os.setxattr, path, "user.b", b"2", both) == errno.ENODATA
    os.setxattr(path, "user.a", b"3", os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"4")  # and the flags of one request are not the next one's
    assert os.getxattr(path, "user.a") == b"4"


def test_namespaces_and_limits(shared: Mount) -> None:
    path = shared.lab / "limits"
    path.touch()
    for name in ("user.x", "trusted.x", "security.x", "user." + "n" * 250):
        os.setxattr(path, name, b"v" * 65536)
        assert os.getxattr(path, name) == b"v" * 65536
        os.removexattr(path, name)
    assert os.listxattr(path) == []
    assert refused(os.setxattr, path, "user.x", b"v" * 65537) == errno.E2BIG
    assert refused(os.setxattr, path, "user." + "n" * 251, b"") == errno.ERANGE
    assert refused(os.setxattr, path, "user.", b"") == errno.EINVAL
    for name in ("system.x", "nowhere"):
        assert refused(os.setxattr, path, name, b"") == errno.EOPNOTSUPP
        assert refused(os.getxattr, path, name) == errno.EOPNOTSUPP


def test_acls_are_refused_in_both_directions(shared: Mount) -> None:
    path = shared.lab / "acl"
    path.touch()
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        assert refused(os.setxattr, path.parent, name, ACL) == errno.EOPNOTSUPP
        assert refused(os.getxattr, path.parent, name) == errno.EOPNOTSUPP
        assert refused(os.removexattr, path.parent, name) == errno.EOPNOTSUPP


def test_computed_attributes_tell_sizes_lineage_and_map(shared: Mount) -> None:
    golden, clone = shared.lab / "golden", shared.root / "other" / "clone"
    with golden.open("wb") as file:
        file.write(os.urandom(8 * BLOCK))
        file.truncate(20 * BLOCK)
        os.pwrite(file.fileno(), b"x" * BLOCK, 19 * BLOCK)
    assert ramet_xattr(golden, "logical_bytes") == str(20 * BLOCK)
    assert ramet_xattr(golden, "referenced_bytes") == str(9 * BLOCK)
    ramet = Ramet(shared.store)
    ramet.run("clone", "lab:/golden", "other:/clone")
    assert ramet_xattr(clone, "cloned_from") == "lab:/golden"
    subprocess.run(["cp", golden, shared.lab / "copy"], check=True)
    assert ramet_xattr(shared.lab / "copy", "cloned_from") == "lab:/golden"
    (shared.lab / "copy").unlink()
    golden.rename(shared.lab / "renamed")
    assert ramet_xattr(clone, "cloned_from") == "lab:/renamed"
    (shared.lab / "renamed").unlink()
    assert refused(os.getxattr, shared.root, "user.ramet.cloned_from") == errno.ENODATA
    volume, _, number = ramet_xattr(clone, "cloned_from").partition(":")
    assert volume.isdigit()
    assert number.isdigit()
    lines = [line.split() for line in ramet_xattr(clone, "extents").splitlines()]
    assert [(int(at), int(length)) for at, length, *_ in lines] == [
        (0, 8 * BLOCK), (19 * BLOCK, BLOCK),
    ]  # fmt: skip
    ramet.run("df", "--exact")
    assert ramet_xattr(clone, "unique_bytes") == str(9 * BLOCK)
    assert int(ramet_xattr(clone, "unique_as_of_ns")) > clone.stat().st_ctime_ns


def test_a_map_of_many_pieces_is_told_in_part(shared: Mount) -> None:
    path = shared.lab / "pieces"
    with path.open("wb") as file:
        for n in range(300):
            os.pwrite(file.fileno(), b"%05d" % n + bytes(BLOCK), 2 * n * BLOCK)
    *told, more = ramet_xattr(path, "extents").splitlines()
    assert len(told) == 256
    assert more.startswith("more from ")


def test_copies_neither_fail_nor_take_computed_attributes_along(
    shared: Mount, tmp_path: Path
) -> None:
    path, copy = shared.lab / "a", shared.lab / "b"
    path.write_bytes(b"a" * BLOCK)
    os.setxattr(path, "user.mine", b"1")
    for words in (("cp", "-a"), ("cp", "--preserve=all")):
        subprocess.run([*words, path, copy], check=True)
        subprocess.run([*words, path, tmp_path / "out"], check=True)
        assert os.listxattr(copy) == os.listxattr(path) == ["user.mine"]
    assert refused(os.setxattr, path, "user.ramet.unique_bytes", b"") == errno.EPERM
    assert refused(os.removexattr, path, "user.ramet.logical_bytes") == errno.EPERM
    assert refused(os.getxattr, path, "user.ramet.nothing") == errno.ENODATA
    assert refused(os.setxattr, shared.root, "user.x", b"") == errno.EPERM
