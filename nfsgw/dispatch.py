"""From a record to its answer: which program, begun in place, what went wrong as RPC says it.

A call that ends at once never sees the trio loop.  One that has to wait is a ``Running``, which its
connection finishes in a task, or when it is told (gate.Notice); once begun it is carried to its end
even when the connection is gone, for the client will send it again and must get this answer
(replay.py).
"""

import struct
from collections.abc import Callable, Generator, Iterable

from nfsgw.gate import Wait
from nfsgw.replay import Entry, ReplayCache
from nfsgw.rpc import (
    CALL,
    PROG_UNAVAIL,
    RPC_VERSION,
    Again,
    Answered,
    AuthFailed,
    Peer,
    ProcedureUnavailable,
    Program,
    VersionMismatch,
    accepted,
    read_call,
    refused,
)
from nfsgw.xdr import Garbage, Packer, Part, Unpacker

_HEAD_BYTES_MIN = 8
_BEGIN = struct.Struct(">5I")
_BEGINS, _BEGAN = 8, 8 + _BEGIN.size  # behind a record mark and an xid
_REFUSALS = (Garbage, ProcedureUnavailable, AuthFailed, VersionMismatch)


class Running:
    """A call that waits for something: ``wait`` is what, None when it has ended."""

    __slots__ = ("answer", "entry", "out", "outcome", "promised", "wait", "xid")

    def __init__(
        self, xid: int, out: Packer, outcome: Generator[Wait, None, None], entry: Entry | None
    ) -> None:
        self.xid = xid
        self.wait: Wait | None = None
        self.entry = entry
        self.answer: list[Part] = []
        self.out = out
        self.outcome = outcome
        self.promised = 0  # ``out.promised`` when it began to wait


class Dispatcher:
    """The programs of a server.  ``failed`` is called, in an except clause, for what none of them
    should have raised."""

    def __init__(
        self, programs: Iterable[Program], replay: ReplayCache,
        failed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._programs: dict[tuple[int, int], Program] = {}
        self._versions: dict[int, list[int]] = {}
        self._again: dict[bytes, Again] = {}  # by how such calls begin
        for program in programs:
            for version in program.versions:
                for procedure, again in program.again.items():
                    begin = CALL, RPC_VERSION, program.number, version, procedure
                    self._again[_BEGIN.pack(*begin)] = again
                self._programs[program.number, version] = program
                self._versions.setdefault(program.number, []).append(version)
        self._replay = replay
        self._failed = failed

    def again(self, received: memoryview, peer: Peer) -> Answered | None:
        """Calls at the beginning of what was received that a program answers without their being
        read as such; None: there are none."""
        again = self._again.get(bytes(received[_BEGINS:_BEGAN]))
        return None if again is None else again(received, peer, self._replay)

    def settle(self) -> None:
        """After answers were sent: what is left to do of their calls."""
        self._replay.settle()

    def start(self, record: memoryview, peer: Peer) -> list[Part] | Running | None:
        """The answer, or the call in progress; None: another has been told to answer this one.

        Garbage for a record that is no call: nothing can be said to that.
        """
        args = Unpacker(record)
        if len(record) < _HEAD_BYTES_MIN:
            raise Garbage("no call")
        xid, kind = args.u32(), args.u32()
        if kind != CALL:
            raise Garbage("no call")
        args.at = 0
        try:
            call = read_call(args, peer)
            program = self._programs.get((call.program, call.version))
            if program is None:
                return self._unknown(xid, call.program)
            entry = None
            if program.cached(call):
                key = self._replay.key(call, record)
                known = self._replay.find(key)
                if known is not None:
                    known.asker = peer
                    return known.answer
                entry = self._replay.begin(key, peer)
        except _REFUSALS as error:
            return refused(xid, error).parts
        out = Packer()
        accepted(out, xid)
        try:
            outcome = program.call(call, args, out)
            if outcome is None:
                return self._ended(out.parts, entry)
            running = Running(xid, out, outcome, entry)
        except Exception as error:
            return self._ended(self._refused(xid, error), entry)
        self.advance(running, None)
        return running if running.wait is not None else running.answer

    async def finish(self, running: Running) -> None:
        """Wait for what it waits for, as often as it does."""
        try:
            while running.wait is not None:
                problem = None
                try:
                    await running.wait()
                except Exception as error:
                    problem = error
                self.advance(running, problem)
        except BaseException:  # cancelled: the server ends
            running.outcome.close()
            if running.entry is not None:
                self._replay.forget(running.entry)
            raise

    def advance(self, running: Running, problem: Exception | None) -> None:
        """On to the next wait, or to the end, after what it waited for has come or failed."""
        outcome = running.outcome
        try:
            running.wait = outcome.throw(problem) if problem else next(outcome)
        except StopIteration:
            running.answer = running.out.parts
        except Exception as error:
            running.answer = self._refused(running.xid, error)
        else:
            return
        running.wait = None
        self._ended(running.answer, running.entry)

    def _ended(self, answer: list[Part], entry: Entry | None) -> list[Part]:
        if entry is not None:
            self._replay.finish(entry, answer)
        return answer

    def _refused(self, xid: int, error: Exception) -> list[Part]:
        if not isinstance(error, _REFUSALS):
            self._failed()
        return refused(xid, error).parts

    def _unknown(self, xid: int, number: int) -> list[Part]:
        versions = self._versions.get(number)
        if versions:
            return refused(xid, VersionMismatch(min(versions), max(versions))).parts
        out = Packer()
        accepted(out, xid, PROG_UNAVAIL)
        return out.parts
