"""WRITE, the second time: those that follow each other are one write, answered one by one.

What a burst of them does is compared with the same ones on a twin file, one at a time and the long
way: the answers but for times, and the contents.
"""

import ipaddress
import os
from collections.abc import Callable
from typing import Any

import pytest
from again_files import (
    BLOCK,
    A,
    B,
    C,
    D,
    EngineWrites,
    File,
    following,
    in_steps,
    letters,
    made,
    one_by_one,
    status_of,
    told,
    written,
)  # fmt: skip
from exported import READ_HOST, WRITE_HOST, Exported
from nfs3_client import ACCES, DQUOT, FILE_SYNC, ROFS, SERVERFAULT, STALE, Nfs3Client, Users
from pipelined import WRITE, Steps, burst, call, write_arguments

from engine import ROOT_INO, Volume, errors
from engine.inode import FILE_BYTES_MAX
from nfsgw.exports import Export, Right, Rule
from nfsgw.nfs3 import again


@pytest.fixture
def twin(root: Nfs3Client, top: bytes) -> File:
    return made(root, top, b"twin")


Call = tuple[int, bytes, dict[str, int]]

CASES: dict[str, tuple[list[Call], list[int]]] = {
    "they follow": ([(n * BLOCK, each, {}) for n, each in enumerate((A, B, C, D))], [4]),
    "of any sizes": (
        [(5, b"1", {}), (6, b"234", {}), (9, A[:1000], {}), (1009, B[:3087], {}), (BLOCK, C, {})],
        [5],
    ),
    "in the middle of blocks": ([(100 + n * 300, A[:300], {}) for n in range(30)], [30]),
    "a gap": ([(0, A, {}), (BLOCK, B, {}), (3 * BLOCK, C, {}), (4 * BLOCK, D, {})], [4]),
    "backwards": ([(2 * BLOCK, A, {}), (BLOCK, B, {}), (0, C, {})], [3]),
    "the same again": ([(0, A, {}), (0, B, {}), (0, C, {})], [3]),
    "they overlap": ([(0, A, {}), (BLOCK - 1, B, {}), (2 * BLOCK - 2, C, {})], [3]),
    "one is stable": (
        [(0, A, {}), (BLOCK, B, {}), (2 * BLOCK, C, {"stable": FILE_SYNC}), (3 * BLOCK, D, {})],
        [2, 0, 1],
    ),
    "one is half stable": ([(0, A, {}), (BLOCK, B, {"stable": 1}), (2 * BLOCK, C, {})], [1, 0, 1]),
    "no such stable_how": ([(0, A, {}), (BLOCK, B, {"stable": 3}), (2 * BLOCK, C, {})], [1, 0, 1]),
    "says less than it has": (
        [(0, A, {}), (BLOCK, B, {"count": 9}), (BLOCK + 9, C, {})],
        [1, 0, 1],
    ),
    "says more than it has": (
        [(0, A, {}), (BLOCK, B, {"count": 5000}), (2 * BLOCK, C, {})],
        [1, 0, 1],
    ),
    "says nothing": ([(0, A, {}), (BLOCK, B, {"count": 0}), (BLOCK, C, {})], [1, 0, 1]),
    "has nothing": ([(0, A, {}), (BLOCK, b"", {}), (BLOCK, C, {})], [1, 0, 1]),
    "past what a file may be": (
        [(FILE_BYTES_MAX - BLOCK, b"", {}), (FILE_BYTES_MAX - 9, A, {}), (1 << 63, B, {})],
        [0, 0, 0],
    ),
    "to the end of numbers": (
        [((1 << 64) - BLOCK, A, {}), (0, B, {}), (BLOCK, C, {})],
        [0, 2],
    ),
    "far away": ([(1 << 40, A, {}), ((1 << 40) + BLOCK, B, {})], [2]),
    "zeroes": ([(0, A, {}), (BLOCK, bytes(BLOCK), {}), (2 * BLOCK, bytes(3 * BLOCK), {})], [3]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_writes_do_what_the_long_way_does(
    name: str, world: Exported, file: File, twin: File, steps: Steps
) -> None:
    calls, taken = CASES[name]
    longer = one_by_one(world, twin, [twin.call(at, data, **how) for at, data, how in calls])
    steps.of_these()
    found = burst(world, file.client.rpc, [file.call(at, data, **how) for at, data, how in calls])
    assert steps.of_these() == taken
    assert [told(each) for each in found] == in_steps([told(each) for each in longer], taken)
    if file.client.getattr(file.handle).size < 1 << 24:
        assert file.contents() == twin.contents()


def test_writes_that_follow_are_one_write(
    world: Exported, file: File, steps: Steps, engine: EngineWrites
) -> None:
    parts = letters(BLOCK, 1, BLOCK, 3333, 2, BLOCK, 7)
    whole = b"".join(parts)
    found = burst(world, file.client.rpc, following(file, 77, parts))
    assert engine.done == [(77, len(whole))]
    assert file.contents() == b"!" + bytes(76) + whole
    assert [written(each).count for each in found] == [len(each) for each in parts]


def test_a_step_has_a_bound(
    world: Exported, file: File, steps: Steps, engine: EngineWrites
) -> None:
    parts = [bytes([n]) * 100 for n in range(again.CALLS_MAX + 2)]
    steps.of_these()
    burst(world, file.client.rpc, following(file, 0, parts))
    assert steps.of_these() == [again.CALLS_MAX, 2]
    assert engine.done == [(0, again.CALLS_MAX * 100), (again.CALLS_MAX * 100, 200)]
    assert file.contents() == b"".join(parts)


@pytest.mark.parametrize("size", [65_536, 131_072, 200_001, 1 << 20])
def test_large_writes(file: File, size: int) -> None:
    """Whichever way they go."""
    data = os.urandom(size)
    for offset in (0, size, 1):
        assert file.client.write(file.handle, offset, data).count == size
        assert file.client.read(file.handle, offset, size)[0] == data


def test_a_cache_may_trust_what_an_answer_says(world: Exported, file: File) -> None:
    """Weak cache consistency: a client keeps what it has as long as each ``before`` is what it
    knows; also in a step with others, and between steps."""
    known = file.client.getattr(file.handle)
    for offset in (0, 3 * BLOCK, 100):
        for answer in burst(world, file.client.rpc, following(file, offset, [A, B, C[:7]])):
            before, after = written(answer).wcc
            assert before is not None
            assert after is not None
            assert before == (known.size, known.mtime, known.ctime)
            known = after
        assert known == file.client.getattr(file.handle)


def test_a_file_grows_as_far_as_its_writes(world: Exported, file: File) -> None:
    assert file.client.getattr(file.handle).size == 1
    burst(world, file.client.rpc, following(file, 10 * BLOCK, [A, B, b"end"]))
    assert file.client.getattr(file.handle).size == 12 * BLOCK + 3
    burst(world, file.client.rpc, following(file, 0, [C, D]))
    assert file.client.getattr(file.handle).size == 12 * BLOCK + 3
    assert file.contents() == C + D + bytes(8 * BLOCK) + A + B + b"end"


def test_the_verifier_is_that_of_the_server(world: Exported, file: File) -> None:
    one = {
        written(each).verifier for each in burst(world, file.client.rpc, following(file, 0, [A, B]))
    }
    assert one == {file.client.commit(file.handle)[1]}
    world.do(world.files.verifier.renew)
    two = {
        written(each).verifier for each in burst(world, file.client.rpc, following(file, 0, [A, B]))
    }
    assert two == {file.client.commit(file.handle)[1]} != one


# --- what may have changed since


def removed(world: Exported, ino: int) -> None:
    world.lab.unlink(ROOT_INO, b"shared")


def shut(world: Exported, ino: int) -> None:
    world.lab.setattr(ino, mode=0o555)


def given_away(world: Exported, ino: int) -> None:
    world.lab.setattr(ino, uid=7, mode=0o644)


def not_exported(world: Exported, ino: int) -> None:
    world.exports.replace([], world.exports.changed_ns + 1)


def read_only(world: Exported, ino: int) -> None:
    rules = (Rule(ipaddress.ip_network("127.0.0.0/8"), Right.READ),)
    table = [Export(each.id, each.path, each.volume_id, rules) for each in world.exports.all()]
    world.exports.replace(table, world.exports.changed_ns + 1)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (removed, STALE), (shut, ACCES), (given_away, ACCES), (not_exported, STALE),
        (read_only, ROFS),
    ],
)  # fmt: skip
def test_what_was_allowed_is_looked_at_each_time(
    world: Exported, user: Users, engine: EngineWrites, change: Callable[[Exported, int], None],
    status: int,
) -> None:  # fmt: skip
    exports = world.exports.all()
    inode = world.do(lambda: world.lab.create(ROOT_INO, b"shared", 0o666, 0, 1000))
    client = user(1000, 1000, host=WRITE_HOST)
    file = File(client, client.lookup(client.mount(b"/lab"), b"shared")[0])
    for n in range(3):
        client.write(file.handle, n, b"x")
    world.do(lambda: change(world, inode.ino))
    del engine.done[:]
    try:
        found = burst(world, client.rpc, following(file, 0, [A, B, C]))
        assert [status_of(each) for each in found] == [status] * 3
        assert engine.done == []
    finally:
        world.do(lambda: world.exports.replace(exports, world.exports.changed_ns + 1))
        if change is not removed:
            world.do(lambda: world.lab.unlink(ROOT_INO, b"shared"))


def test_who_only_reads_writes_nothing(
    world: Exported, user: Users, root: Nfs3Client, top: bytes, engine: EngineWrites
) -> None:
    handle = root.create(top, b"f", mode=0o666).handle
    file = File(user(1000, host=READ_HOST), handle)
    file.client.read(handle, 0, 1)
    for _ in range(2):
        found = burst(world, file.client.rpc, following(file, 0, [A, B]))
        assert [status_of(each) for each in found] == [ROFS] * 2
    assert engine.done == []


def test_a_user_who_may_not_gains_nothing_from_one_who_may(
    world: Exported, user: Users, file: File, engine: EngineWrites
) -> None:
    file.client.setattr(file.handle, mode=0o600)
    theirs = user(5, 5).rpc.credential
    calls = following(file, 0, [A, B, C, D])
    calls[2] = call(
        file.client.rpc, WRITE, write_arguments(file.handle, 2 * BLOCK, C), credential=theirs
    )
    for _ in range(2):
        found = burst(world, file.client.rpc, calls)
        assert [status_of(each) for each in found] == [0, 0, ACCES, 0]
    assert file.contents() == A + B + bytes(BLOCK) + D


def test_a_quota_that_is_reached_in_the_middle(
    world: Exported, user: Users, top: bytes, root: Nfs3Client, steps: Steps
) -> None:
    room, asked = 5, 9
    lab = root.mount(b"/other")
    files = [made(root, lab, name) for name in (b"quota-1", b"quota-2")]
    answers, contents = [], []
    for number, file in enumerate(files):
        root.write(file.handle, 0, A)

        def limit() -> None:
            other = world.store.volume("other")
            world.store.set_quota("other", other.referenced_bytes + room * BLOCK)

        world.do(limit)
        steps.of_these()
        parts = [os.urandom(BLOCK) for _ in range(asked)]
        calls = following(file, BLOCK, parts)
        found = one_by_one(world, file, calls) if number else burst(world, root.rpc, calls)
        answers.append([told(each) for each in found])
        assert [status_of(each) for each in found] == [0] * room + [DQUOT] * (asked - room)
        contents.append(file.contents())
        assert contents[-1] == A + b"".join(parts[:room])
        world.do(lambda: world.store.set_quota("other", 0))
        root.remove(lab, b"quota-%d" % (number + 1))
    assert answers[0] == answers[1]


def test_what_runs_as_another_loses_that(world: Exported, user: Users, top: bytes) -> None:
    owner, writer = user(), user(1000, 1000)
    file = File(writer, owner.create(top, b"f", mode=0o666).handle)
    writer.write(file.handle, 0, b"!")
    for mode in (0o4777, 0o2777, 0o6777):
        owner.setattr(file.handle, mode=mode)
        found = [written(each).wcc for each in burst(world, writer.rpc, following(file, 0, [A, B]))]
        assert [each.after.mode for each in found if each.after] == [0o777] * 2
        assert owner.getattr(file.handle).mode == 0o777
    owner.setattr(file.handle, mode=0o4777)
    owner.write(file.handle, 0, b"!")
    burst(world, owner.rpc, following(File(owner, file.handle), 0, [A, B]))
    assert owner.getattr(file.handle).mode == 0o4777  # root's own writes leave it


def test_a_restore_takes_back_what_was_written_the_short_way(world: Exported, file: File) -> None:
    world.do(lambda: world.store.create_snapshot(world.lab, "then"))
    first = burst(world, file.client.rpc, following(file, 0, [A, B]))
    world.do(lambda: world.store.restore(world.lab, "then"))
    assert file.contents() == b"!"
    second = burst(world, file.client.rpc, following(file, 0, [C, D]))
    assert file.contents() == C + D
    assert written(first[0]).verifier != written(second[0]).verifier
    world.do(lambda: world.store.remove_snapshot(world.lab, "then"))


# --- what goes wrong


@pytest.mark.parametrize("error", [errors.NoSpace("full"), OSError(5, "disk")])
def test_a_write_that_fails_as_one_is_tried_one_by_one(
    world: Exported, file: File, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write, asked = Volume.write, []

    def fails(to: Volume, ino: int, offset: int, data: memoryview, **how: Any) -> int:
        asked.append(len(data))
        if len(data) > BLOCK:
            raise error
        return write(to, ino, offset, data, **how)

    monkeypatch.setattr(Volume, "write", fails)
    found = burst(world, file.client.rpc, following(file, 0, [A, B, C]))
    assert [status_of(each) for each in found] == [0, 0, 0]
    assert asked[0] == 3 * BLOCK
    monkeypatch.undo()
    assert file.contents() == A + B + C


def test_no_memory_is_a_status_as_on_the_long_way(
    world: Exported, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(to: Volume, ino: int, offset: int, data: memoryview, **how: Any) -> int:
        raise MemoryError

    monkeypatch.setattr(Volume, "write", fails)
    try:
        found = burst(world, file.client.rpc, following(file, 0, [A, B]))
    finally:
        world.do(world.hosted.failures.clear)
    assert [status_of(each) for each in found] == [SERVERFAULT] * 2
