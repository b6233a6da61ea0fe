"""CREATE, REMOVE, RENAME, LINK, READLINK, READDIR."""

import os
import stat

import nfs4_ops as ops
import pytest
from nfs4_direct import Client, Gateway
from nfs4_ops import opaque, u32, u64

from engine import ROOT_INO, Inode, errors
from nfsgw.v4.fattr import Attr
from nfsgw.v4.protocol import Op, Status
from nfsgw.v4.readdir import REPLY_BYTES_MAX

LAB = ops.walk("/lab")


def find(gate: Gateway, path: str) -> Inode:
    return gate.store.volume("lab").resolve(path, follow=False)


def change(gate: Gateway, path: str = "/") -> int:
    return find(gate, path).change


def tree(gate: Gateway, path: str = "/") -> list[str]:
    lab = gate.store.volume("lab")
    return sorted(entry.name.decode() for entry in lab.readdir(lab.resolve(path).ino, limit=1000))


# --- CREATE


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        (ops.DIR, stat.S_IFDIR), (ops.BLK, stat.S_IFBLK), (ops.CHR, stat.S_IFCHR),
        (ops.LNK, stat.S_IFLNK), (ops.SOCK, stat.S_IFSOCK), (ops.FIFO, stat.S_IFIFO),
    ],
)  # fmt: skip
def test_what_can_be_made(gate: Gateway, client: Client, kind: int, mode: int) -> None:
    before = change(gate)
    values = {Attr.MODE: u32(0o750), Attr.TIME_MODIFY_SET: ops.settime(7)}
    made = ops.create(kind, b"new", values, target=b"to/where", device=(8, 300))
    answer = client.ok(*LAB, made, ops.getattr_([Attr.TYPE, Attr.FILEID]))
    result = answer.last()
    assert ops.read_change(result) == (True, before, change(gate))
    assert ops.read_bitmap(result) == sorted(values)
    inode = find(gate, "/new")
    found = ops.read_attributes(answer.to(Op.GETATTR))  # the new one is the current file
    assert found == {Attr.TYPE: kind, Attr.FILEID: gate.store.volume("lab").id << 40 | inode.ino}
    assert inode.mode == mode | (0o777 if kind == ops.LNK else 0o750)
    assert inode.mtime_ns == 7
    assert inode.rdev == (os.makedev(8, 300) if kind in (ops.BLK, ops.CHR) else 0)
    assert gate.waited[-1] == "durable"


def test_the_numbers_of_a_device_are_those_that_linux_has(client: Client) -> None:
    most = (1 << 12) - 1, (1 << 20) - 1
    client.ok(*LAB, ops.create(ops.CHR, b"far", device=most))
    assert client.attributes("/lab/far", Attr.RAWDEV) == {Attr.RAWDEV: most}
    for more in ((1 << 12, 0), (0, 1 << 20), ((1 << 32) - 1, (1 << 32) - 1)):
        assert client.fails(*LAB, ops.create(ops.BLK, b"x", device=more)) == Status.INVAL


def test_the_umask_is_that_of_the_client(gate: Gateway, client: Client) -> None:
    client.ok(*LAB, ops.create(ops.DIR, b"d", {Attr.MODE_UMASK: u32(0o777, 0o027)}))
    assert stat.S_IMODE(find(gate, "/d").mode) == 0o750


def test_the_maker_owns_it(gate: Gateway) -> None:
    gate.store.volume("lab").setattr(ROOT_INO, mode=0o777)
    user = Client(gate, uid=1000, gid=100, gids=(200,))
    user.ok(*LAB, ops.create(ops.DIR, b"d", {Attr.OWNER: opaque(b"1000"),
                                             Attr.OWNER_GROUP: opaque(b"200")}))  # fmt: skip
    assert (find(gate, "/d").uid, find(gate, "/d").gid) == (1000, 200)
    assert user.fails(*LAB, ops.create(ops.CHR, b"dev")) == Status.PERM


def test_a_group_that_is_not_the_makers_gets_no_setgid_file(gate: Gateway) -> None:
    gate.store.volume("lab").setattr(ROOT_INO, mode=0o2777, gid=500)
    user = Client(gate, uid=1000, gid=100)
    user.ok(*LAB, ops.create(ops.FIFO, b"f", {Attr.MODE: u32(0o2755)}))
    assert (find(gate, "/f").gid, stat.S_IMODE(find(gate, "/f").mode)) == (500, 0o755)
    user.ok(*LAB, ops.create(ops.DIR, b"d", {Attr.MODE: u32(0o755)}))
    assert (find(gate, "/d").gid, stat.S_IMODE(find(gate, "/d").mode)) == (500, 0o2755)


@pytest.mark.parametrize("kind", [ops.DIR, ops.FIFO, ops.LNK])
def test_what_cannot_have_its_attributes_is_not_made(gate: Gateway, kind: int) -> None:
    gate.store.volume("lab").setattr(ROOT_INO, mode=0o777)
    user = Client(gate, uid=1000, gid=100)
    made = ops.create(kind, b"d", {Attr.OWNER: opaque(b"2000")}, target=b"t")
    assert user.fails(*LAB, made) == Status.PERM
    assert tree(gate) == []


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (u32(Op.CREATE, 1) + opaque(b"x") + ops.attributes({}), Status.BADTYPE),
        (u32(Op.CREATE, 8) + opaque(b"x") + ops.attributes({}), Status.BADTYPE),
        (u32(Op.CREATE, 0xFFFFFFFF) + opaque(b"x") + ops.attributes({}), Status.BADTYPE),
        (ops.create(ops.DIR, b"there"), Status.EXIST),
        (ops.create(ops.DIR, b"x", {Attr.SIZE: u64(1)}), Status.INVAL),
        (ops.create(ops.DIR, b"x", {12: u32(0)}), Status.ATTRNOTSUPP),
        (ops.create(ops.LNK, b"x", target=b""), Status.INVAL),
        (ops.create(ops.LNK, b"x", target=b"a\0b"), Status.INVAL),
        (ops.create(ops.LNK, b"x", target=b"t" * 4096), Status.NAMETOOLONG),
    ],
    ids=lambda value: value.name if isinstance(value, Status) else "",
)
def test_what_cannot_be_made(
    gate: Gateway, client: Client, operation: bytes, status: Status
) -> None:
    client.ok(*LAB, ops.create(ops.DIR, b"there"))
    assert client.fails(*LAB, operation) == status
    assert tree(gate) == ["there"]
    assert client.fails(*ops.walk("/lab/there"), ops.lookup(b"x")) == Status.NOENT


# --- REMOVE


def test_remove(gate: Gateway, client: Client) -> None:
    for kind in (ops.DIR, ops.FIFO, ops.LNK):
        client.ok(*LAB, ops.create(kind, b"x", target=b"t"))
        before = change(gate)
        result = client.ok(*LAB, ops.remove(b"x")).last()
        assert ops.read_change(result) == (True, before, change(gate))
    assert tree(gate) == []
    assert client.fails(*LAB, ops.remove(b"x")) == Status.NOENT
    client.ok(*LAB, ops.create(ops.DIR, b"d"), ops.create(ops.DIR, b"e"))
    assert client.fails(*LAB, ops.remove(b"d")) == Status.NOTEMPTY
    client.ok(*LAB, ops.create(ops.FIFO, b"f"))
    assert client.fails(*ops.walk("/lab/f"), ops.remove(b"x")) == Status.NOTDIR
    assert client.fails(*LAB, ops.remove(b".snapshots")) == Status.ROFS


def test_a_sticky_directory_keeps_its_owners(gate: Gateway) -> None:
    gate.store.volume("lab").setattr(ROOT_INO, mode=0o1777)
    one, other = (Client(gate, uid=uid, gid=1, owner=b"%d" % uid) for uid in (1000, 1001))
    one.ok(*LAB, ops.create(ops.DIR, b"mine"))
    assert other.fails(*LAB, ops.remove(b"mine")) == Status.ACCESS
    assert other.fails(*LAB, ops.save_fh(), ops.rename(b"mine", b"x")) == Status.ACCESS
    one.ok(*LAB, ops.remove(b"mine"))


def test_a_disk_that_is_presented_keeps_its_name(gate: Gateway, client: Client) -> None:
    lab = gate.store.volume("lab")
    inode = lab.create(ROOT_INO, b"disk", 0o644, 0, 0)
    gate.store.pool.presented.add((lab.id, inode.ino))
    assert client.fails(*LAB, ops.remove(b"disk")) == Status.FILE_OPEN
    client.ok(*LAB, ops.save_fh(), ops.rename(b"disk", b"elsewhere"))


# --- RENAME and LINK


def test_rename(gate: Gateway, client: Client) -> None:
    client.ok(*LAB, ops.create(ops.DIR, b"a"), *LAB, ops.create(ops.DIR, b"b"))
    client.ok(*ops.walk("/lab/a"), ops.create(ops.FIFO, b"f"))
    before = change(gate, "/a"), change(gate, "/b")
    both = [*ops.walk("/lab/a"), ops.save_fh(), *ops.walk("/lab/b")]
    result = client.ok(*both, ops.rename(b"f", b"g")).last()
    assert ops.read_change(result) == (True, before[0], change(gate, "/a"))
    assert ops.read_change(result) == (True, before[1], change(gate, "/b"))
    assert (tree(gate, "/a"), tree(gate, "/b")) == ([], ["g"])
    assert client.fails(*both, ops.rename(b"f", b"g")) == Status.NOENT


def test_a_rename_onto_itself_changes_nothing(gate: Gateway, client: Client) -> None:
    client.ok(*LAB, ops.create(ops.FIFO, b"f"), *LAB, ops.save_fh(), *ops.walk("/lab/f"),
              ops.save_fh(), *LAB, ops.link(b"g"))  # fmt: skip
    before = change(gate)
    result = client.ok(*LAB, ops.save_fh(), ops.rename(b"f", b"g")).last()
    assert ops.read_change(result) == (True, before, before)
    assert tree(gate) == ["f", "g"]


@pytest.mark.parametrize(
    ("name", "new_name", "status"),
    [
        (b"file", b"file2", None), (b"empty", b"empty2", None), (b"file", b"empty", Status.EXIST),
        (b"empty", b"file", Status.EXIST), (b"empty", b"full", Status.EXIST),
        (b"full", b"full/x", Status.BADCHAR), (b"never", b"file", Status.NOENT),
        (b"file", b".snapshots", Status.ROFS),
    ],
)  # fmt: skip
def test_what_a_rename_replaces(
    gate: Gateway, client: Client, name: bytes, new_name: bytes, status: Status | None
) -> None:
    for kind, each in ((ops.FIFO, b"file"), (ops.FIFO, b"file2"), (ops.DIR, b"empty"),
                       (ops.DIR, b"empty2"), (ops.DIR, b"full")):  # fmt: skip
        client.ok(*LAB, ops.create(kind, each))
    client.ok(*ops.walk("/lab/full"), ops.create(ops.FIFO, b"x"))
    call = [*LAB, ops.save_fh(), ops.rename(name, new_name)]
    if status is None:
        client.ok(*call)
        assert name.decode() not in tree(gate)
    else:
        before = tree(gate)
        assert client.fails(*call) == status
        assert tree(gate) == before


def test_a_directory_does_not_move_below_itself(client: Client) -> None:
    client.ok(*LAB, ops.create(ops.DIR, b"a"), ops.create(ops.DIR, b"b"))
    call = [*LAB, ops.save_fh(), *ops.walk("/lab/a/b"), ops.rename(b"a", b"c")]
    assert client.fails(*call) == Status.INVAL


def test_names_stay_in_their_export(client: Client) -> None:
    client.ok(*LAB, ops.create(ops.FIFO, b"f"))
    call = [*LAB, ops.save_fh(), *ops.walk("/other")]
    assert client.fails(*call, ops.rename(b"f", b"g")) == Status.XDEV
    call = [*ops.walk("/lab/f"), ops.save_fh(), *ops.walk("/other")]
    assert client.fails(*call, ops.link(b"g")) == Status.XDEV


def test_link(gate: Gateway, client: Client) -> None:
    client.ok(*LAB, ops.create(ops.FIFO, b"f"), *LAB, ops.create(ops.DIR, b"d"))
    before = change(gate)
    result = client.ok(*ops.walk("/lab/f"), ops.save_fh(), *LAB, ops.link(b"g")).last()
    assert ops.read_change(result) == (True, before, change(gate))
    assert client.attributes("/lab/g", Attr.NUMLINKS, Attr.FILEID) == {
        Attr.NUMLINKS: 2, **client.attributes("/lab/f", Attr.FILEID),
    }  # fmt: skip
    saved = [*ops.walk("/lab/f"), ops.save_fh()]
    assert client.fails(*saved, *LAB, ops.link(b"d")) == Status.EXIST
    assert client.fails(*saved, ops.link(b"x")) == Status.NOTDIR
    assert client.fails(*ops.walk("/lab/d"), ops.save_fh(), *LAB, ops.link(b"x")) == Status.ISDIR


def test_readlink(client: Client) -> None:
    client.ok(*LAB, ops.create(ops.LNK, b"l", target=b"\xfftarget"))
    result = client.ok(*ops.walk("/lab/l"), ops.readlink()).last()
    assert bytes(result.opaque(4096)) == b"\xfftarget"
    assert client.fails(*LAB, ops.readlink()) == Status.WRONG_TYPE


# --- READDIR


def listing(client: Client, path: str, numbers: list[int], size: int) -> list[ops.Entry]:
    """All pages of a directory; each is as large as was asked for, at most."""
    found: list[ops.Entry] = []
    cookie, verifier, done = 0, bytes(8), False
    while not done:
        call = ops.readdir(numbers, cookie, verifier, size)
        result = client.ok(*ops.walk(path), call).last()
        assert result.left <= min(size, REPLY_BYTES_MAX)
        entries, verifier, done = ops.read_entries(result)
        result.end()
        assert entries or done
        found += entries
        cookie = entries[-1].cookie if entries else 0
    return found


def fill(gate: Gateway, count: int) -> list[bytes]:
    lab = gate.store.volume("lab")
    names = [b"%0*d" % (1 + n % 200, n) for n in range(count)]
    for name in names:
        lab.create(ROOT_INO, name, 0o644, 0, 0)
    return names


@pytest.mark.parametrize("size", [600, 4096, 1 << 20])
def test_every_entry_comes_once(gate: Gateway, client: Client, size: int) -> None:
    names = fill(gate, 700)
    found = listing(client, "/lab", [Attr.TYPE, Attr.FILEID, Attr.FILEHANDLE], size)
    assert [entry.name for entry in found] == names
    assert len({entry.cookie for entry in found}) == 700
    for entry in found[::99]:
        name = entry.name.decode()
        assert entry.attributes == client.attributes(f"/lab/{name}", 1, 19, 20)


def test_what_comes_and_goes_between_pages_disturbs_nobody(gate: Gateway, client: Client) -> None:
    names = fill(gate, 300)
    result = client.ok(*LAB, ops.readdir([], size=1000)).last()
    first = ops.read_entries(result)[0]
    client.ok(*LAB, ops.remove(first[-1].name), ops.create(ops.DIR, b"new"))
    left = []
    cookie, done = first[-1].cookie, False
    while not done:
        result = client.ok(*LAB, ops.readdir([], cookie, size=1000)).last()
        entries, _, done = ops.read_entries(result)
        left += [entry.name for entry in entries]
        cookie = entries[-1].cookie
    assert [entry.name for entry in first] + left == [*names, b"new"]


def test_an_empty_directory(client: Client) -> None:
    assert listing(client, "/lab", [Attr.TYPE], 4096) == []
    assert listing(client, "/lab/.snapshots", [Attr.TYPE], 4096) == []


def test_pages_of_the_root_and_of_snapshots(gate: Gateway, client: Client) -> None:
    lab = gate.store.volume("lab")
    for n in range(20):
        gate.store.create_volume(f"vol{n}")
        gate.store.create_snapshot(lab, f"s{n}")
    gate.export(*(f"vol{n}" for n in range(20)))
    root = listing(client, "/", [Attr.FSID], 200)
    assert [e.name for e in root] == [b"lab", b"other", *(b"vol%d" % n for n in range(20))]
    snapshots = listing(client, "/lab/.snapshots", [Attr.TYPE], 200)
    assert [e.name for e in snapshots] == [b"s%d" % n for n in range(20)]


def test_what_readdir_refuses(gate: Gateway, client: Client) -> None:
    fill(gate, 5)
    for size, status in ((15, Status.TOOSMALL), (16, Status.TOOSMALL), (0, Status.TOOSMALL)):
        assert client.fails(*LAB, ops.readdir([], size=size)) == status
    for cookie in (1, 2):
        assert client.fails(*LAB, ops.readdir([], cookie)) == Status.BAD_COOKIE
    assert client.fails(*LAB, ops.readdir([], 3, b"another!")) == Status.NOT_SAME
    far = client.ok(*LAB, ops.readdir([], (1 << 64) - 1)).last()
    assert ops.read_entries(far) == ([], bytes(8), True)
    client.ok(*LAB, ops.create(ops.FIFO, b"f"))
    assert client.fails(*ops.walk("/lab/f"), ops.readdir([])) == Status.NOTDIR
    gate.store.volume("lab").setattr(ROOT_INO, mode=0o711)
    assert Client(gate, uid=1000, owner=b"u").fails(*LAB, ops.readdir([])) == Status.ACCESS


def test_who_may_not_look_names_up_learns_names_only(gate: Gateway, client: Client) -> None:
    names = fill(gate, 3)
    gate.store.volume("lab").setattr(ROOT_INO, mode=0o744)
    user = Client(gate, uid=1000, owner=b"u")
    told = user.ok(*LAB, ops.readdir([Attr.RDATTR_ERROR, Attr.FILEHANDLE, Attr.FILEID])).last()
    entries, _, _ = ops.read_entries(told)
    assert [name for _, name, _ in entries] == names
    assert {tuple(found) for _, _, found in entries} == {(Attr.RDATTR_ERROR,)}
    assert {found[Attr.RDATTR_ERROR] for _, _, found in entries} == {Status.ACCESS}
    assert user.fails(*LAB, ops.readdir([Attr.FILEHANDLE])) == Status.ACCESS
    assert client.ok(*LAB, ops.readdir([Attr.FILEHANDLE]))


def test_a_damaged_entry_is_told_as_one_if_the_client_wants_it(
    gate: Gateway, client: Client
) -> None:
    names = fill(gate, 3)
    lab = gate.store.volume("lab")
    broken = lab.lookup(ROOT_INO, names[1]).ino

    def damaged(ino: int, real=lab.inode):  # type: ignore[no-untyped-def]
        if ino == broken:
            raise errors.Corrupt("damaged")
        return real(ino)

    lab.inode = damaged  # type: ignore[method-assign]
    assert client.fails(*LAB, ops.readdir([Attr.TYPE])) == Status.IO
    found = ops.read_entries(client.ok(*LAB, ops.readdir([Attr.TYPE, Attr.RDATTR_ERROR])).last())[0]
    assert [entry.attributes for entry in found] == [
        {Attr.TYPE: 1, Attr.RDATTR_ERROR: Status.OK}, {Attr.RDATTR_ERROR: Status.IO},
        {Attr.TYPE: 1, Attr.RDATTR_ERROR: Status.OK},
    ]  # fmt: skip


def test_ten_thousand_entries(gate: Gateway, client: Client) -> None:
    lab = gate.store.volume("lab")
    for n in range(10_000):
        lab.create(ROOT_INO, b"%06d" % n, 0o644, 0, 0)
    found = listing(client, "/lab", [Attr.TYPE, Attr.RDATTR_ERROR, Attr.FILEID], 1 << 17)
    assert [entry.name for entry in found] == [b"%06d" % n for n in range(10_000)]
