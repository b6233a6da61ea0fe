"""CLONE and COPY."""

import dataclasses
import ipaddress
from collections.abc import Callable, Iterator

import nfs4_ops as ops
import pytest
from nfs4_direct import Client, Gateway, gateway
from nfs4_ops import opaque, u32, u64

from engine import ROOT_INO, long_clones
from nfsgw import contents
from nfsgw.exports import Right, Rule
from nfsgw.v4.fattr import Attr
from nfsgw.v4.protocol import Op, Status

BLOCK = 4096
SOURCE, TARGET = "/lab/source", "/lab/target"


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("nfs4") / "store", fanout=4, records_max=8) as made:
        yield made


def pattern(size: int, first: int = 1) -> bytes:
    blocks = -(-size // BLOCK)
    return b"".join(b"%06d" % (first + n) + bytes([65 + n % 26]) * 4090 for n in range(blocks))[
        :size
    ]


def make(gate: Gateway, path: str, data: bytes) -> None:
    name, _, file = path[1:].partition("/")
    volume = gate.store.volume(name)
    volume.write(volume.create(ROOT_INO, file.encode(), 0o644, 1000, 100).ino, 0, data)


def content(gate: Gateway, path: str) -> bytes:
    name, _, file = path[1:].partition("/")
    volume = gate.store.volume(name)
    return volume.read(volume.resolve("/" + file).ino, 0, 1 << 30)


def both(source: str = SOURCE, target: str = TARGET) -> list[bytes]:
    return [*ops.walk(source), ops.save_fh(), *ops.walk(target)]


def copied(client: Client, *operations: bytes) -> int:
    """The bytes; a COPY is over and on disk when it is answered."""
    result = client.ok(*operations).last()
    assert result.u32() == 0
    count = result.u64()
    assert result.u32() == ops.FILE_SYNC
    assert bytes(result.fixed(8)) == client.gateway.files.verifier.current()
    assert (result.boolean(), result.boolean()) == (True, True)
    result.end()
    return count


# --- CLONE


def test_a_whole_file(gate: Gateway, client: Client) -> None:
    data = pattern(40 * BLOCK + 77)
    make(gate, SOURCE, data)
    make(gate, TARGET, b"")
    slots = gate.store.pool.core.allocated_slots
    gate.waited.clear()
    client.ok(*both(), ops.clone(0, 0, 0))
    assert gate.waited == ["durable"]
    assert content(gate, TARGET) == data
    assert gate.store.pool.core.allocated_slots == slots
    used = client.attributes(TARGET, Attr.SIZE, Attr.SPACE_USED)
    assert used == {Attr.SIZE: len(data), Attr.SPACE_USED: 41 * BLOCK}


@pytest.mark.parametrize("offset", [0, 3, 4, 16])
@pytest.mark.parametrize("target_offset", [0, 1, 4, 64])
def test_a_range(gate: Gateway, client: Client, offset: int, target_offset: int) -> None:
    data, past = pattern(50 * BLOCK), pattern(30 * BLOCK, 900)
    make(gate, SOURCE, data)
    make(gate, TARGET, past)
    client.ok(*both(), ops.clone(offset * BLOCK, target_offset * BLOCK, 20 * BLOCK))
    expected = bytearray(past.ljust((target_offset + 20) * BLOCK, b"\0"))
    expected[target_offset * BLOCK : (target_offset + 20) * BLOCK] = data[
        offset * BLOCK : (offset + 20) * BLOCK
    ]
    assert content(gate, TARGET) == expected
    client.ok(*both(SOURCE, SOURCE), ops.clone(0, 25 * BLOCK, 25 * BLOCK))
    assert content(gate, SOURCE) == data[: 25 * BLOCK] * 2


def test_what_the_source_ends_with_may_be_part_of_a_block(gate: Gateway, client: Client) -> None:
    data = pattern(10 * BLOCK + 5)
    make(gate, SOURCE, data)
    make(gate, TARGET, pattern(2 * BLOCK + 5, 900))
    client.ok(*both(), ops.clone(8 * BLOCK, 0, 2 * BLOCK + 5))  # both end there
    assert content(gate, TARGET) == data[8 * BLOCK :]
    client.ok(*both(), ops.clone(10 * BLOCK, 20 * BLOCK, 0))  # the target grows
    assert content(gate, TARGET)[20 * BLOCK :] == data[10 * BLOCK :]
    before = content(gate, TARGET)
    assert client.fails(*both(), ops.clone(10 * BLOCK, 0, 5)) == Status.INVAL  # what is behind?
    assert client.fails(*both(), ops.clone(10 * BLOCK, 19 * BLOCK, 0)) == Status.INVAL
    assert content(gate, TARGET) == before


@pytest.mark.parametrize(
    ("offset", "target_offset", "length"),
    [
        (1, 0, BLOCK), (0, 1, BLOCK), (0, 0, 1), (0, 0, BLOCK + 1), (100, 100, BLOCK),
        (0, 0, 11 * BLOCK), (10 * BLOCK, 0, BLOCK), (11 * BLOCK, 0, 0), (1 << 63, 0, 0),
        (BLOCK, 0, (1 << 64) - 1), (BLOCK, 0, (1 << 64) - BLOCK),
    ],
)  # fmt: skip
def test_what_is_no_clone(
    gate: Gateway, client: Client, offset: int, target_offset: int, length: int
) -> None:
    make(gate, SOURCE, pattern(10 * BLOCK))
    make(gate, TARGET, pattern(30 * BLOCK, 900))
    call = ops.clone(offset, target_offset, length)
    assert client.fails(*both(), call) == Status.INVAL
    assert content(gate, TARGET) == pattern(30 * BLOCK, 900)


def test_a_clone_of_nothing(gate: Gateway, client: Client) -> None:
    make(gate, SOURCE, pattern(BLOCK))
    make(gate, TARGET, b"here")
    client.ok(*both(), ops.clone(BLOCK, 0, 0))
    client.ok(*both(TARGET, TARGET), ops.clone(4, 0, 0))
    assert content(gate, TARGET) == b"here"


def test_ranges_of_one_file_do_not_overlap(gate: Gateway, client: Client) -> None:
    make(gate, SOURCE, pattern(10 * BLOCK))
    for offset, target_offset in ((0, 0), (0, 4), (4, 0)):
        call = ops.clone(offset * BLOCK, target_offset * BLOCK, 5 * BLOCK)
        assert client.fails(*both(SOURCE, SOURCE), call) == Status.INVAL
    client.ok(*both(SOURCE, SOURCE), ops.clone(0, 5 * BLOCK, 5 * BLOCK))
    assert content(gate, SOURCE) == pattern(5 * BLOCK) * 2


def test_from_another_export_and_from_a_snapshot(gate: Gateway, client: Client) -> None:
    data = pattern(9 * BLOCK)
    make(gate, SOURCE, data)
    make(gate, "/other/target", b"")
    client.ok(*both(SOURCE, "/other/target"), ops.clone(0, 0, 0))
    assert content(gate, "/other/target") == data
    gate.store.create_snapshot(gate.store.volume("lab"), "s")
    client.ok(*ops.walk(SOURCE), ops.write(0, b"later", ops.FILE_SYNC))
    client.ok(*both("/lab/.snapshots/s/source", SOURCE), ops.clone(0, 0, 0))
    assert content(gate, SOURCE) == data
    call = both(SOURCE, "/lab/.snapshots/s/source")
    assert client.fails(*call, ops.clone(0, 0, 0)) == Status.ROFS


def test_the_largest_file(gate: Gateway, client: Client) -> None:
    make(gate, SOURCE, pattern(BLOCK))
    make(gate, TARGET, b"")
    client.ok(*both(), ops.clone(0, (1 << 50) - BLOCK, BLOCK))
    assert client.attributes(TARGET, Attr.SIZE) == {Attr.SIZE: 1 << 50}
    for target_offset in (1 << 50, 1 << 60, (1 << 64) - BLOCK):
        assert client.fails(*both(), ops.clone(0, target_offset, BLOCK)) == Status.FBIG


def test_a_quota(gate: Gateway, client: Client) -> None:
    make(gate, SOURCE, pattern(10 * BLOCK))
    make(gate, "/other/target", b"")
    gate.store.set_quota("other", 9 * BLOCK)
    assert client.fails(*both(SOURCE, "/other/target"), ops.clone(0, 0, 0)) == Status.DQUOT
    assert content(gate, "/other/target") == b""
    client.ok(*both(SOURCE, "/other/target"), ops.clone(0, 0, 9 * BLOCK))


OPERATIONS = [ops.clone(0, 0, 0), ops.copy(0, 0, 0)]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_both_are_regular_files(gate: Gateway, client: Client, operation: bytes) -> None:
    make(gate, SOURCE, b"x")
    client.ok(*ops.walk("/lab"), ops.create(ops.LNK, b"link", target=b"source"))
    client.ok(*ops.walk("/lab"), ops.create(ops.FIFO, b"fifo"))
    for path, status in (
        ("/lab", Status.ISDIR), ("/lab/link", Status.SYMLINK), ("/lab/fifo", Status.WRONG_TYPE),
        ("/", Status.ISDIR),
    ):  # fmt: skip
        assert client.fails(*both(path, SOURCE), operation) == status
        assert client.fails(*both(SOURCE, path), operation) == status


@pytest.mark.parametrize("operation", OPERATIONS)
def test_who_may(gate: Gateway, client: Client, operation: bytes) -> None:
    make(gate, SOURCE, b"x" * 10)
    make(gate, TARGET, b"")
    lab = gate.store.volume("lab")
    source, target = (lab.resolve(f"/{name}").ino for name in ("source", "target"))
    user = Client(gate, uid=1001, owner=b"user")
    assert user.fails(*both(), operation) == Status.ACCESS  # may not write
    lab.setattr(target, mode=0o4646)
    lab.setattr(source, mode=0o600)
    assert user.fails(*both(), operation) == Status.ACCESS  # may not read
    lab.setattr(source, mode=0o604)
    user.ok(*both(), operation)
    assert lab.inode(target).mode & 0o7777 == 0o646
    rule = Rule(ipaddress.ip_network("127.0.0.0/8"), Right.READ)
    exports = gate.exports.all()
    gate.exports.replace([type(e)(e.id, e.path, e.volume_id, (rule,)) for e in exports], 10**10)
    assert client.fails(*both(), operation) == Status.ROFS
    assert content(gate, TARGET) == b"x" * 10


@pytest.mark.parametrize("operation", OPERATIONS)
def test_stateids_that_nobody_has(gate: Gateway, client: Client, operation: bytes) -> None:
    make(gate, SOURCE, b"x" * 10)
    make(gate, TARGET, b"")
    for wrong in (b"\0\0\0\1" + b"\7" * 12, ops.CURRENT):
        for at in (4, 20):
            forged = operation[:at] + wrong + operation[at + 16 :]
            assert client.fails(*both(), forged) == Status.BAD_STATEID
    assert content(gate, TARGET) == b""


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_stateids_of_the_files_that_were_just_opened(
    gate: Gateway, client: Client, operation: bytes
) -> None:
    def opened(access: int) -> bytes:
        owner = u64(0) + opaque(b"owner%d" % access)
        return u32(Op.OPEN, 0, access, 0) + owner + u32(0, 4)

    make(gate, SOURCE, b"x" * 10)
    make(gate, TARGET, b"")
    current = operation[:4] + ops.CURRENT * 2 + operation[36:]
    to_read, to_write = [*ops.walk(SOURCE), opened(1)], [*ops.walk(TARGET), opened(2)]
    client.ok(*to_read, ops.save_fh(), *to_write, current)
    assert content(gate, TARGET) == b"x" * 10
    assert client.fails(*to_read, ops.save_fh(), *ops.walk(TARGET), current) == Status.BAD_STATEID
    assert client.fails(*ops.walk(SOURCE), ops.save_fh(), *to_write, current) == Status.BAD_STATEID
    only_read = [*ops.walk(TARGET), u32(Op.OPEN, 0, 1, 0) + u64(0) + opaque(b"reader") + u32(0, 4)]
    assert client.fails(*to_read, ops.save_fh(), *only_read, current) == Status.OPENMODE


@pytest.mark.parametrize("operation", OPERATIONS)
def test_room_is_waited_for(gate: Gateway, client: Client, operation: bytes) -> None:
    make(gate, SOURCE, b"x" * 10)
    make(gate, TARGET, b"")
    gate.full = True
    gate.waited.clear()
    client.ok(*both(), operation)
    assert gate.waited == ["admit", "durable"]


def test_a_long_range_lets_others_have_their_turn_and_is_whole(
    gate: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_clones, "STEP_COST", 12)
    data = pattern(100 * BLOCK)
    make(gate, SOURCE, data)
    make(gate, TARGET, b"past")
    seen: list[bytes] = []
    gate.between = lambda: seen.append(content(gate, TARGET))
    client.ok(*both(), ops.clone(0, BLOCK, 0))
    assert len(seen) > 8
    assert set(seen[:-1]) == {b"past"}  # the last one is the wait for the disk
    assert content(gate, TARGET) == b"past".ljust(BLOCK, b"\0") + data
    gate.between = lambda: gate.store.volume("lab").unlink(ROOT_INO, b"target") if (
        gate.store.volume("lab").entry(ROOT_INO, b"target")) else None  # fmt: skip
    assert client.fails(*both(), ops.clone(0, BLOCK, 0)) == Status.STALE
    assert not gate.store.volume("lab").held


# --- COPY


@pytest.mark.parametrize(
    ("offset", "target_offset", "length"),
    [
        (0, 0, 0), (0, 0, 10 * BLOCK), (BLOCK, 3 * BLOCK, 7 * BLOCK), (5, 5, 9 * BLOCK),
        (5, 4096 * 2 + 5, 9 * BLOCK), (5, 6, 9 * BLOCK), (1, 0, 0), (0, 30_001, 17), (40_000, 0, 1),
        (0, 1 << 22, 5000),
    ],
)  # fmt: skip
def test_a_copy(
    gate: Gateway, client: Client, offset: int, target_offset: int, length: int
) -> None:
    data, past = pattern(10 * BLOCK + 99), pattern(8 * BLOCK + 3, 900)
    make(gate, SOURCE, data)
    make(gate, TARGET, past)
    count = length or len(data) - offset
    assert copied(client, *both(), ops.copy(offset, target_offset, length)) == count
    expected = bytearray(past)
    expected.extend(bytes(max(target_offset + count - len(past), 0)))
    expected[target_offset : target_offset + count] = data[offset : offset + count]
    assert content(gate, TARGET) == expected
    assert gate.waited[-1] == "durable"


def test_a_copy_shares_what_it_can(gate: Gateway, client: Client) -> None:
    make(gate, SOURCE, pattern(40 * BLOCK))
    make(gate, TARGET, b"")
    slots = gate.store.pool.core.allocated_slots
    assert copied(client, *both(), ops.copy(0, 0, 0)) == 40 * BLOCK
    assert gate.store.pool.core.allocated_slots == slots
    copied(client, *both(), ops.copy(5, 100 * BLOCK + 5, 30 * BLOCK))
    assert gate.store.pool.core.allocated_slots <= slots + 2


def test_a_copy_in_pieces(gate: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "SHARED_PIECE_BYTES", 3 * BLOCK)
    monkeypatch.setattr(contents, "COPIED_PIECE_BYTES", 2 * BLOCK)
    monkeypatch.setattr(contents, "COPY_CALL_BYTES_MAX", 9 * BLOCK)
    data = pattern(20 * BLOCK + 9)
    for target_offset, most in ((7, 10 * BLOCK), (5, len(data)), (BLOCK, 10 * BLOCK)):
        make(gate, SOURCE, data)
        make(gate, TARGET, b"")
        slots = gate.store.pool.core.allocated_slots
        done, turns = 5, 0
        while done < len(data):
            gate.waited.clear()
            count = copied(client, *both(), ops.copy(done, target_offset + done - 5, 0))
            assert 0 < count <= most
            done, turns = done + count, turns + 1
        assert content(gate, TARGET)[target_offset:] == data[5:]
        assert turns == (3 if most < len(data) else 1)
        if target_offset == 5:
            assert gate.store.pool.core.allocated_slots <= slots + 2
        client.ok(*ops.walk("/lab"), ops.remove(b"source"), ops.remove(b"target"))


def test_what_was_copied_before_an_error_counts(
    gate: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "COPIED_PIECE_BYTES", 2 * BLOCK)
    make(gate, SOURCE, pattern(20 * BLOCK))
    make(gate, "/other/target", b"")
    gate.store.set_quota("other", 5 * BLOCK)
    pair = both(SOURCE, "/other/target")
    done = copied(client, *pair, ops.copy(1, 0, 0))
    assert 2 * BLOCK <= done <= 5 * BLOCK
    assert content(gate, "/other/target") == pattern(20 * BLOCK)[1 : 1 + done]
    assert client.fails(*pair, ops.copy(1 + done, done, 0)) == Status.DQUOT


def test_a_copy_that_takes_long_ends_early(
    gate: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client asks for the rest; 1 PiB of holes would be one call of minutes."""
    monkeypatch.setattr(contents, "COPY_CALL_S", 0.0)
    make(gate, SOURCE, b"x")
    make(gate, TARGET, b"")
    lab = gate.store.volume("lab")
    lab.setattr(lab.lookup(ROOT_INO, b"source").ino, size=1 << 50)
    count = copied(client, *both(), ops.copy(0, 0, 0))
    assert 0 < count < 1 << 50


def test_what_is_no_copy(gate: Gateway, client: Client) -> None:
    make(gate, SOURCE, pattern(10 * BLOCK))
    make(gate, TARGET, b"")
    for offset, length in (
        (10 * BLOCK + 1, 0),
        (0, 10 * BLOCK + 1),
        (1 << 63, 1 << 63),
        (9, 1 << 63),
    ):
        assert client.fails(*both(), ops.copy(offset, 0, length)) == Status.INVAL
    assert client.fails(*both(), ops.copy(0, 1 << 50, 1)) == Status.FBIG
    one = both(SOURCE, SOURCE)
    assert client.fails(*one, ops.copy(0, 5, 6)) == Status.INVAL
    assert copied(client, *one, ops.copy(0, 5, 5)) == 5
    assert content(gate, TARGET) == b""


def test_a_source_that_is_elsewhere_is_left_to_the_client(gate: Gateway, client: Client) -> None:
    make(gate, SOURCE, b"x")
    make(gate, TARGET, b"")
    for server in (
        u32(1) + opaque(b"host"), u32(2) + opaque(b"nfs://host"),
        u32(3) + opaque(b"tcp") + opaque(b"192.0.2.1.8.1"),
    ):  # fmt: skip
        call = ops.copy(0, 0, 0, servers=u32(1) + server)
        assert client.fails(*both(), call) == Status.OFFLOAD_DENIED
    assert client.fails(*both(), ops.copy(0, 0, 0, servers=u32(1, 9))) == Status.BADXDR
    assert content(gate, TARGET) == b""


def test_a_copy_that_need_not_be_synchronous_is_all_the_same(gate: Gateway, client: Client) -> None:
    make(gate, SOURCE, b"x")
    make(gate, TARGET, b"")
    assert copied(client, *both(), ops.copy(0, 0, 0, synchronous=False)) == 1


# --- what happens while one goes on


def in_pieces(gate: Gateway, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A copy of 20 blocks in 7 pieces, whose target is in a snapshot as it is before."""
    monkeypatch.setattr(contents, "SHARED_PIECE_BYTES", 3 * BLOCK)
    make(gate, SOURCE, pattern(20 * BLOCK))
    make(gate, TARGET, b"past" * 5 * 4096)
    gate.store.create_snapshot(gate.store.volume("lab"), "s")
    return [*both(), ops.copy(0, 0, 0)]


def after_two_turns(gate: Gateway, done: Callable[[], object]) -> None:
    turns = iter([lambda: None, done])

    def between() -> None:
        next(turns, lambda: None)()

    gate.between = between


def test_a_copy_goes_no_further_when_the_volume_is_restored(
    gate: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, lab = in_pieces(gate, monkeypatch), gate.store.volume("lab")
    after_two_turns(gate, lambda: gate.store.restore(lab, "s", force=True))
    assert client.fails(*copy) == Status.STALE  # what was copied is gone, too
    assert content(gate, TARGET) == b"past" * 5 * 4096


def test_a_copy_goes_no_further_than_the_exports_let_it(
    gate: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = in_pieces(gate, monkeypatch)
    before = gate.exports.all()
    rules = (Rule(ipaddress.ip_network("127.0.0.0/8"), Right.READ),)
    after = [dataclasses.replace(each, rules=rules) for each in before]
    after_two_turns(gate, lambda: gate.exports.replace(after, gate.exports.changed_ns + 1))
    assert copied(client, *copy) == 6 * BLOCK
    assert client.fails(*copy) == Status.ROFS
    gate.exports.replace(before, gate.exports.changed_ns + 1)
    after_two_turns(gate, lambda: gate.exports.replace([], gate.exports.changed_ns + 1))
    assert client.fails(*copy) == Status.STALE


def test_other_exports_may_change_while_a_file_is_cloned(
    gate: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_clones, "STEP_COST", 8)
    make(gate, SOURCE, pattern(200 * BLOCK))
    make(gate, TARGET, b"")
    others = [each for each in gate.exports.all() if each.name != "other"]
    after_two_turns(gate, lambda: gate.exports.replace(others, gate.exports.changed_ns + 1))
    client.ok(*both(), ops.clone(0, BLOCK, 0))
    assert content(gate, TARGET) == bytes(BLOCK) + pattern(200 * BLOCK)
