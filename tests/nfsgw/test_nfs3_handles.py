"""Handles that are forged, damaged, of elsewhere or of the past, and exports that are none."""

import contextlib
import random
import struct
from collections.abc import Callable

import pytest
from exported import NO_HOST, WRITE_HOST, Exported
from hypothesis import given, settings
from hypothesis import strategies as st
from nfs3_client import (
    ACCES,
    BADHANDLE,
    DIR,
    FIFO,
    NFS,
    NOENT,
    PERM,
    ROFS,
    STALE,
    Nfs3Client,
    Users,
    failed,
)
from rpc_client import RpcError

from nfsgw.handles import HANDLE_BYTES, Handle, Handles, Kind


def calls_with(client: Nfs3Client, handle: bytes) -> tuple[Callable[[], object], ...]:
    """Every procedure that takes a handle, with this one."""
    return (
        lambda: client.getattr(handle), lambda: client.setattr(handle, mode=0o600),
        lambda: client.lookup(handle, b"f"), lambda: client.access(handle),
        lambda: client.readlink(handle), lambda: client.read(handle, 0, 1),
        lambda: client.write(handle, 0, b"x"), lambda: client.create(handle, b"n"),
        lambda: client.mkdir(handle, b"n"), lambda: client.symlink(handle, b"n", b"t"),
        lambda: client.mknod(handle, b"n", FIFO), lambda: client.remove(handle, b"f"),
        lambda: client.rmdir(handle, b"f"), lambda: client.rename(handle, b"f", handle, b"g"),
        lambda: client.link(handle, handle, b"n"), lambda: client.readdir(handle),
        lambda: client.readdirplus(handle), lambda: client.fsstat(handle),
        lambda: client.fsinfo(handle), lambda: client.pathconf(handle),
        lambda: client.commit(handle),
    )  # fmt: skip


def refused_everywhere(client: Nfs3Client, handle: bytes, status: int) -> None:
    for call in calls_with(client, handle):
        with failed(status) as caught:
            call()
        for told in caught.value.tells:
            assert told in (None, (None, None))


def test_each_flipped_bit_is_noticed(root: Nfs3Client, top: bytes) -> None:
    for bit in range(8 * len(top)):
        forged = bytearray(top)
        forged[bit // 8] ^= 1 << bit % 8
        with failed(BADHANDLE):
            root.getattr(bytes(forged))


def test_made_up_handles_are_refused_by_every_procedure(root: Nfs3Client, top: bytes) -> None:
    chance = random.Random(5)
    for handle in (
        b"", b"\0", bytes(HANDLE_BYTES), top[:-1], top + b"\0", bytes(64), chance.randbytes(48),
        Handles(bytes(32)).pack(Handle(Kind.INODE, 1, 1, 1, 1)),
    ):  # fmt: skip
        refused_everywhere(root, handle, BADHANDLE)


def test_a_longer_handle_than_there_can_be_is_garbage(root: Nfs3Client) -> None:
    for length in (65, 1000, 1 << 31, (1 << 32) - 1):
        with pytest.raises(RpcError, match="accepted 4"):
            root.rpc.call(NFS, 3, 1, struct.pack(">I", length) + bytes(68))


def test_what_is_gone_is_stale_for_every_procedure(root: Nfs3Client, top: bytes) -> None:
    handle = root.mkdir(top, b"d").handle
    root.rmdir(top, b"d")
    refused_everywhere(root, handle, STALE)


def test_a_handle_of_an_export_that_is_gone_is_stale_and_good_again_with_it(
    world: Exported, root: Nfs3Client, top: bytes
) -> None:
    other = world.store.volume("other")
    world.do(lambda: world.export(other))
    refused_everywhere(root, top, STALE)
    with failed(NOENT):
        root.mount(b"/lab")
    world.do(lambda: world.export(world.lab, other))
    assert root.getattr(top).type == DIR


def test_a_handle_is_no_use_in_another_export(
    world: Exported, root: Nfs3Client, top: bytes
) -> None:
    kind, _, volume, ino, generation = world.files.handles.unpack(top)
    other = world.store.volume("other").id
    forged = world.files.handles.pack(Handle(kind, other, volume, ino, generation))
    refused_everywhere(root, forged, BADHANDLE)


def test_nobody_gets_past_the_rules_of_an_export(user: Users, top: bytes) -> None:
    stranger = user(0, 0, host=NO_HOST)
    refused_everywhere(stranger, top, ACCES)
    assert stranger.exports() == {}
    with failed(ACCES):
        stranger.mount(b"/lab")
    stranger.null()


def test_rules_count_from_the_next_call_on(
    world: Exported, root: Nfs3Client, user: Users, top: bytes
) -> None:
    writer = user(0, 0, host=WRITE_HOST)
    writer.create(top, b"f")
    other = world.store.volume("other")
    world.do(lambda: world.export(other))
    with failed(STALE):
        writer.create(top, b"g")
    world.do(lambda: world.export(world.lab, other))
    writer.create(top, b"g")


def test_a_snapshot_is_read_only_for_root_too(
    world: Exported, root: Nfs3Client, top: bytes
) -> None:
    root.create(top, b"f", mode=0o666)
    root.mkdir(top, b"d")
    name = next(e.name for e in root.readdirplus(root.mount(b"/lab")).entries if e.handle == top)
    snapshot = world.do(lambda: world.store.create_snapshot(world.lab, "frozen"))
    every = [world.lab, world.store.volume("other")]
    world.do(lambda: world.export(*every, snapshot))
    frozen = root.mount(b"/lab@frozen")
    old = root.lookup(frozen, name)[0]
    handle = root.lookup(old, b"f")[0]
    for change in (
        lambda: root.setattr(handle, mode=0o600), lambda: root.write(handle, 0, b"x"),
        lambda: root.create(old, b"g"), lambda: root.mkdir(old, b"g"),
        lambda: root.symlink(old, b"g", b"x"), lambda: root.mknod(old, b"g", FIFO),
        lambda: root.remove(old, b"f"), lambda: root.rmdir(old, b"d"),
        lambda: root.rename(old, b"f", old, b"g"), lambda: root.link(handle, old, b"g"),
    ):  # fmt: skip
        with failed(ROFS):
            change()
    assert root.read(handle, 0, 1) == (b"", True)
    root.commit(handle)
    assert root.access(handle, 63) == 1
    assert root.lookup(frozen, b"..")[0] == frozen
    world.do(lambda: world.store.remove_snapshot(world.lab, "frozen"))
    refused_everywhere(root, handle, STALE)
    world.do(lambda: world.export(*every))


def test_the_list_of_snapshots_is_nobodys_to_change(root: Nfs3Client) -> None:
    snapshots = root.lookup(root.mount(b"/lab"), b".snapshots")[0]
    for change in (
        lambda: root.create(snapshots, b"x"), lambda: root.mkdir(snapshots, b"x"),
        lambda: root.setattr(snapshots, mode=0o777), lambda: root.remove(snapshots, b"x"),
        lambda: root.create(root.mount(b"/lab"), b".snapshots", guarded=True),
        lambda: root.rename(root.mount(b"/lab"), b".snapshots", snapshots, b"x"),
    ):  # fmt: skip
        with failed(ROFS):
            change()
    with failed(PERM):
        root.link(snapshots, root.mount(b"/lab"), b"x")
    with failed(21):
        root.read(snapshots, 0, 1)
    assert root.access(snapshots) == 3


WORDS = st.lists(st.integers(0, 3)).map(lambda words: struct.pack(f">{len(words)}I", *words))


@settings(max_examples=150, deadline=None)
@given(procedure=st.integers(0, 22), rest=st.binary(max_size=200) | WORDS)
def test_arguments_of_any_shape_end_in_an_answer(
    world: Exported, procedure: int, rest: bytes
) -> None:
    """Good handles, then anything: no procedure raises what the server has no word for."""
    client = Nfs3Client(world.address, uid=1000, source=WRITE_HOST)
    with contextlib.closing(client):
        top = client.mount(b"/lab")
        try:
            client.rpc.call(NFS, 3, procedure, struct.pack(">I", HANDLE_BYTES) + top + rest)
        except RpcError as error:
            assert (error.kind, error.status) == ("accepted", 4 if procedure < 22 else 3)
    assert not world.hosted.failures
