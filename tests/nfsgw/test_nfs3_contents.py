"""READ, WRITE, COMMIT, and the write verifier."""

import random
import struct
from pathlib import Path

import pytest
from exported import Exported, exported
from nfs3_client import (
    ACCES,
    DATA_SYNC,
    FBIG,
    FIFO,
    FILE_SYNC,
    INVAL,
    IO,
    ISDIR,
    NFS,
    UNSTABLE,
    Nfs3Client,
    Users,
    failed,
)
from rpc_client import RpcError, call_record, marked

from engine.inode import FILE_BYTES_MAX

IO_MAX = 1 << 20
READ, WRITE = 6, 7


def test_what_was_written_is_read(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    data = random.Random(1).randbytes(300_001)
    written = root.write(handle, 12_345, data)
    assert (written.count, written.committed) == (len(data), UNSTABLE)
    assert written.wcc.before.size == 0
    assert written.wcc.after == root.getattr(handle)
    assert root.read(handle, 0, IO_MAX) == (bytes(12_345) + data, True)
    assert root.read(handle, 12_345, 7) == (data[:7], False)
    for count in (1, 2, 3, 4, 5):
        assert root.read(handle, 12_345 + 4096, count) == (data[4096 : 4096 + count], False)


def test_end_of_file(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    assert root.read(handle, 0, 100) == (b"", True)
    root.write(handle, 0, b"0123456789")
    assert root.read(handle, 0, 10) == (b"0123456789", True)
    assert root.read(handle, 0, 9) == (b"012345678", False)
    assert root.read(handle, 9, 0) == (b"", False)
    for offset in (10, 11, 1 << 50, 1 << 63, (1 << 64) - 1):
        assert root.read(handle, offset, (1 << 32) - 1) == (b"", True)


def test_a_read_gives_no_more_than_it_says_it_does(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f", size=10 << 20).handle
    data, eof = root.read(handle, 0, (1 << 32) - 1)
    assert (len(data), eof) == (root.fsinfo(top)[0], False)


def test_a_sparse_file_of_a_pebibyte_is_read_anywhere(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f", size=FILE_BYTES_MAX).handle
    root.write(handle, FILE_BYTES_MAX - 4096, b"end" + bytes(4093))
    assert root.read(handle, 1 << 49, IO_MAX) == (bytes(IO_MAX), False)
    assert root.read(handle, FILE_BYTES_MAX - 4096, 4096) == (b"end" + bytes(4093), True)


def test_holes_are_zeroes_also_after_others_were_read(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f", size=8 << 20).handle
    root.write(handle, 1 << 20, b"x" * IO_MAX)
    for size in (65_536, 100_001, IO_MAX):
        for _ in range(3):
            assert root.read(handle, 1 << 20, size)[0] == b"x" * size
            assert root.read(handle, 4 << 20, size)[0] == bytes(size)
            mixed = root.read(handle, (2 << 20) - size // 2, size)[0]
            assert mixed == b"x" * (size // 2) + bytes(size - size // 2)


@pytest.mark.parametrize("stable", [UNSTABLE, DATA_SYNC, FILE_SYNC])
def test_written_zeroes_are_holes(root: Nfs3Client, top: bytes, stable: int) -> None:
    handle = root.create(top, b"f").handle
    assert root.write(handle, 0, bytes(IO_MAX), stable).wcc.after.used == 0
    root.write(handle, 0, b"x" * 65_536)
    assert root.getattr(handle).used == 65_536
    found = root.write(handle, 4096, bytes(65_536 - 4096), stable).wcc.after
    assert (found.used, found.size) == (4096, IO_MAX)
    assert root.read(handle, 0, 8192) == (b"x" * 4096 + bytes(4096), False)


def test_only_what_is_promised_waits_for_the_disk(
    world: Exported, root: Nfs3Client, top: bytes
) -> None:
    handle = root.create(top, b"f").handle
    waits = world.durable_waits
    root.write(handle, 0, b"a" * 100)
    assert world.durable_waits == waits
    for stable in (DATA_SYNC, FILE_SYNC):
        waits += 1
        assert root.write(handle, 0, b"b" * 100, stable).committed == FILE_SYNC
        assert world.durable_waits == waits
    root.commit(handle)
    assert world.durable_waits == waits + 1


def test_calls_that_come_together_wait_for_the_disk_together(
    world: Exported, root: Nfs3Client, top: bytes
) -> None:
    handle = root.create(top, b"f").handle
    waits, rpc = world.durable_waits, root.rpc
    stable = [FILE_SYNC, UNSTABLE, FILE_SYNC, FILE_SYNC]
    calls = [
        call_record(
            1000 + at, NFS, 3, 7,
            b"".join(root.write_arguments(handle, at, b"%d" % at, each).parts), rpc.credential,
        )
        for at, each in enumerate(stable)
    ]  # fmt: skip
    rpc.socket.sendall(b"".join(map(marked, calls)))
    for at in range(4):
        reply = rpc.receive(1000 + at)
        assert reply.u32() == 0
        assert root.written(reply).count == 1
    # One wait for three; two where the host stops us for longer than a turn may take.
    assert waits < world.durable_waits < waits + 3
    assert root.read(handle, 0, 4) == (b"0123", True)


def test_each_change_of_names_and_attributes_is_on_disk_before_its_answer(
    world: Exported, root: Nfs3Client, top: bytes
) -> None:
    handle = root.create(top, b"f").handle
    for change in (
        lambda: root.create(top, b"g"), lambda: root.create(top, b"g"),
        lambda: root.create(top, b"e", exclusive=5), lambda: root.create(top, b"e", exclusive=5),
        lambda: root.mkdir(top, b"d"), lambda: root.symlink(top, b"l", b"x"),
        lambda: root.mknod(top, b"p", FIFO), lambda: root.link(handle, top, b"h"),
        lambda: root.rename(top, b"h", top, b"i"), lambda: root.remove(top, b"i"),
        lambda: root.rmdir(top, b"d"), lambda: root.setattr(handle, mode=0o600),
    ):  # fmt: skip
        waits = world.durable_waits
        change()
        assert world.durable_waits == waits + 1


def test_what_is_no_regular_file_has_no_contents(root: Nfs3Client, top: bytes) -> None:
    link = root.symlink(top, b"l", b"x").handle
    fifo = root.mknod(top, b"p", FIFO).handle
    for handle, status in ((top, ISDIR), (link, INVAL), (fifo, INVAL)):
        for call in (
            lambda h: root.read(h, 0, 1), lambda h: root.write(h, 0, b"x"), root.commit,
        ):  # fmt: skip
            with failed(status) as caught:
                call(handle)
            (told,) = caught.value.tells
            assert getattr(told, "after", told) == root.getattr(handle)


def test_writes_past_the_largest_file_are_refused(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    for offset in (FILE_BYTES_MAX, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        with failed(FBIG):
            root.write(handle, offset, b"x")
    assert root.write(handle, FILE_BYTES_MAX - 1, b"x").wcc.after.size == FILE_BYTES_MAX
    assert root.write(handle, 5, b"").count == 0


def test_a_write_that_lies_about_its_length_is_garbage(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    head = struct.pack(">I", len(handle)) + handle
    for count, stable, length in ((5, 0, 4), (4, 3, 4), (4, 0, 1 << 31), (4, 0, (1 << 32) - 1)):
        with pytest.raises(RpcError, match="accepted 4"):
            root.rpc.call(
                NFS, 3, WRITE, head + struct.pack(">QIII", 0, count, stable, length) + b"abcd"
            )
    more = head + struct.pack(">QIII", 0, 2, 0, 4) + b"abcd"
    assert root.written(root.result(root.rpc.call(NFS, 3, WRITE, more))).count == 2
    assert root.read(handle, 0, 10) == (b"ab", True)


def test_rights_are_looked_at_anew_for_each_call(root: Nfs3Client, user: Users, top: bytes) -> None:
    handle = root.create(top, b"f", mode=0o600, uid=1000).handle
    owner, other = user(1000, 1000), user(1001, 1001)
    owner.write(handle, 0, b"mine")
    for call in (
        lambda: other.read(handle, 0, 1), lambda: other.write(handle, 0, b"x"),
        lambda: other.commit(handle),
    ):  # fmt: skip
        with failed(ACCES):
            call()
    root.setattr(handle, mode=0o604)
    assert other.read(handle, 0, 10) == (b"mine", True)
    other.commit(handle)
    with failed(ACCES):
        other.write(handle, 0, b"x")
    root.setattr(handle, mode=0o400)
    owner.write(handle, 0, b"still")  # it has the file open, for all we know
    root.setattr(handle, mode=0o000)
    assert owner.read(handle, 0, 10) == (b"still", True)
    with failed(ACCES):
        other.read(handle, 0, 1)


def test_many_calls_in_flight_end_in_any_order(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    blocks = [bytes([each]) * 4096 for each in range(1, 41)]
    sent = [
        root.rpc.send(
            NFS, 3, WRITE,
            root.write_arguments(handle, number * 4096, block, FILE_SYNC if number % 3 else 0),
        )
        for number, block in enumerate(blocks)
    ]  # fmt: skip
    for xid in reversed(sent):
        assert root.written(root.result(root.rpc.receive(xid))).count == 4096
    assert root.read(handle, 0, IO_MAX)[0] == b"".join(blocks)


# --- the write verifier


def test_the_verifier_stays_while_nothing_is_lost(root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    first = root.write(handle, 0, b"x").verifier
    with failed(FBIG):
        root.write(handle, FILE_BYTES_MAX, b"x")
    assert {
        first, root.write(handle, 0, b"y", FILE_SYNC).verifier, root.commit(handle)[1],
        root.write(handle, 0, b"z").verifier,
    } == {first}  # fmt: skip


def test_a_restore_changes_the_verifier_and_keeps_the_handles(
    world: Exported, root: Nfs3Client, top: bytes
) -> None:
    handle = root.create(top, b"f").handle
    root.write(handle, 0, b"old")
    world.do(lambda: world.store.create_snapshot(world.lab, "before"))
    newer = root.create(top, b"g").handle
    first = root.write(handle, 0, b"new").verifier
    world.do(lambda: world.store.restore(world.lab, "before"))
    assert root.commit(handle)[1] != first
    assert root.read(handle, 0, 10) == (b"old", True)
    with failed(70):
        root.getattr(newer)


def test_each_start_has_its_own_verifier(tmp_path: Path) -> None:
    found = set()
    for each in ("a", "b"):
        (tmp_path / each).mkdir()
        with exported(tmp_path / each) as world:
            client = Nfs3Client(world.address, uid=0)
            found.add(client.commit(client.create(client.mount(b"/lab"), b"f").handle)[1])
            client.close()
    assert len(found) == 2


def test_a_failed_commit_is_an_error_and_changes_the_verifier(tmp_path: Path) -> None:
    with exported(tmp_path) as world:
        client = Nfs3Client(world.address, uid=0)
        top = client.mount(b"/lab")
        handle = client.create(top, b"f", mode=0o600).handle
        first = world.do(world.files.verifier.current)
        client.write(handle, 0, b"x")
        world.do(lambda: world.store.fail("its disk is gone"))
        for change in (
            lambda: client.commit(handle), lambda: client.write(handle, 0, b"y"),
            lambda: client.write(handle, 0, b"y", FILE_SYNC), lambda: client.mkdir(top, b"d"),
            lambda: client.setattr(handle, mode=0o644),
        ):  # fmt: skip
            with failed(IO):
                change()
        assert world.do(world.files.verifier.current) != first
        assert client.read(handle, 0, 10) == (b"x", True)
        client.close()
