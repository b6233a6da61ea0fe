"""WRITEs that were one: sent twice they are carried out once; and none is answered before the mount
shows what it has changed."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from again_files import (
    BLOCK,
    A,
    B,
    C,
    D,
    EngineWrites,
    File,
    following,
    made,
    one_by_one,
    status_of,
)  # fmt: skip
from exported import WRITE_HOST, Exported
from nfs3_client import Nfs3Client, Users
from pipelined import WRITE, Steps, burst, call, held, write_arguments
from rpc_client import marked

from engine import Volume


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> EngineWrites:
    return EngineWrites(monkeypatch)


@pytest.fixture
def file(root: Nfs3Client, top: bytes) -> File:
    return made(root, top, b"f")


def test_duplicates_are_carried_out_once(
    world: Exported, user: Users, file: File, steps: Steps, engine: EngineWrites
) -> None:
    calls = following(file, 0, [A, B, C])
    first = burst(world, file.client.rpc, calls)
    user().write(file.handle, 0, D)
    reconnected = user()
    del engine.done[:]
    assert burst(world, file.client.rpc, calls) == first
    assert burst(world, reconnected.rpc, calls) == first
    assert engine.done == []
    reconnected.write(file.handle, 3 * BLOCK, b"!")  # the short ways are known there too now
    assert burst(world, reconnected.rpc, calls) == first
    assert engine.done == [(3 * BLOCK, 1)]
    assert file.contents() == D + B + C + b"!"


def test_a_step_ends_before_a_duplicate(
    world: Exported, user: Users, file: File, steps: Steps, engine: EngineWrites
) -> None:
    calls = following(file, 0, [A, B, C, D])
    third = burst(world, file.client.rpc, calls[2:3])
    user().write(file.handle, 2 * BLOCK, b"other")
    steps.of_these()
    del engine.done[:]
    found = burst(world, file.client.rpc, calls)
    assert steps.of_these() == [2, 0, 1]
    assert engine.done == [(0, 2 * BLOCK), (3 * BLOCK, BLOCK)]
    assert found[2:3] == third
    assert file.contents() == A + B + b"other" + C[5:] + D


@pytest.mark.parametrize("short_first", [True, False])
def test_both_ways_know_the_same_duplicates(
    world: Exported, user: Users, file: File, steps: Steps, engine: EngineWrites, short_first: bool
) -> None:
    calls = following(file, 0, [A, B])
    first = burst(world, file.client.rpc, calls) if short_first else one_by_one(world, file, calls)
    user().write(file.handle, 0, D)
    done = list(engine.done)
    if short_first:
        assert one_by_one(world, file, calls) == first
    assert burst(world, file.client.rpc, calls) == first
    assert engine.done == done
    assert file.contents() == D + B


def test_the_same_xid_with_other_bytes_is_another_call(world: Exported, file: File) -> None:
    one = call(file.client.rpc, WRITE, write_arguments(file.handle, 0, A), xid=5)
    two = call(file.client.rpc, WRITE, write_arguments(file.handle, 0, B), xid=5)
    for each in (one, two, one):  # the first again: it is a duplicate, whatever came between
        burst(world, file.client.rpc, [each])
    assert file.contents() == B


def test_another_host_has_xids_of_its_own(
    world: Exported, user: Users, root: Nfs3Client, top: bytes
) -> None:
    handle = root.create(top, b"f", mode=0o666).handle
    clients = [user(1000, host="127.0.0.1"), user(1000, host=WRITE_HOST)]
    files = [File(each, handle) for each in clients]
    for each in files:
        each.client.write(handle, 0, b"!")
    for each in files:
        sent = call(each.client.rpc, WRITE, write_arguments(handle, 0, A), xid=77)
        burst(world, each.client.rpc, [sent])
        assert files[0].contents() == A
        root.write(handle, 0, B)
    assert files[0].contents() == B


# --- what the mount has to be told


class Mount:
    """A mount whose kernel is told of a change only when ``settle`` lets it be."""

    def __init__(self, world: Exported, patch: pytest.MonkeyPatch) -> None:
        self.behind, self.world = False, world
        self.told = world.do(trio.Event)
        self.waiting = 0
        gate, write = world.files.gate, Volume.write

        def noted(to: Volume, ino: int, offset: int, data: memoryview, **how: Any) -> int:
            self.behind = True
            return write(to, ino, offset, data, **how)

        patch.setattr(Volume, "write", noted)
        mounted = dataclasses.replace(gate, settled=self._settled, unsettled=lambda: self.behind)
        patch.setattr(world.files, "gate", mounted)

    async def _settled(self) -> None:
        self.waiting += 1
        await self.told.wait()

    def settle(self) -> None:
        def settled() -> None:
            self.behind = False
            self.told.set()

        self.world.do(settled)


@pytest.fixture
def mount(file: File, world: Exported, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mount]:
    made = Mount(world, monkeypatch)
    yield made
    made.settle()


def test_a_step_is_answered_when_the_mount_shows_it(
    world: Exported, file: File, mount: Mount, steps: Steps
) -> None:
    rpc = file.client.rpc
    calls = following(file, 0, [A, B, C])
    steps.of_these()
    with held(world):
        rpc.socket.sendall(b"".join(marked(each.record) for each in calls))
        null = rpc.send(100_003, 3, 0)
    rpc.receive(null)  # whose answer is the first that comes
    assert steps.of_these() == [3, 0]
    assert mount.waiting == 1
    assert file.client.read(file.handle, 0, 1)[0] == b"A"
    mount.settle()
    found = [rpc.record() for _ in calls]
    assert [int.from_bytes(each[:4], "big") for each in found] == [each.xid for each in calls]
    assert {status_of(each) for each in found} == {0}


def test_while_the_mount_is_behind_writes_go_the_long_way(
    world: Exported, file: File, mount: Mount, steps: Steps
) -> None:
    mount.behind = True
    calls = following(file, 0, [A, B])
    steps.of_these()
    with held(world):
        file.client.rpc.socket.sendall(b"".join(marked(each.record) for each in calls))
    file.client.null()
    assert steps.of_these() == [0, 0, 0]
    mount.settle()
    assert {status_of(file.client.rpc.record()) for _ in calls} == {0}


def test_a_client_that_goes_meanwhile_leaves_nothing(
    world: Exported, user: Users, file: File, mount: Mount
) -> None:
    lost = File(user(), file.handle)
    mount.settle()
    lost.client.write(file.handle, 0, b"!")
    mount.told = world.do(trio.Event)
    mount.behind = False
    before = world.do(lambda: world.hosted.server.connections)
    calls = following(lost, 0, [A, B])
    with held(world):
        lost.client.rpc.socket.sendall(b"".join(marked(each.record) for each in calls))
        lost.client.close()
    while not mount.waiting:
        file.client.null()
    mount.settle()
    while world.do(lambda: world.hosted.server.connections) >= before:
        file.client.null()
    again = user()
    found = burst(world, again.rpc, calls)  # it reconnects, and hears what was done
    assert {status_of(each) for each in found} == {0}
    assert file.contents() == A + B


@pytest.mark.xfail(strict=True, reason="a duplicate of a step is answered at once")
def test_a_duplicate_waits_for_the_mount_too(
    world: Exported, user: Users, file: File, mount: Mount
) -> None:
    calls = following(file, 0, [A, B])
    with held(world):
        file.client.rpc.socket.sendall(b"".join(marked(each.record) for each in calls))
    file.client.null()
    other = user()
    other.rpc.socket.sendall(marked(calls[0].record))
    null = other.rpc.send(100_003, 3, 0)
    assert int.from_bytes(other.rpc.record()[:4], "big") == null
