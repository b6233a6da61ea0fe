"""WRITEs that were one: sent twice they are carried out once; and none is answered before the mount
shows what it has changed."""

import dataclasses

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
    one_by_one,
    status_of,
)  # fmt: skip
from exported import WRITE_HOST, Exported
from nfs3_client import Nfs3Client, Users
from pipelined import WRITE, Steps, burst, call, write_arguments
from rpc_client import marked

from engine.reserve import Reserve


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
    """A mount whose kernel has a file, or is being told of another."""

    def __init__(self, world: Exported, patch: pytest.MonkeyPatch) -> None:
        self.behind, self.watched = False, False
        mounted = dataclasses.replace(
            world.files.gate, settled=trio.lowlevel.checkpoint, unsettled=lambda: self.behind,
            watched=lambda volume_id, ino: self.watched,
        )  # fmt: skip
        patch.setattr(world.files, "gate", mounted)


@pytest.fixture
def mount(file: File, world: Exported, monkeypatch: pytest.MonkeyPatch) -> Mount:
    return Mount(world, monkeypatch)


@pytest.mark.parametrize(("behind", "watched"), [(True, False), (False, True), (False, False)])
def test_what_the_mount_has_to_be_told_goes_the_long_way(
    world: Exported, file: File, mount: Mount, steps: Steps, behind: bool, watched: bool
) -> None:
    """The answer, and that of a duplicate, waits there until it was told."""
    mount.behind, mount.watched = behind, watched
    calls = following(file, 0, [A, B])
    steps.of_these()
    with world.hosted.held():
        file.client.rpc.socket.sendall(b"".join(marked(each.record) for each in calls))
    assert {status_of(file.client.rpc.record()) for _ in calls} == {0}
    file.client.null()
    assert steps.of_these() == ([0, 0, 0] if behind or watched else [2, 0])
    mount.behind = False
    assert file.contents() == A + B


# --- what has to wait for a commit


@pytest.mark.parametrize("why", ["much is dirty", "no room"])
def test_what_a_commit_has_to_make_room_for_goes_the_long_way(
    world: Exported, file: File, steps: Steps, engine: EngineWrites, why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is not refused there, but waits, and is carried out."""
    waits: list[None] = []

    async def admit() -> None:
        waits.append(None)

    def covers(reserve: Reserve, dirty_pages: int) -> bool:
        return bool(waits)

    full = (lambda: not waits) if why == "no room" else (lambda: False)
    gate = dataclasses.replace(
        world.files.gate, admit=admit, full=full, crowded=lambda: why == "much is dirty"
    )
    calls = following(file, 0, [A, B])
    steps.of_these()
    with monkeypatch.context() as patch:
        patch.setattr(world.files, "gate", gate)
        if why == "no room":
            patch.setattr(Reserve, "covers", covers)
        found = burst(world, file.client.rpc, calls)
    assert [status_of(each) for each in found] == [0, 0]
    assert steps.of_these() == [0, 0]
    assert bool(waits) == (why == "no room")
    assert file.contents() == A + B
