"""Steps of more WRITEs than a socket takes at once: how many a step has, and what is one write."""

import ipaddress
import os
from types import SimpleNamespace
from typing import Any

import pytest
from again_files import EngineWrites, File
from exported import Exported
from pipelined import Sent
from rpc_client import marked

import native
from nfsgw.dispatch import Dispatcher
from nfsgw.nfs3.program import Nfs3
from nfsgw.replay import ReplayCache

KIB = 1024


def carried_out(world: Exported, known: Sent, calls: list[Sent]) -> list[int]:
    """How many calls each step takes, when all are there together.  ``known`` goes before them."""
    peer: Any = SimpleNamespace(address=ipaddress.ip_address("127.0.0.1"), memo={})
    received = memoryview(b"".join(marked(each.record) for each in calls))

    def steps() -> list[int]:
        dispatcher = Dispatcher([Nfs3(world.files)], ReplayCache())
        dispatcher.start(memoryview(known.record), peer)
        found, at = [], 0
        while at < len(received):
            answered = dispatcher.again(received[at:], peer)
            assert answered is not None
            found.append(answered.calls)
            at += answered.taken
        return found

    return world.do(steps)


def following(file: File, sizes: list[int]) -> tuple[list[Sent], bytes]:
    calls, whole = [], b""
    for size in sizes:
        data = os.urandom(size)
        calls.append(file.call(len(whole), data))
        whole += data
    return calls, whole


def written(
    world: Exported, file: File, engine: EngineWrites, sizes: list[int]
) -> tuple[list[int], list[int]]:
    """Calls of each step, and bytes of each write of the engine; what is there then is right."""
    file.client.setattr(file.handle, size=0)
    known = file.call(0, b"!")
    calls, whole = following(file, sizes)
    del engine.done[:]
    steps = carried_out(world, known, calls)
    done = engine.done[1:]
    assert [at for at, _ in done] == [sum(size for _, size in done[:n]) for n in range(len(done))]
    assert file.contents() == whole
    return steps, [size for _, size in done]


def test_cut_blocks_are_put_together_as_far_as_there_is_room(
    world: Exported, file: File, engine: EngineWrites
) -> None:
    steps, done = written(world, file, engine, [10_000] * 30)
    assert (steps, done) == ([30], [260_000, 40_000])
    steps, done = written(world, file, engine, [4096, 4096, 20_000, 4096, 4096, 16_385, 5])
    assert (steps, done) == ([7], [8192, 44_582])
    steps, done = written(world, file, engine, [300_001, 5, 7])
    assert (steps, done) == ([3], [300_001, 12])


def test_whole_blocks_are_written_from_where_they_are(
    world: Exported, file: File, engine: EngineWrites
) -> None:
    for size in (4 * KIB, 16 * KIB):
        steps, done = written(world, file, engine, [size] * 64)
        assert (steps, done) == ([64], [64 * size])
    steps, done = written(world, file, engine, [64 * KIB] * 20)
    assert (steps, done) == ([16, 4], [1024 * KIB, 256 * KIB])
    steps, done = written(world, file, engine, [4 * KIB, 4 * KIB, 8 * KIB, 8 * KIB, 4 * KIB])
    assert (steps, done) == ([5], [8 * KIB, 16 * KIB, 4 * KIB])


def test_whole_blocks_are_as_many_as_the_core_takes(
    world: Exported, file: File, engine: EngineWrites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native.Core, "call_bytes", property(lambda core: 40 * KIB))
    _, done = written(world, file, engine, [16 * KIB] * 5)
    assert done == [32 * KIB, 32 * KIB, 16 * KIB]
