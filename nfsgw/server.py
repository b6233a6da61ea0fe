"""The server: listeners, and no more connections than it can serve.

One ``Server`` has one set of programs; it may listen in several places, open and close them while
it runs.  When there are CONNECTIONS_MAX, or ADDRESS_MAX of one address, the one that has been idle
longest makes room for who comes, so nobody keeps others out by holding connections; where all are
busy he is turned away.  When the server's task is cancelled nothing more is read, and what was
begun is answered: what a call waits for has to work until then.
"""

import errno
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

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
    Waiting,
)
from nfsgw.dispatch import Dispatcher
from nfsgw.record import Buffers
from nfsgw.replay import Checksum, ReplayCache
from nfsgw.rpc import Program

CONNECTIONS_MAX = 1024
ADDRESS_MAX = 512  # a hypervisor has one a disk
BACKLOG = 128
ACCEPT_PAUSE_S = 0.1
ACCEPTED_MAX = 16  # in one turn


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
        stalled_s: float = STALLED_S, out_total_max: int = OUT_TOTAL_MAX,
        in_total_max: int = IN_TOTAL_MAX, checksum: Checksum | None = None,
        look: Look | None = None,
    ) -> None:  # fmt: skip
        self.dispatcher = Dispatcher(programs, ReplayCache(checksum), failed)
        self.failed = failed
        self._buffers = Buffers()
        self.incoming, self.outgoing = Waiting(in_total_max), Waiting(out_total_max)
        self._stalled_s = stalled_s
        self._look = look
        self._connections_max, self._address_max = connections_max, address_max
        self._by_address: Counter[str] = Counter()
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
                    self._admit(accepted, common)

    def _admit(self, accepted: socket.socket, common: Common) -> None:
        try:
            connection = Connection(accepted, common)
        except OSError:  # it is gone already
            accepted.close()
            return
        address = str(connection.address)
        mine = self._by_address[address] >= self._address_max
        if (mine or len(self._connections) >= self._connections_max) and not self._make_room(
            address if mine else None
        ):
            accepted.close()
            return
        common.nursery.start_soon(self._serve, connection)
        self._connections.add(connection)
        self._by_address[address] += 1

    def _make_room(self, address: str | None) -> bool:
        """Let the longest idle connection (of an address) go; whether there was one."""
        idle = (
            each
            for each in self._connections
            if each.idle and (address is None or str(each.address) == address)
        )
        longest = min(idle, key=lambda each: each.active_s, default=None)
        if longest is None:
            return False
        longest.stop()
        self._forget(longest)
        return True

    def _forget(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            address = str(connection.address)
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        except Exception:  # ours: it ends one connection, not the mount
            self.failed()
        finally:
            self._forget(connection)
            self._gone.set()
