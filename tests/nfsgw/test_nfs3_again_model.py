"""Any stream of READs and WRITEs, and what is between them, cut anywhere: as a model of bytes says.

The calls are of two files and two users, over one connection; between bursts of them the exports
may become read-only and writable again. And the same with a fault put in: it is seen.
"""

import contextlib
import ipaddress
import itertools
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from exported import RULES, Exported, exported
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nfs3_client import (
    ROFS,
    Attributes,
    Before,
    Failed3,
    Nfs3Client,
    attributes,
    post_op,
    sattr,
    sure,
    wcc,
)
from pipelined import READ, WRITE, Sent, call, long_way, read_arguments, write_arguments
from rpc_client import auth_sys, marked, results

from nfsgw.exports import Export, Right, Rule
from nfsgw.nfs3 import again
from nfsgw.nfs3 import attributes as on_wire
from nfsgw.nfs3.again import Known, ShortWays
from nfsgw.rpc import Peer
from nfsgw.xdr import Packer, Unpacker

GETATTR, SETATTR = 1, 2
USERS = auth_sys(0, 0), auth_sys(7, 7, [8])
HELD_BYTES_MAX = 60_000  # what a socket takes at once
_numbers = itertools.count()

OFFSETS = st.sampled_from([None, 0, 1, 4095, 4096, 5000, 12_288, 40_000])
SIZES = st.sampled_from([1, 2, 3, 100, 4096, 5001, 8192, 0])


class Step(NamedTuple):
    """A call. ``offset`` None: where the last one of that file has ended; ``size`` of a SETATTR is
    what the file is cut or grown to."""

    procedure: int
    file: int
    user: int
    offset: int | None
    size: int


STEPS = st.builds(
    Step, st.sampled_from([READ, WRITE, READ, WRITE, READ, WRITE, GETATTR, SETATTR]),
    st.sampled_from([0, 0, 0, 1]), st.sampled_from([0, 0, 0, 1]), OFFSETS, SIZES,
)  # fmt: skip
RUNS = st.builds(
    lambda step, count: [step, *[step._replace(offset=None)] * count], STEPS, st.integers(0, 8)
)


class Burst(NamedTuple):
    """``cuts``: where the stream is cut; none: the server finds all of it together."""

    writable: bool
    runs: list[list[Step]]
    cuts: list[int]


BURSTS = st.builds(
    Burst, st.sampled_from([True, True, True, False]), st.lists(RUNS, min_size=1, max_size=6),
    st.lists(st.integers(0, 1 << 16), max_size=4),
)  # fmt: skip


class Expected(NamedTuple):
    """What a call has to say; ``size``: of the file, after it."""

    step: Step
    sent: Sent
    status: int
    data: bytes = b""
    end: bool = False
    size: int = 0


class Model:
    """Two files, and what they hold."""

    def __init__(self, world: Exported, client: Nfs3Client, top: bytes) -> None:
        self.world, self.client = world, client
        number = next(_numbers)
        self.handles = [
            client.create(top, b"%d-%d" % (number, n), mode=0o666).handle for n in range(2)
        ]
        self.data = [bytearray(), bytearray()]
        self.at = [0, 0]
        self.bytes = itertools.count(1)
        found = [client.getattr(each) for each in self.handles]
        self.known = [Before(each.size, each.mtime, each.ctime) for each in found]

    def play(self, burst: Burst) -> None:
        rules = RULES if burst.writable else (Rule(ipaddress.ip_network("0.0.0.0/0"), Right.READ),)
        table = [Export(e.id, e.path, e.volume_id, rules) for e in self.world.exports.all()]
        self.world.do(lambda: self.world.exports.replace(table, 0))
        expected = [self._step(step, burst.writable) for run in burst.runs for step in run]
        self._send(b"".join(marked(each.sent.record) for each in expected), burst.cuts)
        records = [self.client.rpc.record() for _ in expected]
        answers = {int.from_bytes(each[:4], "big"): results(each) for each in records}
        for n, each in enumerate(expected):
            self._check(each, answers[each.sent.xid], self._sizes(expected[n:]))

    def _send(self, stream: bytes, cuts: list[int]) -> None:
        if not cuts and len(stream) < HELD_BYTES_MAX:
            with self.world.hosted.held():
                self.client.rpc.socket.sendall(stream)
            return
        places = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
        for start, end in itertools.pairwise(places):
            self.client.rpc.socket.sendall(stream[start:end])

    def _step(self, step: Step, writable: bool) -> Expected:
        number, size = step.file, step.size
        handle, data = self.handles[number], self.data[number]
        at = self.at[number] if step.offset is None else step.offset
        self.at[number] = at + size

        def sent(arguments: bytes) -> Sent:
            return call(
                self.client.rpc, step.procedure, arguments, credential=USERS[step.user]
            )  # fmt: skip

        match step.procedure:
            case again.Procedure.READ:
                found, end = bytes(data[at : at + size]), at + size >= len(data)
                return Expected(step, sent(read_arguments(handle, at, size)), 0, found, end)
            case again.Procedure.WRITE:
                brought = bytes([next(self.bytes) % 251]) * size
                request = sent(write_arguments(handle, at, brought))
                if writable and size:
                    data += bytes(max(at - len(data), 0))
                    data[at : at + size] = brought
            case 2:
                request = sent(setattr_arguments(handle, size))
                if writable:
                    data[size:] = bytes(max(size - len(data), 0))
            case _:
                request = sent(struct.pack(">I", len(handle)) + handle)
                return Expected(step, request, 0, size=len(data))
        return Expected(step, request, 0 if writable else ROFS, size=len(data))

    @staticmethod
    def _sizes(expected: list[Expected]) -> set[int]:
        """What a WRITE may say of its file's size: those that follow may be of its step."""
        found = set()
        for each in expected:
            if (each.step.procedure, each.step.file) != (WRITE, expected[0].step.file):
                break
            found.add(each.size)
        return found

    def _check(self, expected: Expected, reply: Unpacker, sizes: set[int]) -> None:
        step = expected.step
        assert reply.u32() == expected.status
        if step.procedure == READ:
            assert known_by(sure(post_op(reply))) == self.known[step.file]
            count, end = reply.u32(), reply.boolean()
            assert bytes(reply.opaque(1 << 20)) == expected.data
            assert (count, end) == (len(expected.data), expected.end)
        elif step.procedure == GETATTR:
            assert attributes(reply).size == expected.size
        else:
            before, after = wcc(reply)
            if not expected.status:
                assert before == self.known[step.file]
                self.known[step.file] = known_by(sure(after))
            if step.procedure == WRITE and not expected.status:
                assert sure(after).size in sizes
                assert (reply.u32(), reply.u32()) == (step.size, 0)
                reply.fixed(8)
        reply.end()

    def compare(self) -> None:
        with long_way():
            for handle, data in zip(self.handles, self.data, strict=True):
                assert self.client.read(handle, 0, 1 << 20) == (bytes(data), True)


def known_by(after: Attributes) -> Before:
    return Before(after.size, after.mtime, after.ctime)


def setattr_arguments(handle: bytes, size: int) -> bytes:
    out = Packer()
    out.opaque(handle)
    sattr(out, size=size)
    out.boolean(False)
    return b"".join(out.parts)


@contextlib.contextmanager
def in_memory(folder: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Exported, Nfs3Client, bytes]]:
    """In memory: a host may drop a disk's page at any time, and a call that waits for it is
    overtaken, which is its right and would be a mistake to the model."""
    with in_memory(tmp_path_factory.mktemp("model")) as folder, exported(folder) as world:
        client = Nfs3Client(world.address, uid=0)
        top = client.mkdir(client.mount(b"/lab"), b"top", mode=0o777).handle
        yield world, client, top
        client.close()


def play(place: tuple[Exported, Nfs3Client, bytes], bursts: list[Burst]) -> None:
    model = Model(*place)
    try:
        for burst in bursts:
            model.play(burst)
        model.compare()
    finally:
        world = place[0]
        world.do(lambda: world.export(world.lab, world.store.volume("other")))


WRITES = [Step(WRITE, 0, 0, 0, 100), *[Step(WRITE, 0, 0, None, 100)] * 5]
READS = [Step(READ, 0, 0, 0, 100), *[Step(READ, 0, 0, None, 101)] * 5]
GAPS = [Step(WRITE, 0, 0, 500 * n, 7) for n in range(5)]
EXAMPLE = [
    Burst(True, [WRITES, READS, GAPS, [step._replace(file=1) for step in WRITES]], []),
    Burst(True, [GAPS, READS, [Step(WRITE, 1, 0, 50_000, 3)], WRITES, READS], []),
    Burst(False, [READS, WRITES, READS], []),
]


def test_any_stream_is_what_a_model_says(place: tuple[Exported, Nfs3Client, bytes]) -> None:
    @settings(max_examples=150, deadline=None)
    @example(EXAMPLE)
    @given(st.lists(BURSTS, min_size=1, max_size=4))
    def played(bursts: list[Burst]) -> None:
        play(place, bursts)

    played()


# --- a fault is seen


class Broken:
    """again.c with one of its functions replaced."""

    def __init__(self, **replaced: Callable[..., Any]) -> None:
        self._real, self._replaced = again.lib, replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name) or getattr(self._real, name)


_lib = again.lib


def any_offsets(received: Any, length: int, head_end: int, *more: Any) -> Any:
    """WRITEs are taken for following each other wherever they begin."""
    told = bytearray(again.ffi.buffer(received, length))
    at, following = 0, None
    while at + head_end + 20 <= length:
        offset, count = struct.unpack_from(">QI", told, at + head_end)
        following = offset if following is None else following
        struct.pack_into(">Q", told, at + head_end, following)
        following += count
        at += head_end + 20 + count + -count % 4
    return _lib.nfs_writes(again.ffi.from_buffer(told), length, head_end, *more)


def file_is_shorter(
    received: Any, length: int, head_end: int, file_bytes: int, *more: Any
) -> Any:  # fmt: skip
    return _lib.nfs_reads(received, length, head_end, max(file_bytes - 1, 0), *more)


def exports_forgotten(ways: ShortWays, beginning: memoryview, peer: Peer) -> Any:
    return peer.memo.get(bytes(beginning))


def some_file(ways: ShortWays, beginning: memoryview, peer: Peer) -> Any:
    found = exports_forgotten(ways, beginning, peer)
    return found and next(reversed(peer.memo.values()))


def attributes_of_before(known: Known) -> bytes:
    """What was told of a file once is told again."""
    if not known._attributes:
        known._attributes = on_wire.post_op(known.place)
    return known._attributes


def no_step_between(ways: ShortWays, place: Any, count: int, before: bytes) -> bytes:
    """Each answer of a step says what only the first has met."""
    answers = bytearray(_written(ways, place, count, before))
    for n in range(count):
        answers[n * 164 + 32 : n * 164 + 32 + len(before)] = before
    return bytes(answers)


_written = ShortWays._written
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "nothing gathered": (again, "lib", Broken(nfs_gather=lambda *_: None)),
    "any offsets": (again, "lib", Broken(nfs_writes=any_offsets)),
    "a shorter file": (again, "lib", Broken(nfs_reads=file_is_shorter)),
    "exports forgotten": (ShortWays, "_known", exports_forgotten),
    "another file": (ShortWays, "_known", some_file),
    "attributes of before": (Known, "attributes", attributes_of_before),
    "attributes before": (ShortWays, "_written", no_step_between),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(
    fault: str, place: tuple[Exported, Nfs3Client, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, broken = FAULTS[fault]
    monkeypatch.setattr(where, name, broken)
    with pytest.raises((AssertionError, Failed3)):
        play(place, EXAMPLE)
