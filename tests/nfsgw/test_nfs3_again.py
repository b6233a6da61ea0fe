"""READ, the second time: answered the short way, and as the long way would answer it then."""

import struct
from collections.abc import Callable, Iterator

import pytest
from exported import RULES, WRITE_HOST, Exported
from nfs3_client import ACCES, IO, NFS, STALE, Nfs3Client, Users, failed

from engine import ROOT_INO, Inode
from nfsgw.exports import Export
from nfsgw.nfs3 import again

READ = 6
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


def arguments(handle: bytes, offset: int, count: int) -> bytes:
    return struct.pack(">I", len(handle)) + handle + struct.pack(">QI", offset, count)


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
        longer = answer(root, arguments(handle, offset, count) + b"more")
        assert long_ways == [handle]
        root.read(handle, 0, 1)
        del long_ways[:]
        assert answer(root, arguments(handle, offset, count)) == longer
        assert (not long_ways) == (min(count, size - offset) < again.LARGE_BYTES)


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
