"""READ, the second time: answered the short way, and as the long way would answer it then."""

import os
import stat
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from exported import RULES, WRITE_HOST, Exported
from nfs3_client import ACCES, IO, NFS, STALE, Nfs3Client, Users, failed
from pipelined import (
    READ,
    WRITE,
    Sent,
    Steps,
    burst,
    call,
    long_way,
    read_arguments,
    write_arguments,
)
from rpc_client import marked

from engine import ROOT_INO, Inode, Volume
from nfsgw.access import Who
from nfsgw.exports import Export
from nfsgw.files import READ_BYTES_MAX, Place
from nfsgw.nfs3 import again
from nfsgw.nfs3.again import Known
from nfsgw.nfs3.attributes import post_op

DATA = bytes(range(251)) * 200


@pytest.fixture
def long_ways(world: Exported, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The handles of calls that went the long way."""
    handles: list[bytes] = []
    place = world.files.place

    def noted(call: object, raw: bytes) -> object:
        handles.append(raw)
        return place(call, raw)  # type: ignore[arg-type]

    monkeypatch.setattr(world.files, "place", noted)
    yield handles


def answer(client: Nfs3Client, arguments: bytes) -> bytes:
    """The results of a READ, as they came."""
    reply = client.rpc.call(NFS, 3, READ, arguments)
    return bytes(reply.data[reply.at :])


def test_the_short_way_answers_what_the_long_way_does(
    root: Nfs3Client, top: bytes, long_ways: list[bytes]
) -> None:
    handle = root.create(top, b"f").handle
    root.write(handle, 0, DATA)
    size = len(DATA)
    for offset, count in (
        (0, 4096), (1, 5), (4095, 8193), (size - 3, 4096), (size, 1), (size + 9, 9), (1 << 63, 1),
        (0, 0), (7, size), (0, 1 << 20), (0, 1 << 31),
    ):  # fmt: skip
        del long_ways[:]
        longer = answer(root, read_arguments(handle, offset, count) + b"more")
        assert long_ways == [handle]
        root.read(handle, 0, 1)
        del long_ways[:]
        assert answer(root, read_arguments(handle, offset, count)) == longer
        assert not long_ways


def test_an_answer_larger_than_a_step_goes_the_long_way(
    root: Nfs3Client, top: bytes, long_ways: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = 320 << 10
    monkeypatch.setattr(again, "READ_STEP_BYTES_MAX", step)
    handle = root.create(top, b"f").handle
    data = os.urandom(step)
    root.write(handle, 0, data)
    root.read(handle, 0, 1)
    most = step - 132 - 3
    for count in (most, most + 1, len(data)):
        del long_ways[:]
        assert root.read(handle, 0, count) == (data[:count], count == len(data))
        assert (not long_ways) == (count <= most)


def test_the_largest_read_there_can_be_goes_the_short_way(
    root: Nfs3Client, top: bytes, long_ways: list[bytes]
) -> None:
    handle = root.create(top, b"f").handle
    data = os.urandom(READ_BYTES_MAX)
    root.write(handle, 0, data)
    root.read(handle, 0, 1)
    del long_ways[:]
    assert root.read(handle, 0, READ_BYTES_MAX) == (data, True)
    assert not long_ways


def test_a_file_that_has_changed_is_read_as_it_is(
    root: Nfs3Client, top: bytes, long_ways: list[bytes]
) -> None:
    handle = root.create(top, b"f").handle
    for data in (b"one", b"two, and longer", b"3"):
        root.setattr(handle, size=0)
        root.write(handle, 0, data)
        root.read(handle, 0, 99)
        del long_ways[:]
        assert root.read(handle, 0, 99) == (data, True)
        assert not long_ways


TOLD = ["mode", "nlink", "uid", "gid", "size", "blocks", "atime_ns", "mtime_ns", "ctime_ns"]


@pytest.mark.parametrize("field", TOLD)
def test_attributes_are_told_as_they_are(field: str) -> None:
    """Also what never changes by itself, as long as the engine moves the ctime with it."""
    inode = Inode(5, stat.S_IFREG | 0o644, 1, 2, 10**18)
    volume = cast(Volume, SimpleNamespace(record=SimpleNamespace(id=3)))
    place = Place(Export(3, "/lab", 3, ()), Who(0, 0, frozenset(), True), volume, inode)
    known = Known(1, place)
    before = known.attributes()
    assert before == known.attributes() == post_op(place)
    setattr(inode, field, getattr(inode, field) + 1)
    assert before != known.attributes() == post_op(place)


def test_a_restored_file_is_read_as_it_was(world: Exported, root: Nfs3Client, top: bytes) -> None:
    handle = root.create(top, b"f").handle
    root.write(handle, 0, b"before")
    world.do(lambda: world.store.create_snapshot(world.lab, "then"))
    root.write(handle, 0, b"what was written after")
    for _ in range(2):
        root.read(handle, 0, 99)
    world.do(lambda: world.store.restore(world.lab, "then"))
    for _ in range(2):
        assert root.read(handle, 0, 99) == (b"before", True)


def removed(world: Exported, ino: int) -> None:
    world.lab.unlink(ROOT_INO, b"shared")


def shut(world: Exported, ino: int) -> None:
    world.lab.setattr(ino, mode=0)


def given_away(world: Exported, ino: int) -> None:
    world.lab.setattr(ino, uid=7, mode=0o600)


def not_exported(world: Exported, ino: int) -> None:
    world.exports.replace([], world.exports.changed_ns + 1)


def for_others(world: Exported, ino: int) -> None:
    table = [Export(each.id, each.path, each.volume_id, RULES[:1]) for each in world.exports.all()]
    world.exports.replace(table, world.exports.changed_ns + 1)


def damaged(world: Exported, ino: int) -> None:
    (extent,) = world.lab.extents(ino)
    slab, slot = divmod(extent.address, world.store.pool.superblock.slab_slots)
    with world.store.pool.slabs.file(slab).open("r+b") as file:
        file.seek(slot * 4096)
        file.write(b"damaged!")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (removed, STALE), (shut, ACCES), (given_away, ACCES), (not_exported, STALE),
        (for_others, ACCES), (damaged, IO),
    ],
)  # fmt: skip
def test_what_was_allowed_is_looked_at_each_time(
    world: Exported, user: Users, change: Callable[[Exported, int], None], status: int
) -> None:
    exports = world.exports.all()

    def make() -> Inode:
        inode = world.lab.create(ROOT_INO, b"shared", 0o640, 0, 1000)
        world.lab.write(inode.ino, 0, DATA[:4096])
        return inode

    inode = world.do(make)
    client = user(1000, 1000, host=WRITE_HOST)
    handle = client.lookup(client.mount(b"/lab"), b"shared")[0]
    for _ in range(3):
        assert client.read(handle, 0, 4096)[0] == DATA[:4096]
    world.do(lambda: change(world, inode.ino))
    try:
        for _ in range(2):
            with failed(status):
                client.read(handle, 0, 4096)
    finally:
        world.do(lambda: world.exports.replace(exports, world.exports.changed_ns + 1))
        if change is not removed:
            world.do(lambda: world.lab.unlink(ROOT_INO, b"shared"))


def test_each_user_of_a_connection_has_rights_of_its_own(
    world: Exported, user: Users, top: bytes, root: Nfs3Client
) -> None:
    handle = root.create(top, b"f", mode=0o600).handle
    root.write(handle, 0, DATA)
    nobody = user(5, 5)
    ours, theirs = root.rpc.credential, nobody.rpc.credential
    for _ in range(3):
        assert root.read(handle, 0, 9)[0] == DATA[:9]
        root.rpc.credential = theirs
        with failed(ACCES):
            root.read(handle, 0, 9)
        root.rpc.credential = ours


def test_few_files_of_a_connection_are_remembered(
    root: Nfs3Client, top: bytes, long_ways: list[bytes]
) -> None:
    handles = [root.create(top, b"%d" % n).handle for n in range(again.KNOWN_MAX + 1)]
    for handle in handles:
        root.read(handle, 0, 1)
    del long_ways[:]
    root.read(handles[-1], 0, 1)
    assert not long_ways
    root.read(handles[0], 0, 1)
    assert long_ways == [handles[0]]


# --- many at once


def pieces(size: int) -> list[tuple[int, int]]:
    """Offsets and counts of all kinds."""
    return [
        (0, 4096), (4096, 4096), (1, 5), (2, 6), (3, 7), (4095, 8193), (0, 0), (size - 3, 4096),
        (size, 1), (size + 9, 9), (1 << 63, 1), ((1 << 64) - 1, 9), (7, 1), (size - 1, 1),
        (0, 1), (12_288, 333),
    ]  # fmt: skip


def told_as_the_long_way(world: Exported, client: Nfs3Client, calls: list[Sent]) -> list[bytes]:
    """The answers to a burst, which are those of the long way, one at a time."""
    with long_way():
        longer = [burst(world, client.rpc, [each])[0] for each in calls]
    found = burst(world, client.rpc, calls)
    assert found == longer
    return found


def test_reads_that_follow_each_other_are_one_step(
    world: Exported, root: Nfs3Client, top: bytes, steps: Steps
) -> None:
    handle = root.create(top, b"f").handle
    root.write(handle, 0, DATA)
    root.read(handle, 0, 1)
    asked = pieces(len(DATA))
    calls = [call(root.rpc, READ, read_arguments(handle, *each)) for each in asked]
    del steps.taken[:]
    told_as_the_long_way(world, root, calls)
    assert steps.of_these() == [0] * len(asked) + [len(asked)]


def test_reads_of_holes(world: Exported, root: Nfs3Client, top: bytes, steps: Steps) -> None:
    handle = root.create(top, b"f", size=1 << 30).handle
    root.write(handle, 1 << 20, DATA)
    root.read(handle, 0, 1)
    asked = [(0, 4099), ((1 << 20) - 5, 4096), ((1 << 20) + len(DATA) - 9, 99), ((1 << 30) - 2, 9)]
    calls = [call(root.rpc, READ, read_arguments(handle, *each)) for each in asked]
    del steps.taken[:]
    told_as_the_long_way(world, root, calls)
    assert steps.of_these() == [0] * len(asked) + [len(asked)]


def test_a_step_has_a_bound(world: Exported, root: Nfs3Client, top: bytes, steps: Steps) -> None:
    handle = root.create(top, b"f").handle
    root.write(handle, 0, DATA)
    root.read(handle, 0, 1)
    whole = 32 << 10
    most = (again.READ_STEP_BYTES_MAX - 3) // (whole + 132)
    del steps.taken[:]
    calls = [call(root.rpc, READ, read_arguments(handle, n, whole)) for n in range(most + 2)]
    told_as_the_long_way(world, root, calls)
    assert steps.of_these() == [0] * len(calls) + [most, 2]
    many = again.CALLS_MAX + 3
    calls = [call(root.rpc, READ, read_arguments(handle, n, 1)) for n in range(many)]
    told_as_the_long_way(world, root, calls)
    assert steps.of_these() == [0] * many + [again.CALLS_MAX, 3]


def test_two_files_and_two_users_and_other_calls_alternate(
    world: Exported, user: Users, root: Nfs3Client, top: bytes, steps: Steps
) -> None:
    handles = [root.create(top, b"%d" % n, mode=0o644).handle for n in range(2)]
    for n, handle in enumerate(handles):
        root.write(handle, 0, DATA[n:])
    other = user(7, 7).rpc.credential
    for credential in (root.rpc.credential, other):
        for handle in handles:
            burst(
                world,
                root.rpc,
                [call(root.rpc, READ, read_arguments(handle, 0, 1), credential=credential)],
            )

    def reads(number: int, credential: bytes | None, count: int = 1) -> list[Sent]:
        return [
            call(
                root.rpc, READ, read_arguments(handles[number], 1001 * n, 501 + n),
                credential=credential,
            )
            for n in range(count)
        ]  # fmt: skip

    getattr3 = call(root.rpc, 1, struct.pack(">I", len(handles[0])) + handles[0])
    calls = [
        *reads(0, None, 3), *reads(1, None), *reads(0, None), *reads(0, other, 2), *reads(1, other),
        getattr3, *reads(1, other, 2), *reads(1, None, 2),
    ]  # fmt: skip
    del steps.taken[:]
    told_as_the_long_way(world, root, calls)
    assert steps.of_these() == [0] * len(calls) + [3, 1, 1, 2, 1, 0, 2, 2]


def test_a_call_that_came_in_part_is_waited_for(
    world: Exported, root: Nfs3Client, top: bytes, steps: Steps
) -> None:
    handle = root.create(top, b"f").handle
    root.write(handle, 0, DATA)
    root.read(handle, 0, 1)
    calls = [call(root.rpc, READ, read_arguments(handle, n, 99)) for n in range(3)]
    stream = b"".join(marked(each.record) for each in calls)
    del steps.taken[:]
    with world.hosted.held():
        root.rpc.socket.sendall(stream[:-5])
    first = [root.rpc.record() for _ in range(2)]
    assert steps.of_these() == [2]
    root.rpc.socket.sendall(stream[-5:])
    found = [*first, root.rpc.record()]
    assert steps.of_these() == [1]
    with long_way():
        assert found == [burst(world, root.rpc, [each])[0] for each in calls]


def test_a_record_in_two_fragments_goes_the_long_way(
    world: Exported, root: Nfs3Client, top: bytes, steps: Steps
) -> None:
    handle = root.create(top, b"f").handle
    root.write(handle, 0, DATA)
    root.read(handle, 0, 1)
    calls = [call(root.rpc, READ, read_arguments(handle, n, 99)) for n in range(5)]
    stream = [marked(each.record) for each in calls]
    record = calls[2].record
    stream[2] = struct.pack(">I", 40) + record[:40] + marked(record[40:])
    del steps.taken[:]
    with world.hosted.held():
        root.rpc.socket.sendall(b"".join(stream))
    found = [root.rpc.record() for _ in calls]
    assert steps.of_these() == [2, 0, 2]
    with long_way():
        assert found == [burst(world, root.rpc, [each])[0] for each in calls]


@pytest.mark.parametrize("broken", [1, 4])
def test_a_bad_block_ends_a_step_and_is_told(
    world: Exported, root: Nfs3Client, top: bytes, steps: Steps, broken: int
) -> None:
    handle = root.create(top, b"f").handle
    root.write(handle, 0, os.urandom(6 * 4096))
    root.commit(handle)
    root.read(handle, 0, 1)
    ino = root.getattr(handle).fileid & ((1 << 40) - 1)

    def damage() -> None:
        slots = world.store.pool.superblock.slab_slots
        addresses = [e.address + n for e in world.lab.extents(ino) for n in range(e.count)]
        slab, slot = divmod(addresses[broken], slots)
        with world.store.pool.slabs.file(slab).open("r+b") as file:
            file.seek(slot * 4096)
            file.write(b"damaged!")

    world.do(damage)
    calls = [call(root.rpc, READ, read_arguments(handle, n * 4096, 4096)) for n in range(6)]
    del steps.taken[:]
    found = burst(world, root.rpc, calls)
    assert [int.from_bytes(each[24:28], "big") for each in found] == [
        IO if n == broken else 0 for n in range(6)
    ]
    assert steps.of_these() == [broken, 0, 5 - broken]
    world.do(lambda: world.lab.truncate(world.lab.inode(ino), 0))


def test_an_answer_that_waits_for_its_socket_stays_as_it_is(
    world: Exported, root: Nfs3Client, top: bytes
) -> None:
    """Answers of more than their socket takes, while others read and write the same file."""
    handle = root.create(top, b"f").handle
    root.write(handle, 0, DATA)
    busy = Nfs3Client(world.address, source="127.0.0.1")
    busy.read(handle, 0, 1)
    size = len(DATA) & ~3
    asked = 200
    busy.rpc.socket.sendall(
        b"".join(
            marked(call(busy.rpc, READ, read_arguments(handle, 0, size)).record)
            for _ in range(asked)
        )
    )
    versions = [DATA[:size]]
    for n in range(20):
        root.write(handle, 0, bytes([n]) * size)
        versions.append(bytes([n]) * size)
        for _ in range(4):
            root.read(handle, 0, size)
    for _ in range(asked):
        answer = busy.rpc.record()
        assert answer[128 : 128 + size] in versions
    busy.close()


@pytest.mark.parametrize("procedure", [READ, WRITE])
def test_a_call_cut_short_or_changed_is_answered_as_the_long_way_does(
    world: Exported, root: Nfs3Client, top: bytes, procedure: int
) -> None:
    """Each of its words, and where it ends."""
    handle = root.create(top, b"f").handle
    if procedure == READ:
        whole = call(root.rpc, READ, read_arguments(handle, 0, 9)).record
    else:
        whole = call(root.rpc, WRITE, write_arguments(handle, 0, DATA[9:18])).record
    changed = [whole[:end] for end in range(8, len(whole))]
    for at in range(8, len(whole), 4):
        changed += [whole[:at] + word + whole[at + 4 :] for word in (b"\xff" * 4, b"\0\0\0\1")]

    def answers(xid: int) -> tuple[list[tuple[bytes, int]], bytes]:
        """And what the file holds then."""
        root.setattr(handle, size=0)
        root.write(handle, 0, DATA[:9])
        root.read(handle, 0, 1)
        found = []
        for record in changed:
            if record[4:8] == bytes(4):  # no other is a call
                xid += 1
                root.rpc.socket.sendall(marked(xid.to_bytes(4, "big") + record[4:]))
                found.append(status(root.rpc.record()))
        return found, root.read(handle, 0, 99)[0]

    with long_way():
        longer = answers(0xA0000)
    assert answers(0xB0000) == longer
    assert len(set(longer[0])) > 3


def status(answer: bytes) -> tuple[bytes, int]:
    """What RPC and NFS say to a call, and how much more there is."""
    return answer[4:28], len(answer)


def test_a_volume_or_snapshot_that_is_gone_is_not_read(world: Exported, root: Nfs3Client) -> None:
    gone = world.do(lambda: world.store.create_volume("gone"))
    ino = world.do(lambda: gone.create(ROOT_INO, b"f", 0o644, 0, 0)).ino
    world.do(lambda: gone.write(ino, 0, DATA[:999]))
    world.do(lambda: world.store.create_snapshot(gone, "s"))
    world.do(lambda: world.export(world.lab, world.store.volume("other"), gone))
    top = root.mount(b"/gone")
    files = [root.walk(top, path) for path in (".snapshots/s/f", "f")]
    for file in files:
        for _ in range(3):
            assert root.read(file, 0, 2000)[0] == DATA[:999]
    world.do(lambda: world.store.remove_snapshot(gone, "s"))
    with failed(STALE):
        root.read(files[0], 0, 9)
    assert root.read(files[1], 0, 2000)[0] == DATA[:999]
    world.do(lambda: world.store.remove_volume("gone", force=True))
    with failed(STALE):
        root.read(files[1], 0, 9)
    world.do(lambda: world.export(world.lab, world.store.volume("other")))


def test_a_file_of_the_same_name_is_another(
    root: Nfs3Client, top: bytes, long_ways: list[bytes]
) -> None:
    for n in range(3):
        handle = root.create(top, b"f", guarded=True).handle
        root.write(handle, 0, b"%d" % n)
        for _ in range(2):
            assert root.read(handle, 0, 9)[0] == b"%d" % n
        root.remove(top, b"f")
        with failed(STALE):
            root.read(handle, 0, 9)
