"""The current file: handles, names, the root of exports."""

import ipaddress
from collections.abc import Iterator

import nfs4_ops as ops
import pytest
from nfs4_direct import Answer, Client, Gateway
from nfs4_ops import opaque, u32

from engine import ROOT_INO
from nfsgw.exports import Right, Rule
from nfsgw.rpc import AuthFailed
from nfsgw.v4.protocol import Op, Status

FSID, FILEID, CHANGE, MOUNTED_ON = 8, 20, 3, 55


@pytest.fixture
def gate(hall: Gateway) -> Iterator[Gateway]:
    with hall.volumes("lab", "other") as made:
        lab = made.store.volume("lab")
        directory = lab.mkdir(ROOT_INO, b"images", 0o755, 0, 0)
        disk = lab.create(directory.ino, b"disk", 0o644, 0, 0)
        lab.write(disk.ino, 0, b"contents")
        lab.symlink(ROOT_INO, b"link", b"images", 0, 0)
        yield made


def names(client: Client, path: str) -> list[bytes]:
    answer = client.ok(*ops.walk(path), ops.readdir([])).last()
    return [entry.name for entry in ops.read_entries(answer)[0]]


def only(network: str) -> Rule:
    return Rule(ipaddress.ip_network(network), Right.ROOT)


def test_the_root_has_the_exports_that_the_client_may_use(gate: Gateway, client: Client) -> None:
    gate.store.create_volume("secret")
    gate.export("secret", rule=only("192.0.2.0/24"))
    assert names(client, "/") == [b"lab", b"other"]
    assert client.fails(*ops.walk("/secret")) == Status.NOENT
    other = Client(gate, address="192.0.2.9", owner=b"other")
    assert names(other, "/") == [b"secret"]
    assert other.fails(*ops.walk("/lab")) == Status.NOENT
    with pytest.raises(AuthFailed):
        Client(gate, address="198.51.100.1", owner=b"none")


def test_each_export_is_a_file_system_and_its_root_is_mounted_on_the_root(client: Client) -> None:
    root = client.attributes("/", FSID, FILEID, MOUNTED_ON)
    lab = client.attributes("/lab", FSID, FILEID, MOUNTED_ON)
    other = client.attributes("/other", FSID, FILEID, MOUNTED_ON)
    images = client.attributes("/lab/images", FSID, FILEID, MOUNTED_ON)
    assert len({each[FSID] for each in (root, lab, other)}) == 3
    assert images[FSID] == lab[FSID]
    assert root[MOUNTED_ON] == root[FILEID]
    assert images[MOUNTED_ON] == images[FILEID]
    numbers = [each[FILEID] for each in (root, lab, other, images)]
    numbers += [each[MOUNTED_ON] for each in (lab, other)]
    assert len(set(numbers)) == 6
    listed = ops.read_entries(client.ok(*ops.walk("/"), ops.readdir([FSID, MOUNTED_ON])).last())[0]
    assert [entry.attributes[FSID] for entry in listed] == [lab[FSID], other[FSID]]
    assert [entry.attributes[MOUNTED_ON] for entry in listed] == [lab[55], other[55]]


def test_the_root_changes_with_the_exports(gate: Gateway, client: Client) -> None:
    before = client.attributes("/", CHANGE)[CHANGE]
    gate.store.create_volume("new")
    gate.export("new")
    assert client.attributes("/", CHANGE)[CHANGE] > before
    assert b"new" in names(client, "/")


def test_an_export_of_a_volume_that_is_gone_is_left_out(gate: Gateway, client: Client) -> None:
    handle = client.handle("/other")
    gate.store.remove_volume("other")
    assert names(client, "/") == [b"lab"]
    assert client.fails(*ops.walk("/other")) == Status.STALE
    assert client.fails(ops.put_fh(handle)) == Status.STALE


def test_the_way_up_ends_at_the_root(client: Client) -> None:
    up = ops.lookup_parent()
    root = client.handle("/")
    assert bytes(client.ok(*ops.walk("/lab"), up, ops.get_fh()).last().opaque(128)) == root
    way = client.ok(*ops.walk("/lab/images"), up, ops.get_fh())
    assert bytes(way.last().opaque(128)) == client.handle("/lab")
    assert client.fails(*ops.walk("/"), up) == Status.NOENT
    assert client.fails(*ops.walk("/lab/images/disk"), up) == Status.NOTDIR
    assert client.fails(*ops.walk("/lab/link"), up) == Status.SYMLINK


def test_the_public_root_is_the_root(client: Client) -> None:
    answer = client.ok(u32(Op.PUTPUBFH), ops.get_fh())
    assert bytes(answer.last().opaque(128)) == client.handle("/")


def test_handles_hold_across_a_restart(gate: Gateway, client: Client) -> None:
    handles = [client.handle(path) for path in ("/", "/lab", "/lab/images/disk")]
    again = Gateway(gate.store)
    again.exports.replace(gate.exports.all(), 1)
    after = Client(again)
    assert [after.handle(path) for path in ("/", "/lab", "/lab/images/disk")] == handles
    for handle in handles:
        assert bytes(after.ok(ops.put_fh(handle), ops.get_fh()).last().opaque(128)) == handle


@pytest.mark.parametrize("path", ["/", "/lab/images/disk"])
def test_no_changed_handle_is_taken(client: Client, path: str) -> None:
    handle = client.handle(path)
    for at in range(len(handle)):
        forged = bytearray(handle)
        forged[at] ^= 1 << at % 8
        assert client.fails(ops.put_fh(bytes(forged))) == Status.BADHANDLE
    for wrong in (b"", handle[:-1], handle + b"\0", bytes(128)):
        assert client.fails(ops.put_fh(wrong)) == Status.BADHANDLE
    assert client.fails(u32(Op.PUTFH) + opaque(bytes(129))) == Status.BADXDR


def test_what_an_export_allows_is_looked_at_for_every_handle(gate: Gateway, client: Client) -> None:
    handle = client.handle("/lab/images/disk")
    gate.export("lab", rule=only("192.0.2.0/24"))
    assert client.fails(ops.put_fh(handle)) == Status.STALE  # another export now
    gate.exports.replace(
        [each for each in gate.exports.all() if each.name != "lab"], 10**10
    )  # fmt: skip
    assert client.fails(ops.put_fh(handle)) == Status.STALE
    kept = client.handle("/other")
    exports = gate.exports.all()
    shut = [type(e)(e.id, e.path, e.volume_id, (only("192.0.2.0/24"),)) for e in exports]
    gate.exports.replace(shut, 10**11)
    with pytest.raises(AuthFailed):  # he may use none any more
        client.ok(ops.put_fh(kept))
    gate.store.create_volume("else")
    gate.export("else")
    assert Client(gate, owner=b"again").fails(ops.put_fh(kept)) == Status.ACCESS


def test_a_deleted_file_is_stale(gate: Gateway, client: Client) -> None:
    handle = client.handle("/lab/images/disk")
    client.ok(*ops.walk("/lab/images"), ops.remove(b"disk"))
    assert client.fails(ops.put_fh(handle)) == Status.STALE


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (b"", Status.INVAL), (b".", Status.BADNAME), (b"..", Status.BADNAME),
        (b"a/b", Status.BADCHAR), (b"a\0b", Status.BADCHAR), (b"n" * 256, Status.NAMETOOLONG),
        (b"n" * 255, Status.NOENT), (b"\xff\xfe", Status.NOENT),
    ],
)  # fmt: skip
def test_names(client: Client, name: bytes, status: Status) -> None:
    for path in ("/", "/lab"):
        assert client.fails(*ops.walk(path), ops.lookup(name)) == status
    if status == Status.NOENT:
        return
    assert client.fails(*ops.walk("/lab"), ops.remove(name)) == status
    assert client.fails(*ops.walk("/lab"), ops.create(ops.DIR, name)) == status
    both = [*ops.walk("/lab"), ops.save_fh()]
    assert client.fails(*both, ops.rename(b"images", name)) == status
    assert client.fails(*both, ops.rename(name, b"images")) == status


def test_only_directories_are_looked_into(client: Client) -> None:
    assert client.fails(*ops.walk("/lab/images/disk"), ops.lookup(b"x")) == Status.NOTDIR
    assert client.fails(*ops.walk("/lab/link"), ops.lookup(b"disk")) == Status.SYMLINK


def test_saved_and_restored(client: Client) -> None:
    assert client.fails(ops.save_fh()) == Status.NOFILEHANDLE
    assert client.fails(ops.restore_fh()) == Status.NOFILEHANDLE
    answer = client.ok(
        *ops.walk("/lab/images"), ops.save_fh(), ops.lookup(b"disk"), ops.restore_fh(), ops.get_fh()
    )
    assert bytes(answer.last().opaque(128)) == client.handle("/lab/images")


@pytest.mark.parametrize(
    "operation",
    [
        ops.get_fh(), ops.save_fh(), ops.lookup(b"x"), ops.lookup_parent(), ops.getattr_([1]),
        ops.setattr_({33: u32(0)}), ops.verify({1: u32(1)}), ops.nverify({1: u32(1)}),
        ops.access(63), ops.create(ops.DIR, b"x"), ops.remove(b"x"), ops.rename(b"x", b"y"),
        ops.link(b"x"), ops.readlink(), ops.readdir([]), ops.read(0, 1), ops.write(0, b"x"),
        ops.commit(), ops.seek(0, 0), ops.allocate(0, 1), ops.deallocate(0, 1),
        ops.io_advise(0, 1, 0), ops.read_plus(0, 1), ops.clone(0, 0, 0), ops.copy(0, 0, 0),
    ],
    ids=lambda operation: Op(int.from_bytes(operation[:4], "big")).name,
)  # fmt: skip
def test_what_needs_a_file_and_has_none(client: Client, operation: bytes) -> None:
    assert client.fails(operation) == Status.NOFILEHANDLE
    for cut in range(4, len(operation), 4):  # and whose arguments end too early
        answer = Answer(client.send([client.sequence(), operation[:cut]]))
        assert answer.status in (Status.BADXDR, Status.NOFILEHANDLE)


def test_nobody_changes_the_root(client: Client) -> None:
    root = ops.walk("/")
    for operation in (
        ops.create(ops.DIR, b"x"), ops.remove(b"lab"), ops.setattr_({33: u32(0o777)}),
    ):  # fmt: skip
        assert client.fails(*root, operation) == Status.ROFS
    assert client.fails(*root, ops.save_fh(), ops.rename(b"lab", b"x")) == Status.ROFS
    lab = [*ops.walk("/lab/images/disk"), ops.save_fh()]
    assert client.fails(*lab, *root, ops.link(b"x")) == Status.ROFS
    assert client.fails(*lab, *root, ops.clone(0, 0, 0)) == Status.ISDIR
    for operation in (ops.read(0, 1), ops.write(0, b"x"), ops.commit(), ops.seek(0, 0)):
        assert client.fails(*root, operation) == Status.ISDIR
    assert client.fails(*root, ops.readlink()) == Status.WRONG_TYPE


def test_snapshots_are_there_by_name_and_cannot_be_changed(gate: Gateway, client: Client) -> None:
    lab = gate.store.volume("lab")
    gate.store.create_snapshot(lab, "monday")
    client.ok(*ops.walk("/lab/images/disk"), ops.write(0, b"CONTENTS"))
    assert names(client, "/lab") == [b"images", b"link"]
    assert names(client, "/lab/.snapshots") == [b"monday"]
    past = "/lab/.snapshots/monday/images/disk"
    answer = client.ok(*ops.walk(past), ops.read(0, 100)).last()
    answer.u32()
    assert bytes(answer.opaque(100)) == b"contents"
    assert client.attributes(past, FSID) == client.attributes("/lab", FSID)
    assert client.fails(*ops.walk(past), ops.write(0, b"x")) == Status.ROFS
    assert client.fails(*ops.walk(past), ops.setattr_({33: u32(0)})) == Status.ROFS
    inside = ops.walk("/lab/.snapshots/monday/images")
    assert client.fails(*inside, ops.remove(b"disk")) == Status.ROFS
    assert client.fails(*ops.walk("/lab/.snapshots"), ops.create(ops.DIR, b"x")) == Status.ROFS
    assert client.fails(*ops.walk("/lab/.snapshots"), ops.setattr_({33: u32(0)})) == Status.ROFS
    assert client.fails(*ops.walk("/lab"), ops.create(ops.DIR, b".snapshots")) == Status.ROFS
    up = client.ok(*ops.walk("/lab/.snapshots/monday"), ops.lookup_parent(), ops.get_fh()).last()
    assert bytes(up.opaque(128)) == client.handle("/lab/.snapshots")
    assert client.fails(*ops.walk("/lab/.snapshots/never")) == Status.NOENT


def test_an_exported_snapshot_is_a_file_system_of_its_own(gate: Gateway, client: Client) -> None:
    gate.store.create_snapshot(gate.store.volume("lab"), "monday")
    gate.export("lab@monday")
    assert names(client, "/") == [b"lab", b"other", b"lab@monday"]
    assert client.attributes("/lab@monday", FSID) != client.attributes("/lab", FSID)
    assert client.fails(*ops.walk("/lab@monday"), ops.create(ops.DIR, b"x")) == Status.ROFS
