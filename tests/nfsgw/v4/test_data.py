"""READ, WRITE, COMMIT, SEEK, ALLOCATE, DEALLOCATE, IO_ADVISE, READ_PLUS."""

import dataclasses
import ipaddress
import stat
from collections.abc import Iterator
from pathlib import Path

import nfs4_ops as ops
import pytest
from nfs4_direct import Answer, Client, Gateway, gateway
from nfs4_ops import opaque, u32, u64

from engine import ROOT_INO, Inode, Store
from nfsgw.exports import Right, Rule
from nfsgw.v4.fattr import Attr
from nfsgw.v4.limits import Limits
from nfsgw.v4.protocol import Op, Status

BLOCK = 4096
AT = ops.walk("/lab/disk")
DATA, HOLE = 0, 1


@pytest.fixture
def gate(hall: Gateway) -> Iterator[Gateway]:
    with hall.volumes("lab") as made:
        lab = made.store.volume("lab")
        lab.create(ROOT_INO, b"disk", 0o644, 1000, 100)
        lab.symlink(ROOT_INO, b"link", b"disk", 0, 0)
        lab.create(ROOT_INO, b"fifo", stat.S_IFIFO | 0o666, 0, 0)
        yield made


def inode(gate: Gateway) -> Inode:
    return gate.store.volume("lab").resolve("/disk")


def content(gate: Gateway) -> bytes:
    return gate.store.volume("lab").read(inode(gate).ino, 0, 1 << 30)


def put(gate: Gateway, offset: int, data: bytes) -> None:
    gate.store.volume("lab").write(inode(gate).ino, offset, data)


def read(client: Client, offset: int, count: int) -> tuple[bool, bytes]:
    result = client.ok(*AT, ops.read(offset, count)).last()
    found = result.boolean(), bytes(result.opaque(1 << 21))
    result.end()
    return found


def written(answer: Answer) -> tuple[int, int, bytes]:
    result = answer.last()
    found = result.u32(), result.u32(), bytes(result.fixed(8))
    result.end()
    return found


# --- READ and WRITE


def test_read(gate: Gateway, client: Client) -> None:
    data = bytes(range(256)) * 40
    put(gate, 0, data)
    assert read(client, 0, 10_240) == (True, data)
    assert read(client, 3, 5) == (False, data[3:8])
    assert read(client, 10_000, 1000) == (True, data[10_000:])
    assert read(client, 10_240, 1) == (True, b"")
    assert read(client, (1 << 64) - 1, (1 << 32) - 1) == (True, b"")
    assert read(client, 5, 0) == (False, b"")


def test_a_read_is_a_megabyte_at_most(gate: Gateway, client: Client) -> None:
    put(gate, 0, b"\1" * (3 << 20))
    ended, data = read(client, 0, (1 << 20) + 4096)
    assert (ended, len(data)) == (False, 1 << 20)


@pytest.mark.parametrize("how", [ops.UNSTABLE, ops.DATA_SYNC, ops.FILE_SYNC])
def test_write(gate: Gateway, client: Client, how: int) -> None:
    gate.waited.clear()
    count, committed, verifier = written(client.ok(*AT, ops.write(5, b"hello", how)))
    assert (count, content(gate)) == (5, b"\0\0\0\0\0hello")
    assert committed == (ops.UNSTABLE if how == ops.UNSTABLE else ops.FILE_SYNC)
    assert gate.waited == ([] if how == ops.UNSTABLE else ["durable"])
    assert bytes(client.ok(*AT, ops.commit()).last().fixed(8)) == verifier
    assert gate.waited[-1] == "durable"


def test_what_was_committed_is_there_after_a_crash(tmp_path: Path) -> None:
    with gateway(tmp_path / "store", "lab") as gate:
        gate.store.volume("lab").create(ROOT_INO, b"disk", 0o644, 0, 0)
        client = Client(gate)
        client.ok(*AT, ops.write(0, b"kept", ops.UNSTABLE), ops.commit())
        client.ok(*AT, ops.write(0, b"lost", ops.UNSTABLE))
    with Store.open(tmp_path / "store") as store:
        lab = store.volume("lab")
        assert lab.read(lab.resolve("/disk").ino, 0, 10) == b"kept"


def test_the_verifier_changes_when_the_disk_has_failed(tmp_path: Path) -> None:
    with gateway(tmp_path / "store", "lab") as gate:
        gate.store.volume("lab").create(ROOT_INO, b"disk", 0o644, 0, 0)
        client = Client(gate)
        verifier = written(client.ok(*AT, ops.write(0, b"x")))[2]
        assert written(client.ok(*AT, ops.write(0, b"x")))[2] == verifier
        gate.store.fail("a test")
        assert client.fails(*AT, ops.write(0, b"y")) == Status.IO
        assert client.fails(*AT, ops.commit()) == Status.IO
        assert gate.files.verifier.current() != verifier


def test_nothing_written_is_no_error(gate: Gateway, client: Client) -> None:
    before = inode(gate).change
    assert written(client.ok(*AT, ops.write(100, b"")))[0] == 0
    assert (inode(gate).size, inode(gate).change) == (0, before)


def test_zeroes_are_a_hole(gate: Gateway, client: Client) -> None:
    client.ok(*AT, ops.write(0, bytes(64 * BLOCK)))
    assert client.attributes("/lab/disk", Attr.SIZE, Attr.SPACE_USED) == {
        Attr.SIZE: 64 * BLOCK, Attr.SPACE_USED: 0,
    }  # fmt: skip


def test_a_write_past_the_largest_file(gate: Gateway, client: Client) -> None:
    for offset in (1 << 50, (1 << 50) - 4, (1 << 64) - 2):
        assert client.fails(*AT, ops.write(offset, b"hello")) == Status.FBIG
    assert inode(gate).size == 0


def test_a_write_with_no_meaning(client: Client) -> None:
    assert client.fails(*AT, ops.write(0, b"x", 3)) == Status.BADXDR
    short = u32(Op.WRITE) + ops.ANONYMOUS + u64(0) + u32(0, 1000) + b"less"
    assert client.fails(*AT, short) == Status.BADXDR


def test_a_quota(gate: Gateway, client: Client) -> None:
    gate.store.set_quota("lab", 4 * BLOCK)
    client.ok(*AT, ops.write(0, b"x" * (4 * BLOCK)))
    assert client.fails(*AT, ops.write(4 * BLOCK, b"x")) == Status.DQUOT


def test_privileges_go_with_the_contents(gate: Gateway) -> None:
    lab = gate.store.volume("lab")
    user, root = Client(gate, uid=1000, owner=b"user"), Client(gate)
    for operation in (
        ops.write(0, b"x"), ops.setattr_({Attr.SIZE: u64(9)}), ops.allocate(0, 5),
        ops.deallocate(0, 5),
    ):  # fmt: skip
        lab.setattr(inode(gate).ino, mode=0o6755)
        root.ok(*AT, operation)
        assert stat.S_IMODE(inode(gate).mode) == 0o6755
        user.ok(*AT, operation)
        assert stat.S_IMODE(inode(gate).mode) == 0o755


IO = [
    ops.read(0, 1), ops.write(0, b"x"), ops.commit(), ops.seek(0, DATA), ops.allocate(0, 1),
    ops.deallocate(0, 1), ops.read_plus(0, 1), ops.io_advise(0, 1, 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/lab", Status.ISDIR), ("/lab/.snapshots", Status.ISDIR), ("/lab/link", Status.SYMLINK),
        ("/lab/fifo", Status.WRONG_TYPE),
    ],
)  # fmt: skip
def test_what_has_no_contents(client: Client, path: str, status: Status) -> None:
    for operation in IO:
        assert client.fails(*ops.walk(path), operation) == status


def test_who_may_read_and_write(gate: Gateway, client: Client) -> None:
    client.ok(*AT, ops.write(0, b"x"), ops.setattr_({Attr.MODE: u32(0o600)}))
    other = Client(gate, uid=1001, owner=b"other")
    for operation in IO:
        if operation not in (ops.commit(), ops.io_advise(0, 1, 0)):
            assert other.fails(*AT, operation) == Status.ACCESS
    owner = Client(gate, uid=1000, owner=b"owner")
    client.ok(*AT, ops.setattr_({Attr.MODE: u32(0)}))
    for operation in IO:
        owner.ok(*AT, operation)  # a client has looked when it opened the file
    rule = Rule(ipaddress.ip_network("127.0.0.0/8"), Right.READ)
    gate.exports.replace(
        [type(e)(e.id, e.path, e.volume_id, (rule,)) for e in gate.exports.all()], 10**10
    )
    for operation in (ops.write(0, b"y"), ops.allocate(0, 1), ops.deallocate(0, 1)):
        assert owner.fails(*AT, operation) == Status.ROFS
    assert content(gate) == b"\0"


@pytest.mark.parametrize("operation", IO)
def test_a_stateid_that_nobody_has(client: Client, operation: bytes) -> None:
    if operation == ops.commit():
        return
    for wrong in (b"\0\0\0\1" + b"\7" * 12, b"\0\0\0\2" + bytes(12), ops.CURRENT):
        operation = operation[:4] + wrong + operation[20:]
        assert client.fails(*AT, operation) == Status.BAD_STATEID


def test_room_is_waited_for_before_a_change(gate: Gateway, client: Client) -> None:
    put(gate, 0, b"x")
    for operation in (ops.write(0, b"y"), ops.setattr_({Attr.MODE: u32(0o644)}),
                      ops.allocate(0, 1), ops.deallocate(0, 1)):  # fmt: skip
        gate.full = True
        client.ok(*AT, operation)
        assert "admit" in gate.waited
        gate.waited.clear()


def test_a_file_that_is_deleted_while_a_write_waits(gate: Gateway, client: Client) -> None:
    gate.full = True
    gate.between = lambda: gate.store.volume("lab").unlink(ROOT_INO, b"disk")
    assert client.fails(*AT, ops.write(0, b"x")) == Status.STALE


def test_a_volume_that_is_restored_while_a_write_waits(gate: Gateway, client: Client) -> None:
    lab = gate.store.volume("lab")
    gate.store.create_snapshot(lab, "s")
    gate.full = True
    gate.between = lambda: gate.store.restore(lab, "s", force=True)
    assert client.fails(*AT, ops.write(0, b"x")) == Status.STALE
    gate.between = lambda: None
    client.ok(*AT, ops.write(0, b"x"))


# --- holes


def seek(client: Client, offset: int, what: int) -> tuple[bool, int]:
    result = client.ok(*AT, ops.seek(offset, what)).last()
    return result.boolean(), result.u64()


def test_seek(gate: Gateway, client: Client) -> None:
    put(gate, 2 * BLOCK, b"x" * BLOCK)
    put(gate, 5 * BLOCK, b"y" * 10)
    client.ok(*AT, ops.setattr_({Attr.SIZE: u64(8 * BLOCK + 1)}))
    end = 8 * BLOCK + 1
    assert seek(client, 0, DATA) == (False, 2 * BLOCK)
    assert seek(client, 2 * BLOCK + 7, DATA) == (False, 2 * BLOCK + 7)
    assert seek(client, 3 * BLOCK, DATA) == (False, 5 * BLOCK)
    assert seek(client, 6 * BLOCK, DATA) == (True, end)
    assert seek(client, 1, HOLE) == (False, 1)
    assert seek(client, 2 * BLOCK, HOLE) == (False, 3 * BLOCK)
    assert seek(client, 5 * BLOCK + 3, HOLE) == (False, 6 * BLOCK)
    assert seek(client, end - 1, HOLE) == (False, end - 1)
    for offset in (end, end + 1, (1 << 64) - 1):
        for what in (DATA, HOLE):
            assert client.fails(*AT, ops.seek(offset, what)) == Status.NXIO
    assert client.fails(*AT, ops.seek(0, 2)) == Status.UNION_NOTSUPP


def test_the_end_of_a_full_file_is_its_hole(gate: Gateway, client: Client) -> None:
    put(gate, 0, b"x" * 100)
    assert seek(client, 5, HOLE) == (True, 100)


def test_allocate_is_about_the_size(gate: Gateway, client: Client) -> None:
    client.ok(*AT, ops.write(0, b"x" * 100))
    client.ok(*AT, ops.allocate(10, 20))
    assert inode(gate).size == 100
    client.ok(*AT, ops.allocate(0, 1 << 26))
    assert (inode(gate).size, inode(gate).blocks) == (1 << 26, 1)
    assert gate.waited[-1] == "durable"
    for offset, length, status in (
        (0, 0, Status.INVAL), ((1 << 64) - 1, 1, Status.INVAL), (1 << 63, 1 << 63, Status.INVAL),
        (1 << 50, 1, Status.FBIG),
    ):  # fmt: skip
        assert client.fails(*AT, ops.allocate(offset, length)) == status


def test_an_allocation_that_there_is_no_room_for_is_refused(gate: Gateway, client: Client) -> None:
    put(gate, 0, b"x" * 10 * BLOCK)
    gate.store.volume("lab").setattr(inode(gate).ino, mode=0o4777)
    before = inode(gate).change
    for offset in (0, 1 << 40):
        length = gate.store.space().free_bytes + (1 << 30)
        assert client.fails(*AT, ops.allocate(offset, length)) == Status.NOSPC
    gate.store.set_quota("lab", 16 * BLOCK)
    assert client.fails(*AT, ops.allocate(0, 16 * BLOCK + 1)) == Status.DQUOT
    assert client.fails(*AT, ops.allocate(1 << 40, 6 * BLOCK + 1)) == Status.DQUOT
    assert (inode(gate).size, inode(gate).change) == (10 * BLOCK, before)
    client.ok(*AT, ops.allocate(0, 16 * BLOCK))  # what is there already counts once
    client.ok(*AT, ops.allocate(1 << 40, 6 * BLOCK))
    assert inode(gate).blocks == 10


def test_deallocate(gate: Gateway, client: Client) -> None:
    client.ok(*AT, ops.write(0, b"x" * (8 * BLOCK)))
    client.ok(*AT, ops.deallocate(BLOCK - 5, 2 * BLOCK + 10))
    assert content(gate) == b"x" * (BLOCK - 5) + bytes(2 * BLOCK + 10) + b"x" * (5 * BLOCK - 5)
    assert inode(gate).blocks == 6
    before = inode(gate).change
    client.ok(*AT, ops.deallocate(8 * BLOCK, 1 << 60))
    assert (inode(gate).size, inode(gate).change) == (8 * BLOCK, before)
    client.ok(*AT, ops.deallocate(0, (1 << 64) - 1))
    assert (inode(gate).size, inode(gate).blocks) == (8 * BLOCK, 0)
    assert gate.waited[-1] == "durable"
    for offset, length in ((0, 0), ((1 << 64) - 1, 1), (1 << 63, 1 << 63)):
        assert client.fails(*AT, ops.deallocate(offset, length)) == Status.INVAL


def segments(client: Client, offset: int, count: int) -> tuple[bool, list[tuple[int, int, object]]]:
    result = client.ok(*AT, ops.read_plus(offset, count)).last()
    ended, found = result.boolean(), []
    for _ in range(result.u32()):
        kind, at = result.u32(), result.u64()
        found.append((kind, at, result.u64() if kind else bytes(result.opaque(1 << 21))))
    result.end()
    return ended, found


def test_read_plus(gate: Gateway, client: Client) -> None:
    put(gate, BLOCK, b"x" * BLOCK)
    put(gate, 5 * BLOCK, b"y" * 10)
    client.ok(*AT, ops.setattr_({Attr.SIZE: u64(9 * BLOCK)}))
    assert segments(client, 0, 1 << 20) == (
        True,
        [
            (HOLE, 0, BLOCK), (DATA, BLOCK, b"x" * BLOCK), (HOLE, 2 * BLOCK, 3 * BLOCK),
            (DATA, 5 * BLOCK, b"y" * 10 + bytes(BLOCK - 10)), (HOLE, 6 * BLOCK, 3 * BLOCK),
        ],
    )  # fmt: skip
    assert segments(client, 2 * BLOCK - 2, 4) == (
        False, [(DATA, 2 * BLOCK - 2, b"xx"), (HOLE, 2 * BLOCK, 2)],
    )  # fmt: skip
    assert segments(client, 9 * BLOCK, 10) == (True, [])
    assert segments(client, 0, 0) == (False, [])


def test_io_advise_says_that_nothing_comes_of_it(client: Client) -> None:
    result = client.ok(*AT, ops.io_advise(0, 0, 0xFFFF)).last()
    assert ops.read_bitmap(result) == []


@pytest.mark.parametrize(
    "number", [Op.WRITE_SAME, Op.COPY_NOTIFY, Op.OFFLOAD_CANCEL, Op.OFFLOAD_STATUS]
)
def test_what_is_not_there(client: Client, number: int) -> None:
    assert client.fails(*AT, u32(number) + opaque(bytes(64))) == Status.NOTSUPP


@pytest.mark.parametrize("number", range(Op.ALLOCATE, Op.CLONE + 1))
def test_version_4_1_has_no_operations_of_4_2(gate: Gateway, number: int) -> None:
    client = Client(gate, minor=1)
    assert client.call(*AT, u32(number)).status == Status.OP_ILLEGAL


# --- while a call waits


def test_rights_that_change_while_a_call_waits(gate: Gateway, client: Client) -> None:
    before = gate.exports.all()
    rules = (Rule(ipaddress.ip_network("127.0.0.0/8"), Right.READ),)
    only_read = [dataclasses.replace(each, rules=rules) for each in before]
    for after, status in (([], Status.STALE), (only_read, Status.DELAY)):
        for call in (ops.write(0, b"x"), ops.allocate(0, 9), ops.setattr_({Attr.SIZE: u64(5)})):
            gate.exports.replace(before, gate.exports.changed_ns + 1)
            gate.full = True
            gate.between = lambda after=after: gate.exports.replace(  # type: ignore[misc]
                after, gate.exports.changed_ns + 1
            )
            assert client.fails(*AT, call) == status
            gate.between = lambda: None
    assert client.fails(*AT, ops.write(0, b"x")) == Status.ROFS  # asked again
    assert client.attributes("/lab/disk", Attr.SIZE) == {Attr.SIZE: 0}


def test_a_link_to_what_was_restored_while_it_waits(gate: Gateway, client: Client) -> None:
    lab = gate.store.volume("lab")
    gate.store.create_snapshot(lab, "s")
    gate.full = True
    gate.between = lambda: gate.store.restore(lab, "s", force=True)
    assert client.fails(*AT, ops.save_fh(), *ops.walk("/lab"), ops.link(b"new")) == Status.STALE
    assert lab.entry(ROOT_INO, b"new") is None


def test_a_compound_lets_others_have_their_turn(gate: Gateway, client: Client) -> None:
    turns: list[int] = []
    gate.between = lambda: turns.append(1)
    client.ok(*AT, *[ops.get_fh()] * 20)
    assert turns == []
    gate.state.limits = Limits(turn_s=0)
    client.ok(*AT, *[ops.get_fh()] * 20)
    assert len(turns) == len(AT) + 19
