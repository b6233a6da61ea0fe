"""COMPOUND: operations one after the other, until one fails (RFC 8881, 2.10.6 and 16.2).

A compound begins with SEQUENCE, which names the slot that makes it happen once; or it is one
operation that needs no session. Operations are read as their turn comes, so bad XDR ends a compound
in its middle, with what came before done. Invariants:
- an answer says how far the compound came, and that is how far it came: what an operation has
  packed before it failed is taken back, and where its result would not fit into the answer it is
  not begun if it changes anything;
- between operations others have their turn, once these have taken ``Limits.turn_s``;
- the answer is given after what was changed is durable: one wait for all of a compound. When that
  fails, the first operation that has to be durable has failed.
"""

import struct
from collections.abc import Callable, Generator
from time import perf_counter

from engine import errors
from engine.cold import Cold, read_only
from nfsgw.contents import turn
from nfsgw.files import Files
from nfsgw.gate import Outcome, Wait, Waits
from nfsgw.rpc import Call
from nfsgw.v4.current import Current, Operation
from nfsgw.v4.limits import RESPONSE_BYTES_MAX, TAG_BYTES_MAX
from nfsgw.v4.operations import FAILED_BODY, LAST_OP, OPERATIONS
from nfsgw.v4.protocol import MINORS, Failed, Op, Status
from nfsgw.v4.sessions import SESSION_ID_BYTES, Session, Slot, digest_of, is_retry
from nfsgw.v4.state import State
from nfsgw.v4.statuses import ANSWERED, status_of
from nfsgw.xdr import Garbage, Packer, Unpacker

SESSIONLESS = frozenset(
    {
        Op.EXCHANGE_ID, Op.CREATE_SESSION, Op.BIND_CONN_TO_SESSION, Op.DESTROY_SESSION,
        Op.DESTROY_CLIENTID,
    }
)  # fmt: skip
CHANGING = frozenset(
    {
        Op.ALLOCATE, Op.CLONE, Op.CLOSE, Op.COMMIT, Op.COPY, Op.CREATE, Op.CREATE_SESSION,
        Op.DEALLOCATE, Op.DESTROY_CLIENTID, Op.DESTROY_SESSION, Op.EXCHANGE_ID, Op.FREE_STATEID,
        Op.LINK, Op.LOCK, Op.LOCKU, Op.OPEN, Op.OPEN_DOWNGRADE, Op.RECLAIM_COMPLETE, Op.REMOVE,
        Op.REMOVEXATTR, Op.RENAME, Op.SETATTR, Op.SETXATTR, Op.WRITE, Op.WRITE_SAME,
    }
)  # fmt: skip
# They change nothing and may be begun again: what they find not in memory a thread has read first
READING = frozenset(
    {
        Op.ACCESS, Op.GETATTR, Op.GETXATTR, Op.LISTXATTRS, Op.LOOKUP, Op.LOOKUPP, Op.NVERIFY,
        Op.PUTFH, Op.READ, Op.READDIR, Op.READLINK, Op.READ_PLUS, Op.SEEK, Op.VERIFY,
    }
)  # fmt: skip
REPLY_HEAD_BYTES = 24
RESULT_BYTES_MAX = 128  # of an operation that changes something
# What is looked at before it is begun: where it may stand, whether its result will fit
_LOOKED_AT = CHANGING | {Op.BIND_CONN_TO_SESSION}
_FAILURES: tuple[type[Exception], ...] = (Garbage, *ANSWERED)
_HEAD = struct.Struct(">II")  # of a result: operation, status
_SEQUENCE = struct.Struct(">16s4I")  # session, sequence, slot, highest slot, keep the answer
_SEQUENCED = struct.Struct(">2I16s5I")  # head; session, sequence, slot, highest, target, flags


class Compound:
    """One compound in progress."""

    def __init__(
        self, files: Files, state: State, call: Call, args: Unpacker, out: Packer
    ) -> None:  # fmt: skip
        self._args, self._out = args, out
        self._begin = args.at
        self._tag = args.opaque(TAG_BYTES_MAX)
        self._current = Current(call, args.u32(), files, state)
        self._operations = args.u32()
        if self._operations * 4 > args.left:
            raise Garbage("fewer operations than it says")
        self._start = out.mark()
        self._status_at = out.later()
        out.opaque(self._tag)
        self._count_at = out.later()
        self._done = 0
        self._bytes = REPLY_HEAD_BYTES + out.size(self._start)
        self._bytes_max, self._too_big = RESPONSE_BYTES_MAX, Status.REP_TOO_BIG
        self._store = self._show = False
        # The first whose answer waits: where its result is, which one it is, its number
        self._first_change: tuple[int, int, int] | None = None

    def run(self) -> Generator[Wait, None, None]:
        """To the end, the answer packed."""
        if self._current.minor not in MINORS:
            self._settle(Status.MINOR_VERS_MISMATCH)
        elif self._operations == 0:
            self._settle(Status.OK)
        else:
            first = self._args.u32()
            if first == Op.SEQUENCE:
                yield from self._in_session()
            else:
                yield from self._without_session(first)

    def _settle(self, status: Status) -> None:
        self._out.settle(self._status_at, status)
        self._out.settle(self._count_at, self._done)

    def _fail(self, number: int, status: Status) -> None:
        """An operation that is not begun."""
        self._out.raw(_HEAD.pack(number, status))
        self._done += 1
        self._settle(status)

    # --- the two ways to begin

    def _without_session(self, first: int) -> Generator[Wait, None, None]:
        if first not in OPERATIONS or first > LAST_OP[self._current.minor]:
            status = self._unknown(first)
            self._fail(Op.ILLEGAL if status == Status.OP_ILLEGAL else first, status)
        elif first not in SESSIONLESS:
            self._fail(first, Status.OP_NOT_IN_SESSION)
        elif self._operations > 1:
            self._fail(first, Status.NOT_ONLY_OP)
        else:
            yield from self._all(first)

    def _in_session(self) -> Generator[Wait, None, None]:
        args, out = self._args, self._out
        try:
            session, slot, sequence, keep = self._sequence()
        except Garbage:
            return self._fail(Op.SEQUENCE, Status.BADXDR)
        except Failed as error:
            return self._fail(Op.SEQUENCE, error.status)
        if slot is None:
            return None
        client = session.client
        slot.busy, slot.sequence, slot.answer = True, sequence, None
        client.running += 1
        try:
            self._done = 1
            self._bytes += _SEQUENCED.size
            if self._operations > 1:
                yield from self._all(args.u32())
            else:
                self._settle(Status.OK)
            if keep or self._operations == 1:
                slot.answer = b"".join(out.parts[self._start :])
        finally:
            slot.busy = False
            client.running -= 1
            self._current.state.clients.renew(client)
        return None

    def _sequence(self) -> tuple[Session, Slot | None, int, bool]:
        """SEQUENCE, 18.46: the session, its slot, the request's number, whether to keep the answer.

        No slot: it was a retry, and is answered. The slot is as it was when this fails.
        """
        args, current = self._args, self._current
        session_id, sequence, number, highest, keep = args.packed(_SEQUENCE)
        if keep > 1:
            raise Garbage(f"{keep} is no boolean")
        session = current.state.session(session_id)
        channel = session.channel
        slot = session.slot(number, highest)
        digest = digest_of(current.call, args.data[self._begin :])
        retry = is_retry(slot, sequence, digest)
        if not retry:
            if len(args.data) > channel.request_bytes:
                raise Failed(Status.REQ_TOO_BIG)
            if self._operations > channel.operations:
                raise Failed(Status.TOO_MANY_OPS)
        self._bytes_max = channel.response_bytes
        if keep and channel.cached_bytes < channel.response_bytes:
            self._bytes_max, self._too_big = channel.cached_bytes, Status.REP_TOO_BIG_TO_CACHE
        current.session = session
        session.used_by(current.call.peer)
        if retry:
            self._again(slot)
            return session, None, sequence, bool(keep)
        if self._bytes + _SEQUENCED.size > self._bytes_max:
            raise Failed(self._too_big)
        last = len(session.slots) - 1
        self._out.raw(
            _SEQUENCED.pack(Op.SEQUENCE, Status.OK, session.id, sequence, number, last, last, 0)
        )
        slot.digest = digest
        return session, slot, sequence, bool(keep)

    def _again(self, slot: Slot) -> None:
        """The answer that a slot has kept."""
        if slot.answer is None:
            raise Failed(Status.RETRY_UNCACHED_REP)
        self._out.rewind(self._start)
        self._out.raw(slot.answer)

    # --- operations

    def _unknown(self, number: int) -> Status:
        """What is said to an operation that is not in the table."""
        if number == Op.SEQUENCE:
            return Status.SEQUENCE_POS
        if not Op.ACCESS <= number <= LAST_OP[self._current.minor]:
            return Status.OP_ILLEGAL
        return Status.NOTSUPP

    def _all(self, number: int) -> Generator[Wait, None, None]:
        """This one and those after it, then what the answer has to wait for."""
        turn_s = self._current.state.limits.turn_s
        end = perf_counter() + turn_s
        while True:
            step = self._one(number)
            status = step if isinstance(step, Status) else (yield from step)
            if status != Status.OK or self._done == self._operations:
                break
            try:
                number = self._args.u32()
            except Garbage:
                self._fail(Op.ILLEGAL, Status.BADXDR)
                status = Status.BADXDR
                break
            if perf_counter() > end:
                yield turn
                end = perf_counter() + turn_s
        self._settle(status)
        gate = self._current.files.gate
        try:
            if self._store:
                yield from gate.stored()
            elif self._show:
                yield from gate.shown()
        except errors.RametError as error:  # StoreFailed, NoSpace
            assert self._first_change is not None
            mark, self._done, number = self._first_change
            self._out.rewind(mark)
            self._fail(number, status_of(error))

    def _one(self, number: int) -> Status | Generator[Wait, None, Status]:
        """An operation and its result; what is left of it when it has to wait."""
        out, current = self._out, self._current
        start = out.mark()
        out.raw(_HEAD.pack(number, Status.OK))
        current.must_store = current.must_show = False
        try:
            operation = OPERATIONS.get(number)
            if operation is None or number > LAST_OP[current.minor]:
                raise Failed(self._unknown(number))
            if number in _LOOKED_AT:
                self._check_begin(number)
            outcome = (
                self._read(operation) if number in READING else operation(current, self._args, out)
            )
        except _FAILURES as error:
            return self._failed(start, number, error)
        if outcome is not None:
            return self._rest(start, number, outcome)
        return self._succeeded(start, number)

    def _read(self, operation: Operation) -> Outcome:
        """What is to be waited for, if its nodes are not in memory (engine/cold.py)."""
        current, args, out = self._current, self._args, self._out
        at, mark = args.at, out.mark()
        pool = current.files.store.pool
        pool.nodes.waits = pool.core.waits = False
        try:
            return operation(current, args, out)
        except Cold:
            pass
        finally:
            pool.nodes.waits = pool.core.waits = True

        def again() -> Outcome:
            args.at = at
            out.rewind(mark)
            return operation(current, args, out)

        out.promised = self._bytes_max - self._bytes
        return self._when_warm(again)

    def _when_warm(self, again: Callable[[], Outcome]) -> Waits:
        current = self._current
        rest = yield from current.files.gate.driven(read_only(current.files.store.pool, again))
        if rest is not None:
            yield from rest

    def _rest(self, start: int, number: int, outcome: Waits) -> Generator[Wait, None, Status]:
        try:
            yield from outcome
        except _FAILURES as error:
            return self._failed(start, number, error)
        return self._succeeded(start, number)

    def _succeeded(self, start: int, number: int) -> Status:
        size = self._out.size(start)
        if self._bytes + size > self._bytes_max:
            return self._failed(start, number, Failed(self._too_big))
        self._bytes += size
        self._note(start, number)
        return Status.OK

    def _failed(self, start: int, number: int, error: Exception) -> Status:
        """Its result is why it has failed, and nothing else but what belongs to that."""
        status = Status.BADXDR if isinstance(error, Garbage) else status_of(error)
        if status == Status.OP_ILLEGAL:
            number = Op.ILLEGAL
        body = getattr(error, "body", b"") or FAILED_BODY.get(number, b"")
        if self._bytes + _HEAD.size + len(body) > self._bytes_max:
            status, body = self._too_big, FAILED_BODY.get(number, b"")
        self._out.rewind(start)
        self._out.raw(_HEAD.pack(number, status))
        self._out.raw(body)
        self._bytes += _HEAD.size + len(body)
        self._note(start, number)
        return status

    def _note(self, start: int, number: int) -> None:
        """That an operation has ended, and what it wants the answer to wait for."""
        current = self._current
        if current.must_store or current.must_show:
            if self._first_change is None or (current.must_store and not self._store):
                self._first_change = start, self._done, number
            self._store |= current.must_store
            self._show |= current.must_show
        self._done += 1

    def _check_begin(self, number: int) -> None:
        """That an operation may stand here, and that its result will fit."""
        current = self._current
        if current.session is not None:
            if number == Op.BIND_CONN_TO_SESSION:
                raise Failed(Status.NOT_ONLY_OP)
            if number == Op.DESTROY_SESSION and self._done + 1 < self._operations:
                at = self._args.at
                if bytes(self._args.fixed(SESSION_ID_BYTES)) == current.session.id:
                    raise Failed(Status.NOT_ONLY_OP)
                self._args.at = at
        if self._bytes + RESULT_BYTES_MAX > self._bytes_max:
            raise Failed(self._too_big)
