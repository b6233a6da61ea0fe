"""GETATTR, SETATTR, VERIFY, NVERIFY, ACCESS."""

import ipaddress
import os
import stat
import time
from collections.abc import Iterator

import nfs4_ops as ops
import pytest
from nfs4_direct import Client, Gateway
from nfs4_ops import opaque, u32, u64

from engine import ROOT_INO, Inode
from nfsgw.exports import Right, Rule
from nfsgw.v4.fattr import Attr
from nfsgw.v4.protocol import Op, Status

OF_MINOR_2 = {Attr.CLONE_BLKSIZE, Attr.CHANGE_ATTR_TYPE, Attr.MODE_UMASK, Attr.XATTR_SUPPORT}
WRITE_ONLY = {
    Attr.TIME_ACCESS_SET, Attr.TIME_MODIFY_SET, Attr.MODE_SET_MASKED, Attr.MODE_UMASK,
}  # fmt: skip
DISK = "/lab/disk"


@pytest.fixture
def gate(hall: Gateway) -> Iterator[Gateway]:
    with hall.volumes("lab") as made:
        lab = made.store.volume("lab")
        disk = lab.create(ROOT_INO, b"disk", 0o640, 1000, 100)
        lab.write(disk.ino, 8192, b"contents")
        yield made


def inode(gate: Gateway, path: str = "/disk") -> Inode:
    return gate.store.volume("lab").resolve(path, follow=False)


def set_(client: Client, values: dict[int, bytes], path: str = DISK) -> list[int]:
    return ops.read_bitmap(client.ok(*ops.walk(path), ops.setattr_(values)).last())


def refused(client: Client, values: dict[int, bytes], path: str = DISK) -> Status:
    """The status; a SETATTR that fails says that nothing was set."""
    answer = client.call(*ops.walk(path), ops.setattr_(values))
    assert answer.raw.endswith(u32(Op.SETATTR, answer.status, 0))
    return answer.status


# --- what is told


def test_everything_that_is_supported_can_be_asked_for(client: Client) -> None:
    supported = set(client.attributes(DISK, Attr.SUPPORTED_ATTRS)[Attr.SUPPORTED_ATTRS])
    assert supported == set(Attr)
    for path in ("/", "/lab", DISK):
        found = client.attributes(path, *(supported - WRITE_ONLY))
        assert set(found) == supported - WRITE_ONLY


def test_version_4_1_has_no_attributes_of_4_2(gate: Gateway) -> None:
    client = Client(gate, minor=1)
    found = client.attributes(DISK, *(set(Attr) - WRITE_ONLY))
    assert set(found) == set(Attr) - WRITE_ONLY - OF_MINOR_2
    assert set(found[Attr.SUPPORTED_ATTRS]) == set(Attr) - OF_MINOR_2
    assert set(found[Attr.SUPPATTR_EXCLCREAT]).isdisjoint(OF_MINOR_2)
    assert refused(client, {Attr.MODE_UMASK: u32(0o644, 0)}) == Status.ATTRNOTSUPP


def test_what_is_not_known_is_left_out(client: Client) -> None:
    assert set(client.attributes(DISK, 12, Attr.SIZE, 24, 80, 200)) == {Attr.SIZE}
    assert client.attributes(DISK) == {}


@pytest.mark.parametrize("attribute", sorted(WRITE_ONLY))
def test_what_can_only_be_set_cannot_be_asked_for(client: Client, attribute: int) -> None:
    assert client.fails(*ops.walk(DISK), ops.getattr_([Attr.SIZE, attribute])) == Status.INVAL
    assert client.fails(*ops.walk("/lab"), ops.readdir([attribute])) == Status.INVAL


def test_a_file(gate: Gateway, client: Client) -> None:
    found = client.attributes(
        DISK, 1, 3, 4, 8, 20, 33, 35, 36, 37, 41, 45, 47, 50, 52, 53, 55, Attr.FILEHANDLE
    )
    disk = inode(gate)
    lab = gate.store.volume("lab")
    assert found == {
        1: 1, 3: disk.change, 4: 8200, 8: (lab.id, 0), 20: lab.id << 40 | disk.ino, 33: 0o640,
        35: 1, 36: b"1000", 37: b"100", 41: (0, 0), 45: 4096,
        47: divmod(disk.atime_ns, 10**9), 50: divmod(disk.btime_ns, 10**9),
        52: divmod(disk.ctime_ns, 10**9), 53: divmod(disk.mtime_ns, 10**9),
        55: lab.id << 40 | disk.ino, 19: client.handle(DISK),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (stat.S_IFBLK, 3), (stat.S_IFCHR, 4), (stat.S_IFSOCK, 6), (stat.S_IFIFO, 7),
    ],
)  # fmt: skip
def test_what_is_no_file(gate: Gateway, client: Client, kind: int, number: int) -> None:
    rdev = os.makedev(8, 300)
    gate.store.volume("lab").create(ROOT_INO, b"dev", kind | 0o600, 0, 0, rdev=rdev)
    assert client.attributes("/lab/dev", 1, 41) == {1: number, 41: (8, 300)}


def test_the_server(client: Client) -> None:
    found = client.attributes("/lab", 2, 5, 6, 7, 9, 10, 13, 15, 16, 17, 18, 26, 27, 28, 29, 30, 31,
                              34, 51, 62, 76, 77, 79)  # fmt: skip
    assert found == {
        2: 0, 5: 1, 6: 1, 7: 0, 9: 1, 10: 90, 13: 0, 15: 1, 16: 0, 17: 1, 18: 1, 26: 1,
        27: 1 << 50, 28: 65_000, 29: 255, 30: 1 << 20, 31: 1 << 20, 34: 1, 51: (0, 1), 62: 0,
        76: 1, 77: 4096, 79: 0,
    }  # fmt: skip


def test_a_time_before_1970_has_its_nanoseconds_after_the_second(client: Client) -> None:
    set_(client, {Attr.TIME_MODIFY_SET: ops.settime(-1_500_000_000)})
    assert client.attributes(DISK, Attr.TIME_MODIFY) == {Attr.TIME_MODIFY: (-2, 500_000_000)}


def test_space_is_that_of_the_quota(gate: Gateway, client: Client) -> None:
    gate.store.set_quota("lab", 1 << 20)
    found = client.attributes("/lab", 42, 43, 44)
    assert found == {42: (1 << 20) - 4096, 43: (1 << 20) - 4096, 44: 1 << 20}
    whole = client.attributes("/", 42, 44)
    assert whole[44] > whole[42] > 1 << 20


def test_a_bitmap_of_many_words_is_read_and_one_of_too_many_is_not(client: Client) -> None:
    many = u32(Op.GETATTR, 16, 1 << Attr.SIZE, *[0xFFFFFFFF] * 15)
    assert client.call(*ops.walk(DISK), many).status == Status.INVAL  # some can only be set
    many = u32(Op.GETATTR, 16, 1 << Attr.SIZE, 0, 0, *[0xFFFFFFFF] * 13)
    assert set(ops.read_attributes(client.ok(*ops.walk(DISK), many).last())) == {Attr.SIZE}
    many = u32(Op.GETATTR, 17, *[0] * 17)
    assert client.fails(*ops.walk(DISK), many) == Status.BADXDR
    many = u32(Op.GETATTR, 0xFFFFFFFF, 0)
    assert client.fails(*ops.walk(DISK), many) == Status.BADXDR


# --- what is set


def test_all_at_once(gate: Gateway, client: Client) -> None:
    values = {
        Attr.SIZE: u64(5), Attr.MODE: u32(0o4711), Attr.OWNER: opaque(b"7"),
        Attr.OWNER_GROUP: opaque(b"8"), Attr.TIME_ACCESS_SET: ops.settime(1_000_000_001),
        Attr.TIME_MODIFY_SET: ops.settime(2_000_000_002),
    }  # fmt: skip
    before = inode(gate).change
    assert set_(client, values) == sorted(values)
    found = inode(gate)
    # its new owner has not said that others may act for him
    assert (found.size, found.mode, found.uid, found.gid) == (5, stat.S_IFREG | 0o711, 7, 8)
    assert (found.atime_ns, found.mtime_ns) == (1_000_000_001, 2_000_000_002)
    assert found.change > before
    assert gate.waited[-1] == "durable"


def test_the_servers_time(gate: Gateway, client: Client) -> None:
    before = time.time_ns()
    set_(client, {Attr.TIME_ACCESS_SET: ops.settime(None)})
    assert before <= inode(gate).atime_ns <= time.time_ns()


def test_some_bits_of_the_mode(gate: Gateway, client: Client) -> None:
    set_(client, {Attr.MODE_SET_MASKED: u32(0o002, 0o007)})
    assert stat.S_IMODE(inode(gate).mode) == 0o642


def test_nothing_at_all(gate: Gateway, client: Client) -> None:
    before = inode(gate).change
    assert set_(client, {}) == []
    assert inode(gate).change == before


@pytest.mark.parametrize(
    ("owner", "uid"),
    [
        (b"0", 0), (b"root", 0), (b"root@example.org", 0), (b"nobody", 65_534),
        (b"nobody@localdomain", 65_534), (b"4294967294", 4294967294),
    ],
)  # fmt: skip
def test_owners(gate: Gateway, client: Client, owner: bytes, uid: int) -> None:
    set_(client, {Attr.OWNER: opaque(owner), Attr.OWNER_GROUP: opaque(owner)})
    assert (inode(gate).uid, inode(gate).gid) == (uid, uid)


@pytest.mark.parametrize(
    "owner",
    [
        b"4294967295", b"99999999999999999999999", b"-1", b"12@example.org", b"007", b"alice",
        b"\xff", b"1 ", b"9" * 2000, "٣".encode(),
    ],
)  # fmt: skip
def test_an_owner_that_nobody_knows(gate: Gateway, client: Client, owner: bytes) -> None:
    assert refused(client, {Attr.OWNER: opaque(owner)}) == Status.BADOWNER
    assert refused(client, {Attr.SIZE: u64(1), Attr.OWNER_GROUP: opaque(owner)}) == Status.BADOWNER
    assert (inode(gate).uid, inode(gate).gid, inode(gate).size) == (1000, 100, 8200)


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({Attr.TYPE: u32(1)}, Status.INVAL), ({Attr.CHANGE: u64(9)}, Status.INVAL),
        ({Attr.TIME_CREATE: ops.settime(1)}, Status.INVAL),
        ({12: u32(0)}, Status.ATTRNOTSUPP), ({80: u32(0)}, Status.ATTRNOTSUPP),
        ({Attr.MODE: u32(0o644), 300: u32(0)}, Status.ATTRNOTSUPP),
        ({Attr.MODE: u32(0o10000)}, Status.INVAL), ({Attr.OWNER: opaque(b"")}, Status.INVAL),
        ({Attr.MODE: u32(0), Attr.MODE_SET_MASKED: u32(0, 0)}, Status.INVAL),
        ({Attr.MODE_UMASK: u32(0o666, 0o22)}, Status.INVAL),
        ({Attr.TIME_MODIFY_SET: u32(1) + u64(0) + u32(10**9)}, Status.INVAL),
        ({Attr.TIME_MODIFY_SET: u32(2)}, Status.BADXDR), ({Attr.SIZE: u32(5)}, Status.BADXDR),
        ({Attr.SIZE: u64(1) + u32(0)}, Status.BADXDR), ({Attr.SIZE: u64(1 << 60)}, Status.FBIG),
    ],
)  # fmt: skip
def test_what_cannot_be_set(
    gate: Gateway, client: Client, values: dict[int, bytes], status: Status
) -> None:
    before = inode(gate).pack()
    assert refused(client, values) == status
    assert inode(gate).pack() == before


def test_a_time_past_what_is_stored_is_the_nearest(gate: Gateway, client: Client) -> None:
    for seconds, stored in ((1 << 62, (1 << 63) - 1), (-(1 << 62), 1 - (1 << 63))):
        value = u32(1) + (seconds & (1 << 64) - 1).to_bytes(8, "big") + u32(0)
        set_(client, {Attr.TIME_MODIFY_SET: value})
        assert inode(gate).mtime_ns == stored


def test_a_directory_has_no_size_to_set(client: Client) -> None:
    assert refused(client, {Attr.SIZE: u64(0)}, "/lab") == Status.ISDIR


def test_who_may_set_what(gate: Gateway) -> None:
    owner = Client(gate, uid=1000, gid=100, gids=(200,), owner=b"owner")
    other = Client(gate, uid=1001, gid=100, owner=b"other")
    assert set_(owner, {Attr.MODE: u32(0o600), Attr.OWNER_GROUP: opaque(b"200")})
    assert refused(owner, {Attr.OWNER: opaque(b"1001")}) == Status.PERM
    assert refused(owner, {Attr.OWNER_GROUP: opaque(b"300")}) == Status.PERM
    assert refused(other, {Attr.MODE: u32(0o777)}) == Status.PERM
    assert refused(other, {Attr.SIZE: u64(0)}) == Status.ACCESS
    assert refused(other, {Attr.TIME_MODIFY_SET: ops.settime(5)}) == Status.PERM
    assert refused(other, {Attr.TIME_MODIFY_SET: ops.settime(None)}) == Status.ACCESS


# --- VERIFY and NVERIFY


def test_verify(gate: Gateway, client: Client) -> None:
    same = {Attr.TYPE: u32(1), Attr.SIZE: u64(8200), Attr.OWNER: opaque(b"1000")}
    at = ops.walk(DISK)
    client.ok(*at, ops.verify(same), ops.getattr_([1]))
    assert client.fails(*at, ops.nverify(same)) == Status.SAME
    for other in ({Attr.SIZE: u64(8201)}, same | {Attr.SIZE: u64(1)}, {Attr.SIZE: u32(8200)}):
        assert client.fails(*at, ops.verify(other)) == Status.NOT_SAME
        client.ok(*at, ops.nverify(other))
    for operation in (ops.verify, ops.nverify):
        assert client.fails(*at, operation({12: u32(0)})) == Status.ATTRNOTSUPP
        assert client.fails(*at, operation({Attr.RDATTR_ERROR: u32(0)})) == Status.INVAL
        assert client.fails(*at, operation({Attr.TIME_MODIFY_SET: u32(0)})) == Status.INVAL


# --- ACCESS

READ, LOOKUP, MODIFY, EXTEND, DELETE, EXECUTE = 1, 2, 4, 8, 16, 32
OF_FILE, OF_DIRECTORY = READ | MODIFY | EXTEND | EXECUTE, READ | LOOKUP | MODIFY | EXTEND | DELETE


def allowed(client: Client, path: str, asked: int = 0xFFFFFE3F) -> tuple[int, int]:
    """Of all but the bits of RFC 8276 (test_xattrs.py)."""
    answer = client.ok(*ops.walk(path), ops.access(asked)).last()
    return answer.u32(), answer.u32()


@pytest.mark.parametrize(
    ("uid", "gid", "file", "directory"),
    [
        (0, 0, READ | MODIFY | EXTEND, OF_DIRECTORY),
        (1000, 1, READ | MODIFY | EXTEND, READ | LOOKUP),
        (1001, 100, READ, READ | LOOKUP),
        (1001, 1, 0, READ | LOOKUP),
    ],
)
def test_access(gate: Gateway, uid: int, gid: int, file: int, directory: int) -> None:
    client = Client(gate, uid=uid, gid=gid)
    assert allowed(client, DISK) == (OF_FILE, file)
    assert allowed(client, "/lab") == (OF_DIRECTORY, directory)
    assert allowed(client, "/") == (OF_DIRECTORY, READ | LOOKUP)
    assert allowed(client, DISK, READ | DELETE) == (READ, file & READ)


def test_access_is_that_of_the_export(gate: Gateway) -> None:
    rule = Rule(ipaddress.ip_network("0.0.0.0/0"), Right.READ)
    gate.exports.replace([type(e)(e.id, e.path, e.volume_id, (rule,)) for e in gate.exports.all()],
                         1)  # fmt: skip
    client = Client(gate)
    assert allowed(client, "/lab") == (OF_DIRECTORY, READ | LOOKUP)  # root is nobody
    assert allowed(client, DISK) == (OF_FILE, 0)
    assert refused(client, {Attr.MODE: u32(0o777)}) == Status.ROFS


def test_nobody_is_who_says_nothing(gate: Gateway) -> None:
    client = Client(gate)
    client.credential = None
    assert allowed(client, DISK) == (OF_FILE, 0)


def test_a_snapshot_lets_nobody_change_it(gate: Gateway, client: Client) -> None:
    gate.store.create_snapshot(gate.store.volume("lab"), "s")
    assert allowed(client, "/lab/.snapshots/s/disk") == (OF_FILE, READ)
    assert allowed(client, "/lab/.snapshots/s") == (OF_DIRECTORY, READ | LOOKUP)
    assert allowed(client, "/lab/.snapshots") == (OF_DIRECTORY, READ | LOOKUP)
