"""The NFS gateway inside the daemon: what the records export is served, and seen to be.

``settle`` reads the records, hands the table of exports to the server, opens and closes listeners,
and asks, through a socket of its own, for each export that was not seen to be served yet.  The
task settles again when something failed a while ago.  Names need no settling: when volumes change,
the table is replaced in the same step, so a renamed volume is mounted by its new name at once.

A listener serves NFS and MOUNT at one port; beside it, at port 111 of its address, is a port
mapper that leads there: ours, or where that port is taken by the host's rpcbind, that one, told of
our programs.  Where NFS has its usual port it must be so, for QEMU asks there; elsewhere clients
have been told the ports, and 111 may be anybody's.

All exports are at every listener: who may use one is what its rules say, not where it is asked for.
Invariants: one settle at a time; there is no key of file handles, and so no server, before the
first export; listeners close before connections, which end before commits do.
"""

import functools
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from engine import Change, Store, errors
from hypervisor.host_daemon import Listen
from nfsgw import mount3, portmap, rpcbind
from nfsgw.connection import Look
from nfsgw.dispatch import Dispatcher
from nfsgw.exports import Export, Exports
from nfsgw.files import Files
from nfsgw.gate import Gate
from nfsgw.handles import KEY_BYTES, Handles
from nfsgw.mount3 import Mount3
from nfsgw.nfs3 import protocol as nfs3
from nfsgw.nfs3.program import Nfs3
from nfsgw.portmap import Mapping, Portmap
from nfsgw.probe import probe, probe_portmap
from nfsgw.replay import ReplayCache
from nfsgw.server import Server, listening
from nfsgw.v4 import protocol as nfs4
from nfsgw.v4.program import Nfs4
from nfsgw.v4.state import State
from service import share_records as records
from service.log import log, log_exception
from service.share_plan import FAILED, STARTING, UP, pause_s
from service.share_plan import State as ShareState
from service.share_records import Nfs, Table

STRANGER_S = 2.0  # how long what has port 111 may take to say that it is a port mapper
SWEEP_S = 60.0  # how often NFSv4 looks for clients that have gone silent
T = TypeVar("T")


@dataclass
class Place:
    """Where exports are served: its tasks, and what went wrong there last."""

    listen: Listen
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    serving: bool = False
    announced: bool = False  # to the host's rpcbind
    closed: trio.Event = field(default_factory=trio.Event)
    reason: str | None = None
    seen: set[Export] = field(default_factory=set)  # those that were seen to be served
    failed: dict[str, str] = field(default_factory=dict)  # by an export's path


class Gateway:
    """The exports of a store.  ``run`` is a task; ``settle`` may be called by others."""

    def __init__(self, store: Store, gate: Gate, look: Look | None = None) -> None:
        self._store = store
        self._look = look
        self._gate = gate
        self._table = Table(store)
        self._exports = Exports()
        self._server: Server | None = None
        self._state: State | None = None  # of NFSv4
        self._places: dict[Listen, Place] = {}
        self._states: dict[str, ShareState] = {}
        self._nursery: trio.Nursery | None = None
        self._alone = trio.Lock()
        self._threads = trio.CapacityLimiter(2)  # never behind what other threads wait for
        self._failures = 0
        self._trouble = trio.Event()

    @property
    def connections(self) -> int:
        """Clients' connections that there are."""
        return self._server.connections if self._server else 0

    # --- life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started when it has settled once.  What fails is a state of its share,
        never an exception."""
        self._store.listeners.append(self._changed)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while True:
                    await self._try()
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await self._trouble.wait()
                    await trio.sleep(pause_s(self._failures))
        finally:
            self._nursery = None
            self._store.listeners.remove(self._changed)

    async def _try(self) -> None:
        try:
            await self.settle()
        except Exception:
            log_exception()
            self._failed(failing=True)

    def _failed(self, *, failing: bool) -> None:
        if failing:
            self._failures += 1
            self._trouble.set()
        else:
            self._failures, self._trouble = 0, trio.Event()

    def _changed(self, change: Change) -> None:
        if change.what == "volumes" and self._exports.all():
            self._publish()

    # --- what is exported

    def _publish(self) -> list[tuple[Nfs, Export]]:
        """Put what the records say in place, now; what has no volume is no export."""
        found = []
        for nfs in self._table.exports():
            try:
                volume = self._store.volume_by_id(nfs.volume_id)
                rules = tuple(map(records.client_rule, nfs.clients))
            except errors.RametError as error:
                self._states[nfs.key] = ShareState(
                    FAILED, f"its volume is gone ({error}); remove it"
                )
                continue
            found.append((nfs, Export(nfs.number, f"/{volume}", volume.id, rules)))
        self._exports.replace([export for _, export in found], time.time_ns())
        if self._state is not None:
            self._state.export({export.id for _, export in found})
        return found

    async def settle(self) -> None:
        """Make it so now; Busy when the daemon is about to stop."""
        async with self._alone:
            if self._nursery is None:
                raise errors.Busy("the daemon is stopping; try again when it has started")
            before, self._states = self._states, {}
            wanted: dict[Listen, list[tuple[Nfs, Export]]] = {}
            for nfs, export in self._publish():
                wanted.setdefault(records.parsed(nfs.listen), []).append((nfs, export))
            for gone in self._places.keys() - wanted.keys():
                await self._close(self._places.pop(gone))
            for listen, exports in wanted.items():
                place = self._places.setdefault(listen, Place(listen))
                await self._serve(place, [export for _, export in exports], self._nursery)
                for nfs, export in exports:
                    self._states[nfs.key] = self._state_at(place, export)
            self._failed(failing=any(state.reason for state in self._states.values()))
            self._tell(before)

    @staticmethod
    def _state_at(place: Place, export: Export) -> ShareState:
        reason = place.reason or place.failed.get(export.path)
        return ShareState(UP) if reason is None else ShareState(FAILED, reason)

    def states(self) -> dict[str, ShareState]:
        """Every export's state, by its record's key."""
        return dict(self._states)

    def state(self, key: str) -> ShareState:
        return self._states.get(key, ShareState(STARTING))

    def _tell(self, before: dict[str, ShareState]) -> None:
        for key, state in self._states.items():
            if before.get(key) != state:
                log(f"{key} is {state.state}" + (f": {state.reason}" if state.reason else ""))

    # --- servers

    async def _serve(self, place: Place, exports: list[Export], nursery: trio.Nursery) -> None:
        """Have a place serve these, and look whether it does; what fails is in ``place``."""
        try:
            if not place.serving:
                await self._open(place, nursery)
            unseen = [export for export in exports if export not in place.seen]
            if unseen or place.reason:
                place.failed = await self._thread(
                    functools.partial(probe, *place.listen, unseen)
                )  # fmt: skip
                if place.listen.port == records.NFS_PORT:
                    await self._thread(functools.partial(
                        probe_portmap, place.listen.host, portmap.PORT, place.listen.port
                    ))  # fmt: skip
            place.seen = {export for export in exports if export.path not in place.failed}
            place.reason = None
        except (errors.RametError, OSError) as error:
            place.reason = str(error)

    async def _open(self, place: Place, nursery: trio.Nursery) -> None:
        """Listen.  Busy, NotPermitted, InvalidArgument; then nothing is left open."""
        server = self._server or await self._start(nursery)
        self._server = server
        host, port = place.listen
        listener = listening(host, port)
        try:
            mapper = await self._mapper(place)
        except BaseException:
            listener.close()
            raise
        place.scope, place.closed = trio.CancelScope(), trio.Event()
        place.serving = True
        nursery.start_soon(self._listen, place, server, listener, mapper)

    async def _mapper(self, place: Place) -> list[socket.socket]:
        """Sockets of a port mapper, stream and datagrams; none: there is another, which leads here
        or need not."""
        host, port = place.listen
        mapper: list[socket.socket] = []
        try:
            mapper.append(listening(host, portmap.PORT))
            mapper.append(listening(host, portmap.PORT, socket.SOCK_DGRAM))
        except (errors.RametError, OSError) as error:
            for each in mapper:
                each.close()
            if port != records.NFS_PORT:
                log(f"no port mapper for {place.listen}: {error}")
                return []
            await self._announce(place, error)
            return []
        return mapper

    async def _announce(self, place: Place, taken: Exception) -> None:
        """To the host's rpcbind, if it is that which has the port; else ``taken`` is raised."""
        try:
            await self._thread(
                functools.partial(probe_portmap, place.listen.host, portmap.PORT, None, STRANGER_S)
            )
            await self._thread(functools.partial(rpcbind.announce, _mappings(place.listen.port)))
        except errors.Busy:
            raise
        except (errors.RametError, OSError):
            raise taken from None
        place.announced = True

    async def _withdraw(self, place: Place) -> None:
        place.announced = False
        if not any(each.announced for each in self._places.values()):
            with trio.CancelScope(shield=True):
                mappings = _mappings(place.listen.port)
                await self._thread(functools.partial(rpcbind.withdraw, mappings))

    @staticmethod
    async def _close(place: Place) -> None:
        if place.serving:
            place.scope.cancel()
            await place.closed.wait()

    async def _listen(
        self, place: Place, server: Server, listener: socket.socket, mapper: list[socket.socket]
    ) -> None:
        try:
            with place.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.accept, listener)
                    if mapper:
                        guide = Dispatcher(
                            [Portmap(_mappings(place.listen.port))], ReplayCache(), log_exception
                        )
                        nursery.start_soon(server.accept, mapper[0], guide)
                        nursery.start_soon(portmap.serve_datagrams, mapper[1], guide)
        finally:
            for each in (listener, *mapper):
                each.close()
            if place.announced:
                await self._withdraw(place)
            place.serving = False
            place.closed.set()

    async def _start(self, nursery: trio.Nursery) -> Server:
        """The server, without a listener yet.  How often NFSv4 was started is in what it calls its
        clients, so that is on disk before there is one."""
        key = self._table.handle_key()
        if key is None or len(key) != KEY_BYTES:
            raise errors.Corrupt(
                "the key of file handles is damaged; remove all NFS exports and add them again"
            )
        files = Files(self._gate, self._exports, Handles(key))
        state = self._state = State(self._store)
        await self._gate.durable()
        server = Server(
            [Nfs3(files), Nfs4(files, state), Mount3(files)], failed=log_exception,
            checksum=self._store.pool.core, look=self._look,
        )  # fmt: skip
        await nursery.start(server.run)
        nursery.start_soon(self._sweep, state)
        return server

    async def _sweep(self, state: State) -> None:
        while True:
            with trio.move_on_after(SWEEP_S):
                await state.left.wait()
            try:
                while state.drain() or state.sweep():
                    await trio.lowlevel.checkpoint()
                if state.swept:
                    await self._gate.durable()
                    state.swept = False
            except errors.RametError:
                pass  # the store has failed: what others get waits for the disk, and fails
            except Exception:  # ours: clients go later, the mount stays
                log_exception()
                await trio.sleep(SWEEP_S)

    async def _thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._threads)


def _mappings(port: int) -> list[Mapping]:
    return [
        Mapping(nfs3.PROGRAM, nfs3.VERSION, portmap.TCP, port),
        Mapping(nfs4.PROGRAM, nfs4.VERSION, portmap.TCP, port),
        Mapping(mount3.PROGRAM, mount3.VERSION, portmap.TCP, port),
    ]
