"""Hostile calls to the NFS gateway: records, procedures of version 3, compounds of version 4.

A stranger's call does not get past a handle, so an input may name what only the server can make:
MARK and a byte in it stand for a handle, a stateid, or a name that is there. What a call has
changed is taken back after it (a restore), so that an input does the same whenever it comes.
"""

import contextlib
import ipaddress
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nfs4_ops as ops
from nfs4_direct import Client, Gateway, Peer
from rpc_client import auth_sys, call_record, marked, results

from engine import ROOT_INO, Store
from nfsgw.dispatch import Dispatcher, Running
from nfsgw.exports import Right, Rule
from nfsgw.gate import Outcome
from nfsgw.mount3 import Mount3
from nfsgw.nfs3.program import Nfs3
from nfsgw.record import LAST, Buffers, RecordReader
from nfsgw.record import marked as as_one
from nfsgw.replay import ReplayCache
from nfsgw.rpc import AuthFailed, Call, Credential, ProcedureUnavailable
from nfsgw.v4.program import COMPOUND, Nfs4
from nfsgw.v4.protocol import PROGRAM, Op, Status
from nfsgw.v4.recovery import CLIENT_PREFIX
from nfsgw.v4.state import State
from nfsgw.xdr import Garbage, Packer, Unpacker

MARK = b"\xf5\xf5\xf5"
CALLS_KEPT = 2000  # after so many there is a new store
SLAB_SLOTS = 256
ANSWER_BYTES_MAX = 1 << 21
ROOT_USER = Credential(0, 0, ())
NFS, READ, WRITE = 100_003, 6, 7
FILE = b"data" * 9000
CALLS_MAX = 10  # READs and WRITEs of one input
CALL_BYTES = 4 * 255
MODEL = FILE.ljust(1 << 17, b"\0")


class Hurried(Gateway):
    """Nothing is waited for: there is no disk behind it that anybody would ask."""

    def call(self, call: Call, arguments: bytes) -> bytes:
        out = Packer()
        _drive(self.program.call(call, Unpacker(memoryview(arguments)), out))
        return b"".join(out.parts)


class Ground:
    """A store with a few files, exported; ``words`` are what a mark stands for."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="ramet-fuzz-")
        path = Path(self._scratch.name) / "store"
        Store.create(path, fanout=4, records_max=8, slab_slots=SLAB_SLOTS)
        self.store = store = Store.open(path)
        self.calls = 0
        self.lab = lab = store.create_volume("lab")
        directory = lab.mkdir(ROOT_INO, b"d", 0o777, 0, 0)
        file = lab.create(directory.ino, b"f", 0o666, 0, 0)
        lab.write(file.ino, 0, FILE)
        lab.symlink(ROOT_INO, b"l", b"d/f", 0, 0)
        store.create_snapshot(lab, "s")
        self.gateway = Hurried(store)
        self.gateway.export("lab", rule=Rule(ipaddress.ip_network("127.0.0.0/8"), Right.ROOT))
        self.mount, self.nfs3 = Mount3(self.gateway.files), Nfs3(self.gateway.files)
        client = Client(self.gateway)
        paths = ("/", "/lab", "/lab/d", "/lab/d/f", "/lab/l", "/lab/.snapshots/s/d/f")
        self._handles = [client.handle(path) for path in paths]
        self.file = self._handles[3]
        self.reader, self.model = RecordReader(Buffers()), memoryview(bytearray(MODEL))
        self.begin()

    def begin(self) -> None:
        """A server that has just started, and a client that has the file open."""
        for key, _ in self.store.records.items(CLIENT_PREFIX):
            self.store.records.delete(key)
        state = State(self.store, self.gateway.state.limits)
        self.gateway.state, self.gateway.program = state, Nfs4(self.gateway.files, state)
        self.client = Client(self.gateway)
        owner = ops.u64(0) + ops.opaque(b"owner")
        call = ops.u32(Op.OPEN, 0, 3, 0) + owner + ops.u32(0, 4)
        answer = self.client.ok(ops.put_fh(self._handles[3]), call)
        answer.to(Op.PUTFH)
        stateid = bytes(answer.to(Op.OPEN).fixed(16))
        self.words = [*map(ops.opaque, self._handles), stateid, bytes(16), ops.opaque(b"f"),
                      ops.opaque(b"new"), self.client.session]  # fmt: skip
        self._changes = self.changes

    @property
    def changes(self) -> tuple[int, ...]:
        state, store = self.gateway.state, self.store
        return (
            store.pool.state.next_change, store.pool.state.epoch, len(state.clients),
            state.quotas.opens.count, state.quotas.locks.count, *map(hash, state.sessions),
        )  # fmt: skip

    def again(self) -> None:
        """What a call has changed is taken back."""
        if self.changes != self._changes:
            self.store.restore(self.lab, "s", force=True)
            self.store.reclaim(0.001)
            self.begin()

    def filled(self, data: bytes) -> bytes:
        """An input with its marks replaced."""
        first, *others = data.split(MARK)
        found = [first]
        for each in others:
            found.append(self.words[each[0] % len(self.words)] if each else b"")
            found.append(each[1:])
        return b"".join(found)

    def close(self) -> None:
        self.store.abandon()
        self._scratch.cleanup()


_ground: list[Ground] = []


def ground() -> Ground:
    """The one there is; a new one every CALLS_KEPT calls."""
    if _ground and _ground[0].calls >= CALLS_KEPT:
        close()
    if not _ground:
        _ground.append(Ground())
    _ground[0].calls += 1
    return _ground[0]


def close() -> None:
    while _ground:
        _ground.pop().close()


def _drive(outcome: Outcome) -> None:
    """To its end: what it waits for is there."""
    for _ in outcome or ():
        pass


class Connected:
    """A connection of its own, and all that a server does with what it receives."""

    def __init__(self, here: Ground) -> None:
        programs = (here.nfs3, here.mount, here.gateway.program)
        self._dispatcher = Dispatcher(programs, ReplayCache(), _fail)
        self._reader = here.reader
        self._peer = Peer()

    def receive(self, stream: bytes, step: int) -> Iterator[bytes]:
        """The answers to whole records that come ``step`` bytes at a time; Garbage, which ends the
        connection: what comes after is read by nobody."""
        at, ended = 0, None
        while at < len(stream):
            space = self._reader.space()
            count = min(len(space), step, len(stream) - at)
            space[:count] = stream[at : at + count]
            space.release()
            self._reader.received(count)
            at += count
            try:
                if ended is None:
                    yield from self._turn()
            except Garbage as error:
                ended = error
            while self._reader.next() is not None:
                assert ended is not None
        if ended is not None:
            raise ended

    def _turn(self) -> Iterator[bytes]:
        while True:
            ahead = self._reader.ahead
            answered = self._dispatcher.again(ahead, self._peer)
            if answered is not None:
                assert 0 < answered.taken <= len(ahead)
                assert answered.calls > 0
                self._reader.skip(answered.taken)
                yield from _records(bytes(answered.answer), answered.calls)
                continue
            record = self._reader.next()
            if record is None:
                return
            found = self._dispatcher.start(record.view, self._peer)
            if isinstance(found, Running):
                _drive(found.outcome)
                found = found.out.parts
            assert found
            yield from _records(b"".join(as_one(found)), 1)


def _records(answers: bytes, count: int) -> Iterator[bytes]:
    """The records of a stream, which are as many, each in one fragment."""
    at = 0
    for _ in range(count):
        (mark,) = struct.unpack_from(">I", answers, at)
        assert mark & LAST
        end = at + 4 + (mark ^ LAST)
        assert end <= len(answers)
        yield answers[at + 4 : end]
        at = end
    assert at == len(answers)


def rpc_record(data: bytes) -> None:
    """A record as it comes from the network, and others made of it: only what is no call at all is
    not answered.  Then READs and WRITEs of a file, which may go a short way, against a model."""
    here = ground()
    connected = Connected(here)
    read = struct.pack(">6I", 7, 0, 2, NFS, 3, READ) + data
    for record in (data, struct.pack(">6I", 7, 0, 2, NFS, 3, 1) + data, read, read):
        try:
            (answer,) = connected.receive(marked(record), 1 << 20)
        except Garbage:
            assert len(record) < 8 or record[4:8] != bytes(4)
            continue
        assert answer[:8] == record[:4] + b"\0\0\0\1"
    here.again()
    with contextlib.suppress(Garbage):
        _reads_and_writes(here, data)
    here.again()


def _reads_and_writes(here: Ground, data: bytes) -> None:
    """The first byte says how many bytes come at a time; each call is five bytes: what and how
    wrong it is, offset (2), size, and a byte more."""
    connected, stream, model, end = Connected(here), bytearray(), here.model, len(FILE)
    model[:] = MODEL
    wanted: list[tuple[int, bytes | None]] = []
    step, sound, next_offset = 7 * data[0] if data and data[0] else 1 << 20, True, 0
    for n in range(min(CALLS_MAX, (len(data) - 1) // 5)):
        what, offset, size, more = struct.unpack_from(">BHBB", data, 1 + 5 * n)
        if what & 2:
            offset = next_offset
        size = size * 4 + (more & 3)
        next_offset = offset + size
        handle = ops.opaque(here.file)
        if what & 1:
            body = bytes([n + 1]) * size
            if sound and size:
                model[offset : offset + size] = body
                end = max(end, offset + size)
            arguments = handle + ops.u64(offset) + ops.u32(size, 0) + ops.opaque(body)
            expected = None
        else:
            arguments = handle + ops.u64(offset) + ops.u32(size)
            expected = bytes(model[offset : min(offset + size, end)])
        user = auth_sys(0, 0) if what & 4 else auth_sys(0, 0, [1, 2, 3])
        record = bytearray(call_record(n, NFS, 3, WRITE if what & 1 else READ, arguments, user))
        if what & 8:
            record[(more * 3 + what) % len(record)] ^= more | 1
            sound = False
        if what & 16 and len(record) > 4 * more:
            first, record = record[: 4 * more], record[4 * more :]
            stream += struct.pack(">I", len(first)) + first
        stream += marked(bytes(record))
        if sound:
            wanted.append((n, expected))
    for n, answer in enumerate(connected.receive(bytes(stream), step)):
        if n >= len(wanted):
            continue
        xid, expected = wanted[n]
        reply = results(answer, xid)
        assert reply.u32() == 0
        if expected is not None:
            reply.fixed(88)
            count, last = reply.u32(), reply.u32()
            assert bytes(reply.opaque(CALL_BYTES + 3)) == expected
            assert (count, last <= 1) == (len(expected), True)
            reply.end()


def _fail() -> None:
    """A program has raised what it should not have: it is being handled, and shall be seen."""
    raise  # noqa: PLE0704


def nfs3_call(data: bytes) -> None:
    """The first byte is the procedure, of MOUNT if it is large."""
    here = ground()
    number = data[0] if data else 0
    program = here.nfs3 if number < 0x80 else here.mount
    call = Call(1, program.number, 3, number & 0x7F, ROOT_USER, Peer())
    out = Packer()
    with contextlib.suppress(Garbage, ProcedureUnavailable, AuthFailed):
        _drive(program.call(call, Unpacker(memoryview(here.filled(data[1:]))), out))
    assert out.size() <= ANSWER_BYTES_MAX
    here.again()


def nfs4_compound(data: bytes) -> None:
    """The first byte says how many operations follow SEQUENCE; 255: it is a whole compound."""
    here = ground()
    number, body = (data[0] if data else 0), here.filled(data[1:])
    if number < 0xFF:
        body = here.client.head(number + 1) + here.client.sequence() + body
    out = Packer()
    call = Call(1, PROGRAM, 4, COMPOUND, ROOT_USER, here.client.peer)
    with contextlib.suppress(Garbage):
        _drive(here.gateway.program.call(call, Unpacker(memoryview(body)), out))
        answer = b"".join(out.parts)
        assert len(answer) <= ANSWER_BYTES_MAX
        assert Status(int.from_bytes(answer[:4], "big")) != Status.SERVERFAULT
    here.again()
