"""CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME, LINK."""

import pytest
from exported import WRITE_HOST, Exported
from nfs3_client import (
    ACCES,
    BADTYPE,
    BLK,
    CHR,
    DIR,
    DQUOT,
    EXIST,
    FIFO,
    FILE_SYNC,
    INVAL,
    ISDIR,
    LNK,
    NAMETOOLONG,
    NFS,
    NOENT,
    NOTDIR,
    NOTEMPTY,
    PERM,
    REG,
    SOCK,
    STALE,
    XDEV,
    Nfs3Client,
    Users,
    failed,
)
from rpc_client import RpcError

from nfsgw.access import NOBODY
from nfsgw.xdr import Packer

BAD_NAMES = ((b"", ACCES), (b"a/b", INVAL), (b"a\0b", INVAL), (b"n" * 256, NAMETOOLONG))


def test_unchecked_takes_the_file_that_is_there(root: Nfs3Client, top: bytes) -> None:
    made = root.create(top, b"f", mode=0o640)
    root.write(made.handle, 0, b"0123456789")
    again = root.create(top, b"f", mode=0o777, size=4)
    assert again.handle == made.handle
    assert (again.attributes.mode, again.attributes.size) == (0o640, 4)
    assert root.create(top, b"f", mode=0o777).attributes.size == 4
    root.mkdir(top, b"d")
    root.symlink(top, b"l", b"f")
    for name in (b"d", b"l"):
        with failed(EXIST):
            root.create(top, name)


def test_guarded_refuses_what_is_there(root: Nfs3Client, top: bytes) -> None:
    root.create(top, b"f", guarded=True, mode=0o600)
    with failed(EXIST) as caught:
        root.create(top, b"f", guarded=True, size=0)
    assert caught.value.tells[0].after == root.getattr(top)


@pytest.mark.parametrize("verifier", [0, 1, 0xABCDEF, (1 << 64) - 1])
def test_an_exclusive_create_is_repeated_by_its_verifier_only(
    root: Nfs3Client, top: bytes, verifier: int
) -> None:
    made = root.create(top, b"f", exclusive=verifier)
    root.setattr(made.handle, mode=0o640, atime="now", mtime="now", size=7)
    again = root.create(top, b"f", exclusive=verifier)
    assert (again.handle, again.attributes.size) == (made.handle, 7)
    with failed(EXIST):
        root.create(top, b"f", exclusive=verifier ^ 2)
    root.create(top, b"plain")
    with failed(EXIST):
        root.create(top, b"plain", exclusive=verifier)
    with failed(EXIST):
        root.create(top, b"f", guarded=True)


def test_what_is_made_has_its_attributes_at_once(root: Nfs3Client, user: Users, top: bytes) -> None:
    made = root.create(top, b"f", mode=0o4640, uid=5, gid=6, size=9, mtime=(77, 88))
    found = root.lookup(top, b"f")[1]
    assert found == made.attributes
    assert found[:6] == (REG, 0o4640, 1, 5, 6, 9)
    assert found.mtime == (77, 88)
    made = root.mkdir(top, b"d", mode=0o751, uid=5, gid=6)
    assert made.attributes[:5] == (DIR, 0o751, 2, 5, 6)
    assert made.wcc.after.nlink == 3 == root.getattr(top).nlink
    alice = user(1000, 1000, (20,))
    made = alice.create(top, b"g", mode=0o600, uid=0, gid=0)
    assert made.attributes[3:5] == (1000, 1000)
    assert alice.mkdir(top, b"e", gid=20).attributes[3:5] == (1000, 20)


def test_a_refused_create_leaves_nothing(root: Nfs3Client, user: Users, top: bytes) -> None:
    for new in ({"uid": (1 << 32) - 1}, {"mtime": (0, 1 << 31)}, {"size": 1 << 60}):
        for make in (root.create, root.mkdir):
            if make == root.mkdir and "size" in new:
                continue
            with pytest.raises(Exception, match="nfsstat3"):
                make(top, b"f", **new)
    assert root.names(top) == []


def test_the_group_of_a_set_gid_directory_is_inherited(
    root: Nfs3Client, user: Users, top: bytes
) -> None:
    directory = root.mkdir(top, b"d", gid=20).handle
    root.setattr(directory, mode=0o2777)
    alice = user(1000, 1000)
    assert alice.create(directory, b"f", mode=0o2770).attributes[1:5] == (0o770, 1, 1000, 20)
    assert alice.mkdir(directory, b"e", mode=0o700).attributes[1:5] == (0o2700, 2, 1000, 20)
    member = user(1001, 5, (20,))
    assert member.create(directory, b"g", mode=0o2770).attributes.mode == 0o2770


def test_squashed_root_is_nobody(user: Users, top: bytes) -> None:
    squashed = user(0, 0, host=WRITE_HOST)
    assert squashed.create(top, b"f").attributes[3:5] == (NOBODY, NOBODY)
    assert user(None, host=WRITE_HOST).mkdir(top, b"d").attributes[3:5] == (NOBODY, NOBODY)
    with failed(PERM):
        squashed.mknod(top, b"tty", CHR, (4, 64))


def test_bad_names_are_refused_by_every_call(root: Nfs3Client, top: bytes) -> None:
    root.create(top, b"f")
    root.mkdir(top, b"d")
    handle = root.lookup(top, b"f")[0]
    before = root.getattr(top)
    made = (
        lambda n: root.create(top, n), lambda n: root.mkdir(top, n),
        lambda n: root.create(top, n, exclusive=3), lambda n: root.create(top, n, guarded=True),
        lambda n: root.symlink(top, n, b"x"), lambda n: root.mknod(top, n, FIFO),
        lambda n: root.link(handle, top, n),
    )  # fmt: skip
    gone = (
        lambda n: root.remove(top, n), lambda n: root.rmdir(top, n),
        lambda n: root.rename(top, n, top, b"new"), lambda n: root.rename(top, b"f", top, n),
    )  # fmt: skip
    for calls, dots in ((made, EXIST), (gone, INVAL)):
        for call in calls:
            for name, status in (*BAD_NAMES, (b".", dots), (b"..", dots)):
                with failed(status):
                    call(name)
    assert root.getattr(top) == before
    longest = b"\xff" * 255
    root.create(top, longest)
    assert longest in root.names(top)


def test_symlinks_hold_what_a_path_may_be(root: Nfs3Client, top: bytes) -> None:
    assert root.symlink(top, b"l", b"t" * 4095).attributes.type == LNK
    for target, status in ((b"", INVAL), (b"a\0", INVAL), (b"t" * 4096, NAMETOOLONG)):
        with failed(status):
            root.symlink(top, b"m", target)
    assert root.names(top) == [b"l"]


def test_special_files(root: Nfs3Client, top: bytes) -> None:
    for name, kind, number in (
        (b"c", CHR, (4095, (1 << 20) - 1)), (b"b", BLK, (8, 1)), (b"s", SOCK, (0, 0)),
        (b"p", FIFO, (0, 0)),
    ):  # fmt: skip
        made = root.mknod(top, name, kind, number, mode=0o640)
        assert (made.attributes.type, made.attributes.rdev) == (kind, number)
    for kind in (REG, DIR, LNK, 0, 8, 1 << 31):
        with failed(BADTYPE):
            root.mknod(top, b"x", kind)
    with failed(INVAL):
        root.mknod(top, b"x", CHR, (4096, 0))
    assert root.names(top) == [b"c", b"b", b"s", b"p"]


def test_remove_takes_names_and_the_file_with_its_last(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    root.link(handle, top, b"g")
    wcc = root.remove(top, b"f")
    assert wcc.before.mtime < wcc.after.mtime
    assert root.getattr(handle).nlink == 1
    root.remove(top, b"g")
    for call in (lambda: root.getattr(handle), lambda: root.read(handle, 0, 1)):
        with failed(STALE):
            call()
    with failed(NOENT):
        root.remove(top, b"g")
    root.mkdir(top, b"d")
    with failed(ISDIR):
        root.remove(top, b"d")


def test_only_an_empty_directory_is_removed(root: Nfs3Client, top: bytes) -> None:
    directory = root.mkdir(top, b"d").handle
    root.create(directory, b"f")
    with failed(NOTEMPTY):
        root.rmdir(top, b"d")
    root.remove(directory, b"f")
    assert root.rmdir(top, b"d").after.nlink == 2
    with failed(STALE):
        root.create(directory, b"g")
    root.create(top, b"f")
    with failed(NOTDIR):
        root.rmdir(top, b"f")


def test_rename_moves_and_replaces(root: Nfs3Client, top: bytes) -> None:
    one, two = root.mkdir(top, b"one").handle, root.mkdir(top, b"two").handle
    handle = root.create(one, b"f").handle
    old = root.create(two, b"g").handle
    source, target = root.rename(one, b"f", two, b"g")
    assert (source.after, target.after) == (root.getattr(one), root.getattr(two))
    assert source.before.mtime < source.after.mtime
    assert root.lookup(two, b"g")[0] == handle
    assert root.names(one) == []
    with failed(STALE):
        root.getattr(old)
    root.rename(two, b"g", two, b"g")
    root.rename(two, b"g", two, b"h")
    assert root.names(two) == [b"h"]


def test_rename_keeps_kinds_apart_and_trees_whole(root: Nfs3Client, top: bytes) -> None:
    directory = root.mkdir(top, b"d").handle
    inner = root.mkdir(directory, b"inner").handle
    root.create(top, b"f")
    with failed(ISDIR):
        root.rename(top, b"f", top, b"d")
    with failed(NOTDIR):
        root.rename(top, b"d", top, b"f")
    with failed(INVAL):
        root.rename(top, b"d", inner, b"x")
    root.mkdir(top, b"e")
    with failed(NOTEMPTY):
        root.rename(top, b"e", top, b"d")
    root.rename(directory, b"inner", top, b"e")
    assert (root.getattr(directory).nlink, root.getattr(top).nlink) == (2, 4)
    with failed(NOENT):
        root.rename(top, b"none", top, b"x")


def test_a_directory_that_one_may_not_write_is_not_moved(
    user: Users, root: Nfs3Client, top: bytes
) -> None:
    root.mkdir(top, b"mine", mode=0o777)
    moved = root.mkdir(top, b"d", mode=0o755)
    alice = user(1000, 1000)
    with failed(ACCES):
        alice.rename(top, b"d", root.lookup(top, b"mine")[0], b"d")
    root.setattr(moved.handle, uid=1000)
    alice.rename(top, b"d", root.lookup(top, b"mine")[0], b"d")


def test_link_adds_a_name(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    found, wcc = root.link(handle, top, b"g")
    assert found == root.getattr(handle)
    assert (found.nlink, wcc.after) == (2, root.getattr(top))
    assert root.lookup(top, b"g")[0] == handle
    with failed(EXIST) as caught:
        root.link(handle, top, b"g")
    assert caught.value.tells[0] == root.getattr(handle)
    assert caught.value.tells[1].after == root.getattr(top)
    with failed(PERM):
        root.link(top, top, b"h")
    with failed(NOTDIR):
        root.link(handle, handle, b"h")


def test_names_stay_in_their_export(root: Nfs3Client, top: bytes) -> None:
    other = root.mount(b"/other")
    handle = root.create(top, b"f").handle
    with failed(XDEV):
        root.rename(top, b"f", other, b"f")
    with failed(XDEV):
        root.link(handle, other, b"f")


def test_sticky_directories_keep_their_owners_files(
    root: Nfs3Client, user: Users, top: bytes
) -> None:
    root.setattr(top, mode=0o1777)
    alice, bob = user(1000, 1000), user(1001, 1001)
    alice.create(top, b"a", mode=0o666)
    bob.create(top, b"b")
    for change in (
        lambda: bob.remove(top, b"a"), lambda: bob.rename(top, b"a", top, b"c"),
        lambda: bob.rename(top, b"b", top, b"a"),
    ):  # fmt: skip
        with failed(ACCES):
            change()
    alice.rename(top, b"a", top, b"c")
    bob.remove(top, b"b")
    root.remove(top, b"c")


def test_directories_need_write_and_search_permission(
    root: Nfs3Client, user: Users, top: bytes
) -> None:
    other = user(1000, 1000)
    for mode in (0o755, 0o776):
        directory = root.mkdir(top, b"d%o" % mode, mode=mode).handle
        root.create(directory, b"f", mode=0o666)
        for change in (
            lambda d: other.create(d, b"g"), lambda d: other.mkdir(d, b"g"),
            lambda d: other.symlink(d, b"g", b"x"), lambda d: other.mknod(d, b"g", FIFO),
            lambda d: other.remove(d, b"f"), lambda d: other.rename(d, b"f", d, b"g"),
            lambda d: other.link(root.lookup(d, b"f")[0], d, b"g"),
        ):  # fmt: skip
            with failed(ACCES):
                change(directory)
        assert root.names(directory) == [b"f"]


def test_a_file_over_its_volumes_quota_is_refused_and_stays_as_it_was(
    world: Exported, root: Nfs3Client
) -> None:
    volume = world.do(lambda: world.store.create_volume("tight", quota_bytes=1 << 16))
    every = [world.lab, world.store.volume("other")]
    world.do(lambda: world.export(*every, volume))
    top = root.mount(b"/tight")
    handle = root.create(top, b"f").handle
    root.write(handle, 0, b"x" * 65_536, FILE_SYNC)
    with failed(DQUOT):
        root.write(handle, 65_536, b"y" * 4096)
    assert root.getattr(handle).size == 65_536
    assert root.read(handle, 65_530, 10) == (b"x" * 6, True)
    world.do(lambda: world.export(*every))


def test_a_createmode_that_is_none_is_garbage(root: Nfs3Client, top: bytes) -> None:
    out = Packer()
    out.opaque(top)
    out.opaque(b"f")
    out.u32(3)
    with pytest.raises(RpcError, match="accepted 4"):
        root.rpc.call(NFS, 3, 8, out)
