"""GETATTR, SETATTR, LOOKUP, ACCESS, READLINK, FSSTAT, FSINFO, PATHCONF."""

import time

import pytest
from exported import READ_HOST, WRITE_HOST, Exported
from nfs3_client import (
    ACCES,
    CHR,
    DIR,
    FBIG,
    FIFO,
    INVAL,
    ISDIR,
    LNK,
    NAMETOOLONG,
    NOENT,
    NOT_SYNC,
    NOTDIR,
    PERM,
    REG,
    ROFS,
    SERVER_TIME,
    Failed3,
    Nfs3Client,
    Users,
    failed,
)

from engine import numbers
from engine.inode import FILE_BYTES_MAX


def test_attributes_are_those_of_the_inode(world: Exported, root: Nfs3Client, top: bytes) -> None:
    made = root.create(top, b"f", mode=0o4751, uid=7, gid=8, size=70_000)
    found = root.getattr(made.handle)
    assert found == made.attributes
    assert (found.type, found.mode, found.nlink) == (REG, 0o4751, 1)
    assert (found.uid, found.gid, found.size, found.used) == (7, 8, 70_000, 0)
    assert found.fsid == world.lab.id
    assert root.getattr(top).type == DIR


def test_numbers_are_those_that_the_mount_shows(
    world: Exported, root: Nfs3Client, top: bytes
) -> None:
    made = root.create(top, b"f")
    directory = numbers.split(root.getattr(top).fileid)[1]
    ino = world.do(lambda: world.lab.lookup(directory, b"f").ino)
    assert made.attributes.fileid == numbers.join(world.lab.id, ino)


def test_used_counts_mapped_blocks(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f", size=1 << 30).handle
    root.write(handle, 8192, b"x" * 4096)
    assert root.getattr(handle).used == 4096


def test_setattr_sets_what_it_is_given_and_only_that(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f", mode=0o600, uid=5, gid=6, size=10).handle
    before = root.getattr(handle)
    wcc = root.setattr(handle, mode=0o640, mtime=(1_000_000_000, 123))
    after = root.getattr(handle)
    assert after.ctime > before.ctime
    assert after == before._replace(mode=0o640, mtime=(1_000_000_000, 123), ctime=after.ctime)
    assert wcc.after == after
    assert wcc.before == (before.size, before.mtime, before.ctime)


def test_an_empty_setattr_changes_nothing(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    before = root.getattr(handle)
    assert root.setattr(handle).after == before == root.getattr(handle)


def test_times_of_the_server_and_of_the_client(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    low = int(time.time())
    root.setattr(handle, atime=SERVER_TIME, mtime=((1 << 32) - 1, 999_999_999))
    found = root.getattr(handle)
    assert low <= found.atime[0] <= time.time()
    assert found.mtime == ((1 << 32) - 1, 999_999_999)
    with failed(INVAL):
        root.setattr(handle, mtime=(1, 1_000_000_000))
    assert root.getattr(handle) == found


def test_times_that_version_3_cannot_say_are_the_nearest(
    world: Exported, root: Nfs3Client, top: bytes
) -> None:
    made = root.create(top, b"f")
    ino = numbers.split(made.attributes.fileid)[1]
    world.do(lambda: world.lab.setattr(ino, atime_ns=-5, mtime_ns=(1 << 32) * 10**9))
    found = root.getattr(made.handle)
    assert (found.atime, found.mtime) == ((0, 0), ((1 << 32) - 1, 999_999_999))


def test_a_guard_lets_only_the_expected_ctime_through(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f", mode=0o600).handle
    old = root.getattr(handle).ctime
    root.setattr(handle, guard=old, mode=0o644)
    with failed(NOT_SYNC) as caught:
        root.setattr(handle, guard=old, mode=0o600)
    assert root.getattr(handle).mode == 0o644
    assert caught.value.tells[0].after == root.getattr(handle)


def test_a_size_past_what_a_file_can_have_is_refused(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f", size=5).handle
    for size in (FILE_BYTES_MAX + 1, 1 << 63, (1 << 64) - 1):
        with failed(FBIG):
            root.setattr(handle, size=size, mode=0o777)
        with failed(FBIG):
            root.create(top, b"large", size=size)
    assert root.getattr(handle)[1:6] == (0o600, 1, 0, 0, 5)
    assert root.names(top) == [b"f"]
    root.setattr(handle, size=FILE_BYTES_MAX)
    assert root.read(handle, FILE_BYTES_MAX - 3, 10) == (bytes(3), True)


def test_truncation_cuts_and_growth_shows_zeroes(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    root.write(handle, 0, b"abcdefgh" * 1000)
    root.setattr(handle, size=5)
    root.setattr(handle, size=12)
    assert root.read(handle, 0, 100) == (b"abcde" + bytes(7), True)
    with failed(ISDIR):
        root.setattr(top, size=0)


def test_owners_and_groups_are_changed_by_root_or_within_ones_groups(
    root: Nfs3Client, user: Users, top: bytes
) -> None:
    alice = user(1000, 1000, (20,))
    handle = alice.create(top, b"f", mode=0o644).handle
    for new in ({"uid": 1001}, {"gid": 30}, {"uid": 0}):
        with failed(PERM):
            alice.setattr(handle, **new)
    alice.setattr(handle, gid=20, uid=1000)
    bob = user(1001, 20)
    for new in ({"mode": 0o777}, {"gid": 20}, {"mtime": (5, 5)}):
        with failed(PERM):
            bob.setattr(handle, **new)
    for new in ({"size": 0}, {"mtime": SERVER_TIME}):
        with failed(ACCES):
            bob.setattr(handle, **new)
    root.setattr(handle, uid=1001)
    assert root.getattr(handle)[3:5] == (1001, 20)
    with failed(INVAL):
        root.setattr(handle, uid=(1 << 32) - 1)


def test_set_id_bits_go_when_somebody_else_changes_the_file(
    root: Nfs3Client, user: Users, top: bytes
) -> None:
    handle = root.create(top, b"f", mode=0o6777).handle
    user(1000, 1000).write(handle, 0, b"x")
    assert root.getattr(handle).mode == 0o777


def test_lookup_finds_names_and_tells_what_is_none(root: Nfs3Client, top: bytes) -> None:
    made = root.create(top, b"f")
    assert root.lookup(top, b"f") == (made.handle, made.attributes)
    assert root.lookup(top, b".")[0] == top
    assert (
        root.lookup(root.lookup(top, b"..")[0], b".")[1].fileid
        == root.getattr(root.mount(b"/lab")).fileid
    )
    for name, status in (
        (b"g", NOENT), (b"", ACCES), (b"a/b", INVAL), (b"a\0", INVAL),
        (b"n" * 256, NAMETOOLONG), (b"n" * 5000, NAMETOOLONG), (b"n" * 255, NOENT),
    ):  # fmt: skip
        with failed(status) as caught:
            root.lookup(top, name)
        assert caught.value.tells == [root.getattr(top)]
    with failed(NOTDIR):
        root.lookup(made.handle, b"x")


def test_the_root_of_an_export_is_its_own_parent(root: Nfs3Client) -> None:
    top = root.mount(b"/lab")
    assert root.lookup(top, b"..")[0] == top
    assert {each.fileid for each in root.readdir(top).entries[:2]} == {root.getattr(top).fileid}


READ, LOOKUP, MODIFY, EXTEND, DELETE, EXECUTE = 1, 2, 4, 8, 16, 32


def test_access_tells_what_the_modes_and_the_export_give(
    root: Nfs3Client, user: Users, top: bytes
) -> None:
    root.setattr(top, mode=0o755)
    handle = root.create(top, b"f", mode=0o640, uid=1000, gid=20).handle
    program = root.create(top, b"p", mode=0o711, uid=1000).handle
    owner, member, other = user(1000, 1000), user(1001, 5, (20,)), user(1002, 1002)
    assert owner.access(handle) == READ | MODIFY | EXTEND
    assert member.access(handle) == READ
    assert other.access(handle) == 0
    assert owner.access(handle, READ | EXECUTE) == READ
    assert root.access(handle) == READ | MODIFY | EXTEND
    assert root.access(program) == READ | MODIFY | EXTEND | EXECUTE
    assert other.access(program) == EXECUTE
    assert other.access(top) == READ | LOOKUP
    assert root.access(top) == READ | LOOKUP | MODIFY | EXTEND | DELETE
    assert user(0, 0, host=WRITE_HOST).access(handle) == 0
    assert user(1000, 1000, host=READ_HOST).access(handle) == READ
    assert user(None).access(handle) == 0


def test_execution_is_a_reason_to_read_the_contents(
    root: Nfs3Client, user: Users, top: bytes
) -> None:
    handle = root.create(top, b"p", mode=0o711).handle
    root.write(handle, 0, b"ELF")
    assert user(1000, 1000).read(handle, 0, 10) == (b"ELF", True)
    root.setattr(handle, mode=0o700)
    with failed(ACCES):
        user(1000, 1000).read(handle, 0, 10)


def test_readlink_gives_the_target_as_it_was_made(root: Nfs3Client, top: bytes) -> None:
    target = b"../" * 1000 + b"\xff weird"
    made = root.symlink(top, b"l", target)
    assert (made.attributes.type, made.attributes.mode) == (LNK, 0o777)
    assert made.attributes.size == len(target)
    assert root.readlink(made.handle) == target
    with failed(INVAL):
        root.readlink(top)


def test_special_files_show_their_kind_and_number(root: Nfs3Client, top: bytes) -> None:
    made = root.mknod(top, b"tty", CHR, (4, 64), mode=0o620)
    assert (made.attributes.type, made.attributes.rdev) == (CHR, (4, 64))
    assert root.mknod(top, b"p", FIFO).attributes.type == FIFO


def test_fsstat_is_what_the_store_has(world: Exported, root: Nfs3Client, top: bytes) -> None:
    total, free, available, files, free_files, _, invariant = root.fsstat(top)
    space = world.do(world.store.space)
    assert abs(free - space.free_bytes) < 1 << 30
    assert (available, invariant, files) == (free, 0, 1 << 40)
    assert free <= total
    assert free_files == files - space.files


def test_fsstat_of_a_volume_with_a_quota_is_what_that_leaves(
    world: Exported, root: Nfs3Client
) -> None:
    volume = world.do(lambda: world.store.create_volume("small", quota_bytes=1 << 20))
    every = [world.lab, world.store.volume("other")]
    world.do(lambda: world.export(*every, volume))
    top = root.mount(b"/small")
    handle = root.create(top, b"f").handle
    root.write(handle, 0, bytes(range(256)) * 512)
    assert root.fsstat(top)[:3] == (1 << 20, (1 << 20) - (1 << 17), (1 << 20) - (1 << 17))
    world.do(lambda: world.export(*every))


def test_fsinfo_and_pathconf_tell_the_limits(root: Nfs3Client, top: bytes) -> None:
    info = root.fsinfo(top)
    assert info[0] == info[3] == 1 << 20
    assert info[7] == FILE_BYTES_MAX
    assert info[8:] == (0, 1, 1 | 2 | 8 | 16)
    assert root.pathconf(top) == (65_000, 255, True, True, False, True)


def test_who_may_only_read_changes_nothing(root: Nfs3Client, user: Users, top: bytes) -> None:
    handle = root.create(top, b"f", mode=0o666).handle
    reader = user(0, 0, host=READ_HOST)
    before = root.getattr(top), root.getattr(handle)
    for change in (
        lambda: reader.setattr(handle, mode=0o600), lambda: reader.write(handle, 0, b"x"),
        lambda: reader.create(top, b"g"), lambda: reader.mkdir(top, b"d"),
        lambda: reader.symlink(top, b"l", b"f"), lambda: reader.mknod(top, b"p", FIFO),
        lambda: reader.remove(top, b"f"), lambda: reader.rename(top, b"f", top, b"g"),
        lambda: reader.link(handle, top, b"g"), lambda: reader.rmdir(top, b"f"),
    ):  # fmt: skip
        with failed(ROFS):
            change()
    assert before == (root.getattr(top), root.getattr(handle))
    assert reader.read(handle, 0, 10) == (b"", True)


def test_what_changes_hands_acts_for_nobody(root: Nfs3Client, top: bytes) -> None:
    """Also when root gives it away, who sets the mode in the same breath."""
    file = root.create(top, b"f").handle
    cases: list[tuple[dict[str, int], int]] = [
        ({"uid": 7}, 0o755), ({"gid": 8}, 0o755), ({"uid": 0, "mode": 0o6711}, 0o711),
        ({"size": 0}, 0o6755), ({"mode": 0o6755}, 0o6755),
    ]  # fmt: skip
    for change, mode in cases:
        root.setattr(file, mode=0o6755)
        root.setattr(file, **change)
        assert root.getattr(file).mode == mode, change
    root.setattr(file, mode=0o2644)
    root.setattr(file, uid=9)
    assert root.getattr(file).mode == 0o2644  # no group acts by it: mandatory locking
    directory = root.mkdir(top, b"d", mode=0o2775).handle
    root.setattr(directory, mode=0o2775)
    root.setattr(directory, uid=7)
    assert root.getattr(directory).mode == 0o2775


def test_no_user_is_no_owner(root: Nfs3Client, top: bytes) -> None:
    file = root.create(top, b"f").handle
    for change in ({"uid": (1 << 32) - 1}, {"gid": (1 << 32) - 1}):
        with pytest.raises(Failed3) as failed:
            root.setattr(file, **change)
        assert failed.value.status == 22
