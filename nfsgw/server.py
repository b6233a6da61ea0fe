"""The server: listeners, and no more connections than it can serve.

One ``Server`` has one set of programs; it may listen in several places, open and close them while
it runs.  When there are CONNECTIONS_MAX, one of the address that has most makes room for who comes
from another, and when an address has ADDRESS_MAX, one of its own: the one that has been idle
longest, or else the one whose client has kept us waiting longest, in the middle of a record or of
an answer.  So nobody keeps others out by holding connections, whatever he does with them, but with
calls under way: where there are nothing but these, who comes is turned away.  When the server's
task is cancelled nothing more is read, and what was begun is answered: what a call waits for has to
work until then.
"""

import errno
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import perf_counter

import trio

from engine import errors
from nfsgw.connection import (
    IN_TOTAL_MAX,
    LINGER_S,
    OUT_TOTAL_MAX,
    STALLED_S,
    Common,
    Connection,
    Look,
)
from nfsgw.dispatch import Dispatcher
from nfsgw.quotas import Quota
from nfsgw.record import LARGE_BUFFERS_MAX, Buffers
from nfsgw.replay import Checksum, ReplayCache
from nfsgw.rpc import Address, Program

CONNECTIONS_MAX = 1024
ADDRESS_MAX = 512  # a hypervisor has one a disk
BACKLOG = 128
ACCEPT_PAUSE_S = 0.1
ACCEPTED_MAX = 16  # in one turn
SILENT_S = 5.0  # in the middle of something; then it makes room for another of its address


def listening(host: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket bound to a place, listening if it is a stream; Busy when the place is taken,
    InvalidArgument when the host has no such address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        if kind == socket.SOCK_STREAM:
            made.listen(BACKLOG)
    except OSError as error:
        made.close()
        match error.errno:
            case errno.EADDRINUSE:
                raise errors.Busy(
                    f"port {port} of {host} is taken by another server; stop that one, or use "
                    f"`--listen` with another address, 127.0.0.2 say"
                ) from None
            case errno.EADDRNOTAVAIL:
                raise errors.InvalidArgument(
                    f"this host has no address {host}; see `ip address`"
                ) from None
            case errno.EACCES | errno.EPERM:
                raise errors.NotPermitted(
                    f"only root listens at port {port}; `--listen {host}:PORT` with one above 1023"
                ) from None
        raise
    return made


class Server:
    """Programs behind sockets.  ``failed`` is told, in an except clause, of bugs in them;
    ``checksum`` is what duplicate requests are known by."""

    def __init__(
        self, programs: Iterable[Program], *, failed: Callable[[], None] = lambda: None,
        connections_max: int = CONNECTIONS_MAX, address_max: int = ADDRESS_MAX,
        stalled_s: float = STALLED_S, silent_s: float = SILENT_S,
        out_total_max: int = OUT_TOTAL_MAX, in_total_max: int = IN_TOTAL_MAX,
        buffers_max: int = LARGE_BUFFERS_MAX, checksum: Checksum | None = None,
        look: Look | None = None,
    ) -> None:  # fmt: skip
        self.dispatcher = Dispatcher(programs, ReplayCache(checksum), failed)
        self.failed = failed
        self._buffers = Buffers(buffers_max)
        self.incoming, self.outgoing = Quota(in_total_max), Quota(out_total_max)
        self._stalled_s, self._silent_s = stalled_s, silent_s
        self._look = look
        self._connections_max, self._address_max = connections_max, address_max
        self._by_address: defaultdict[Address, set[Connection]] = defaultdict(set)
        self._connections: set[Connection] = set()
        self._common: Common | None = None
        self._gone = trio.Event()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started when ``accept`` may be called."""
        calls = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._shielded, calls)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                await self._end()
                calls.cancel()

    async def _shielded(
        self, calls: trio.CancelScope, task_status: trio.TaskStatus[None]
    ) -> None:  # fmt: skip
        """Connections and calls: they end when they are told to, not when ``run`` is."""
        with calls:
            async with trio.open_nursery() as nursery:
                self._common = Common(
                    self.dispatcher, self._buffers, nursery, self.incoming, self.outgoing,
                    self._look, self._stalled_s,
                )  # fmt: skip
                task_status.started()
                await trio.sleep_forever()

    async def _end(self) -> None:
        """Read nothing more; what was begun is answered."""
        with trio.move_on_after(LINGER_S, shield=True):
            for connection in self._connections:
                connection.stop()
            while self._connections:
                self._gone = trio.Event()
                await self._gone.wait()

    async def accept(self, listener: socket.socket, dispatcher: Dispatcher | None = None) -> None:
        """Serve who comes to a listener, until cancelled; those who came stay.  ``dispatcher`` has
        the programs of this place, if they are others."""
        assert self._common is not None, "the server runs"
        common = (
            self._common if dispatcher is None else replace(self._common, dispatcher=dispatcher)
        )
        with listener:
            while True:
                await trio.lowlevel.wait_readable(listener)
                for _ in range(ACCEPTED_MAX):
                    try:
                        accepted, _ = listener.accept()
                    except BlockingIOError:
                        break
                    except (
                        OSError
                    ):  # reset meanwhile; or out of descriptors: others give theirs back
                        await trio.sleep(ACCEPT_PAUSE_S)
                        break
                    if self._admit(accepted, common):
                        break

    def _admit(self, accepted: socket.socket, common: Common) -> bool:
        """Whether others should have their turn now: there was a look at many connections."""
        try:
            connection = Connection(accepted, common)
        except OSError:  # it is gone already
            accepted.close()
            return False
        mine = len(self._by_address.get(connection.address, ())) >= self._address_max
        crowded = mine or len(self._connections) >= self._connections_max
        if crowded and not self._make_room(connection.address, mine):
            accepted.close()
            return True
        common.nursery.start_soon(self._serve, connection)
        self._connections.add(connection)
        self._by_address[connection.address].add(connection)
        return crowded

    def _make_room(self, address: Address, mine: bool) -> bool:
        """Let a connection go for one of an address: of those that have more, the most first, or
        else, or only (``mine``), one of its own; whether there was one that may go."""
        own = self._by_address.get(address, set())
        richer = [] if mine else [one for one in self._by_address.values() if len(one) > len(own)]
        for each in sorted(richer, key=len, reverse=True):
            found = _least_missed(each)
            if found is not None:
                break
        else:
            silent = perf_counter() - self._silent_s
            found = _least_missed(each for each in own if each.idle or each.active_s <= silent)
        if found is not None:
            found.let_go()
            self._forget(found)
        return found is not None

    def _forget(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            left = self._by_address[connection.address]
            left.discard(connection)
            if not left:
                del self._by_address[connection.address]

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        except Exception:  # ours: it ends one connection, not the mount
            self.failed()
        finally:
            self._forget(connection)
            self._gone.set()


def _least_missed(connections: Iterable[Connection]) -> Connection | None:
    """The longest idle one, or else the one whose client has been silent longest; none of those
    that owe an answer."""
    return min(
        (each for each in connections if not each.owed),
        key=lambda each: (not each.idle, each.active_s),
        default=None,
    )
