"""One client's connection: calls in, answers out, neither without bound.

The loop receives what is there, serves all whole records in it (those that a program knows by how
they begin, many in one step: rpc.Again), sends their answers together, or as SEND_BYTES are, and
lets others have their turn, if there are any (``Look``): a turn ends after TURN_S.  Calls of one
turn that wait for the disk wait together, without a task, and are answered together; what else
waits has a task, which answers when it ends.  A client that does not read its answers is not read
from either once OUT_BYTES_MAX wait for it, or anything once its address has its part (quotas.py) of
OUT_TOTAL_MAX (what calls under way promise to answer counts), nor is one with IN_FLIGHT_MAX calls
under way, or any once the small records of the calls of its address are its part of IN_TOTAL_MAX
(large ones have their own bound: record.Buffers); one that neither reads nor finishes a record for
STALLED_S is let go.  An idle connection may stay: TCP's keepalive finds out when nobody is there.
"""

import contextlib
import ipaddress
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any

import trio

from nfsgw.dispatch import Dispatcher, Running
from nfsgw.gate import Notice
from nfsgw.quotas import Quota
from nfsgw.record import Buffers, Record, RecordReader, marked
from nfsgw.rpc import Address
from nfsgw.xdr import Garbage, Part

TURN_S = 0.001
IN_FLIGHT_MAX = 64
OUT_BYTES_MAX = 4 << 20
OUT_TOTAL_MAX = 256 << 20
IN_TOTAL_MAX = 64 << 20
STALLED_S = 60.0
LINGER_S = 5.0
SEND_BYTES = 256 << 10  # of answers that wait are sent in the middle of a turn
PARTS_MAX = 512  # a sendmsg; the kernel takes 1024
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


Look = Callable[[int], bool]
"""Whether a descriptor can be read soon, so that it need not be waited for."""


@dataclass(frozen=True)
class Common:
    """What the connections of a server share; tasks outlive their connection.  The quotas are
    bytes, past which one record of each connection waits at most."""

    dispatcher: Dispatcher
    buffers: Buffers
    nursery: trio.Nursery
    incoming: Quota  # small records whose calls are under way
    outgoing: Quota  # answers that were not sent yet
    look: Look | None = None
    stalled_s: float = STALLED_S


def rest_of(part: Part, sent: int) -> Part:
    """What is left of a part; a little of it does not keep the rest, which nobody counts."""
    rest = memoryview(part)[sent:]
    return bytes(rest) if 2 * len(rest) < len(part) else rest


class Connection:
    """A Peer: programs know a client's connection by identity."""

    def __init__(self, accepted: socket.socket, common: Common) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            accepted.setsockopt(socket.IPPROTO_TCP, option, value)
        self._socket, self._fd = accepted, accepted.fileno()
        host, self.port = accepted.getpeername()[:2]
        self.address: Address = ipaddress.ip_address(host.partition("%")[0])
        self._common = common
        address = self.address.packed
        self._incoming = common.incoming.of(address)
        self._outgoing = common.outgoing.of(address)
        self._reader = RecordReader(common.buffers, address)
        self._out: deque[Part] = deque()
        self._out_bytes = 0
        self._in_flight = 0
        self._told: dict[Notice, list[tuple[Running, Record]]] = {}  # calls of this turn
        self.active_s = perf_counter()  # when its client last began or finished a record, or read
        self._sending = False
        self._deadline: float | None = None  # of a record that has begun and not ended
        self._relief = trio.Event()  # something has ended or was sent
        self._reading = trio.CancelScope()
        self.closed = False
        self.memo: dict[bytes, Any] = {}  # the programs'

    def stop(self) -> None:
        """Read no more; answer what was begun."""
        self._reading.cancel()

    def let_go(self) -> None:
        """End at once, where nothing is ``owed``; an answer that was not read yet is forgotten.

        A part of that may be sent already: nothing may follow it.  Its client may just have asked
        again, so that the socket has to end here, before the call is carried out.
        """
        self._hang_up()
        self.stop()

    @property
    def owed(self) -> bool:
        """Whether a call is under way, for whose answer its client waits."""
        return self._in_flight > 0

    @property
    def idle(self) -> bool:
        """Whether nothing is under way: its client will hardly notice when it has to reconnect."""
        return not (self._in_flight or self._out or self._reader.partial)

    async def run(self) -> None:
        """Serve until the client ends the connection or has to be let go; then it is closed."""
        try:
            with contextlib.suppress(OSError, Garbage, trio.TooSlowError, trio.ClosedResourceError):
                with self._reading:
                    await self._serve()
                with trio.move_on_after(LINGER_S):  # it may still read what it has asked for
                    while self._in_flight or self._out:
                        await self._wait_for_relief()
        finally:
            self._close()

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._reader.close()
            self._forget_out()
            self._relief.set()

    # --- in

    async def _serve(self) -> None:
        busy = False
        while True:
            try:
                served, more = self._turn()
            finally:  # what was begun before a record that is none
                self._await_notices()
                self._flush()
                self._common.dispatcher.settle()
            if more:
                await trio.lowlevel.checkpoint()
                self._reader.rest()
                while self._full:
                    await self._wait_for_relief()
                continue
            if not self._comes_soon():
                if served > 1 and not busy:
                    busy = True  # the next calls are here already, mostly
                    await trio.lowlevel.checkpoint()
                else:
                    busy = False
                    await self._readable()
            if not self._receive():
                return
            while self._reader.lacking and self._comes_soon():
                if not self._receive():
                    return

    def _comes_soon(self) -> bool:
        """Whether the next call is here, or comes before the loop would sleep."""
        look = self._common.look
        return look is not None and not self._reader.starved and look(self._fd)

    @property
    def _full(self) -> bool:
        calls, unsent = self._in_flight, self._out_bytes
        return (
            calls >= IN_FLIGHT_MAX
            or unsent >= OUT_BYTES_MAX
            or ((unsent > 0 or calls > 0) and self._outgoing.full)
            or (calls > 0 and self._incoming.full)
        )

    def _turn(self) -> tuple[int, bool]:
        """Begin calls that are here; (how many, whether there may be more)."""
        now = perf_counter()
        end = now + TURN_S
        served = 0
        reader = self._reader
        while True:
            if (self._out_bytes or self._in_flight) and self._full:
                return served, True
            answered = self._again()
            if not answered:
                record = reader.next()
                if record is None:
                    return served, False
                self._begin(record)
                answered = 1
            self._deadline = None
            self.active_s = now
            served += answered
            if not reader.partial:
                return served, bool((self._out_bytes or self._in_flight) and self._full)
            if perf_counter() > end:
                return served, True

    def _again(self) -> int:
        """Answer what need not be read as calls; how many these were (rpc.Again)."""
        reader = self._reader
        answered = self._common.dispatcher.again(reader.ahead, self)
        if answered is None:
            return 0
        taken, calls, answer = answered
        reader.skip(taken)
        if not self._out and not reader.partial:
            self._send_alone(answer)
            return calls
        self._queue((answer,), len(answer))
        if self._out_bytes >= SEND_BYTES:
            self._flush()
        return calls

    def _begin(self, record: Record) -> None:
        try:
            started = self._common.dispatcher.start(record.view, self)
        except BaseException:  # it is no call
            self._give_back(record)
            raise
        if isinstance(started, Running):
            self._in_flight += 1
            started.promised = started.out.promised
            self._outgoing.add(started.promised)
            if record.buffer is None:
                self._incoming.add(len(record.view))
            self._wait(started, record)
            return
        if started is not None:
            self._put(started)
        self._give_back(record)

    def _give_back(self, record: Record) -> None:
        if record.buffer is not None:
            record.view.release()
            self._common.buffers.give(record.buffer, self._reader.portion)

    def _receive(self) -> bool:
        """Take what has come; False when the client will send nothing any more."""
        space = self._reader.space()
        if not space:
            return True
        try:
            count = self._socket.recv_into(space)
        except BlockingIOError:
            return True
        self._reader.received(count)
        return count > 0

    async def _readable(self) -> None:
        if not self._reader.partial:
            self._reader.rest()
            await trio.lowlevel.wait_readable(self._socket)
            return
        if self._deadline is None:
            self._deadline = trio.current_time() + self._common.stalled_s
            self.active_s = perf_counter()
        reader = self._reader
        with trio.fail_at(self._deadline):
            if not reader.starved:
                await trio.lowlevel.wait_readable(self._socket)
            while reader.starved and reader.portion.full:
                await self._common.buffers.given(reader.portion)

    # --- calls that wait

    def _wait(self, running: Running, record: Record) -> None:
        if isinstance(running.wait, Notice):
            self._told.setdefault(running.wait, []).append((running, record))
        else:
            self._common.nursery.start_soon(self._finish, running, record)

    def _await_notices(self) -> None:
        """Ask for what the calls of this turn wait for, now that it has them all."""
        while self._told:
            notice, calls = self._told.popitem()
            notice.tell(partial(self._go_on, calls))

    def _go_on(self, calls: list[tuple[Running, Record]], problem: Exception | None) -> None:
        """What they have waited for has come, or failed."""
        for running, record in calls:
            self._common.dispatcher.advance(running, problem)
            if running.wait is None:
                self._ended(running, record)
            else:
                self._wait(running, record)
        self._await_notices()
        self._flush()

    async def _finish(self, running: Running, record: Record) -> None:
        try:
            await self._common.dispatcher.finish(running)
        except BaseException:
            self._over(running, record)
            raise
        self._ended(running, record)
        self._flush()

    def _over(self, running: Running, record: Record) -> None:
        """A call is not under way any more."""
        self._in_flight -= 1
        self._outgoing.add(-running.promised)
        self._relief.set()
        if record.buffer is None:
            self._incoming.add(-len(record.view))
        self._give_back(record)

    def _ended(self, running: Running, record: Record) -> None:
        """Have its answer sent to who has asked last."""
        self._over(running, record)
        asker = self if running.entry is None else running.entry.asker
        if asker is self:
            self._put(running.answer)
        elif isinstance(asker, Connection):
            asker.send(running.answer)

    # --- out

    def send(self, answer: list[Part]) -> None:
        """Send an answer, now as far as the socket takes it."""
        self._put(answer)
        self._flush()

    def _put(self, answer: list[Part]) -> None:
        if not self.closed:
            parts = marked(answer)
            self._queue(parts, sum(map(len, parts)))

    def _send_alone(self, answer: Part) -> None:
        """Send one that nothing waits before and nothing comes after; what the socket does not take
        now, ``_flush`` does."""
        try:
            sent = self._socket.send(answer)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._hang_up()
            return
        if sent < len(answer):
            self._queue((rest_of(answer, sent),), len(answer) - sent)

    def _queue(self, parts: Iterable[Part], size: int) -> None:
        self._out.extend(parts)
        self._out_bytes += size
        self._outgoing.add(size)

    def _flush(self) -> None:
        """Send; what the socket does not take now, a task sends later."""
        if self._sending or self.closed:
            return
        try:
            if self._push():
                return
        except OSError:
            self._hang_up()
            return
        self._sending = True
        self._common.nursery.start_soon(self._push_rest)

    def _push(self) -> bool:
        """Whether all is sent."""
        while self._out:
            try:
                count = self._socket.sendmsg(list(islice(self._out, PARTS_MAX)))
            except BlockingIOError:
                return False
            self._sent(count)
        return True

    def _sent(self, count: int) -> None:
        self._out_bytes -= count
        self._outgoing.add(-count)
        while count:
            first = self._out.popleft()
            if count < len(first):
                self._out.appendleft(rest_of(first, count))
                return
            count -= len(first)

    async def _push_rest(self) -> None:
        try:
            while not self.closed and self._out:
                self.active_s = perf_counter()
                with trio.fail_after(self._common.stalled_s):
                    await trio.lowlevel.wait_writable(self._socket)
                self._push()
                self._relief.set()
        except (OSError, trio.TooSlowError, trio.ClosedResourceError):
            self._hang_up()
        finally:
            self._sending = False
            self._relief.set()

    def _hang_up(self) -> None:
        """Nobody reads here any more: the receiving side wakes up and closes."""
        self._forget_out()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _forget_out(self) -> None:
        self._out.clear()
        self._outgoing.add(-self._out_bytes)
        self._out_bytes = 0

    async def _wait_for_relief(self) -> None:
        if self._relief.is_set():
            self._relief = trio.Event()
        await self._relief.wait()
