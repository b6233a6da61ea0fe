"""Keeps what is shared presented: what the records say, the host's daemons do.

``settle`` works out what every daemon should present now (a plan, from the records and the store),
starts and stops daemons, hands each its part, and looks for itself that it is served.  Commands
change records and settle; the task settles again when a daemon has died, when names have changed
under a share, and when something failed a while ago.  So a share is presented again after a crash
of either side, follows renames, and is never called up before it answered.

Invariants:
- one settle at a time; plans are made on the loop, everything that may block is done on threads;
- daemons are started on the loop's thread, which lives as long as the program (host_daemon.py);
- all are stopped before the mount goes: the task is cancelled first, and ends them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import trio

from engine import Change, Store, errors
from hypervisor import samba, tgt
from service import share_records
from service.log import log, log_exception
from service.share_plan import (
    FAILED,
    ISCSI,
    STARTING,
    UP,
    Door,
    Plan,
    Planner,
    State,
    iscsi_door,
    pause_s,
)
from service.share_records import Target

TICK_S = 1.0
STOP_S_MAX = 20.0
T = TypeVar("T")


@dataclass
class Service:
    """A daemon and how it is doing; ``failed`` has parts by their name, ``reason`` all of it."""

    daemon: tgt.Tgtd | samba.Smbd
    applied: object = None
    failed: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    attempts: int = 0
    retry_at: float = 0.0


class Presenter:
    """One store's shares.  ``run`` is a task; ``settle`` and ``stop`` may be called by others."""

    def __init__(self, store: Store, mountpoint: Path) -> None:
        self._store = store
        self._mountpoint = mountpoint
        self._planner = Planner(store, mountpoint)
        self._services: dict[Door, Service] = {}
        self._plan = Plan()
        self._alone = trio.Lock()
        self._threads = trio.CapacityLimiter(4)  # never behind what other threads wait for
        self._stale = True
        self._stopped = False
        self._store.listeners.append(self._changed)

    def _changed(self, change: Change) -> None:
        if change.what in ("entry", "volumes") and self._plan.parts:
            self._stale = True

    # --- life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forever; started when it has settled once.  What fails is a state, never an exception."""
        try:
            while not self._stopped:
                if not await self._thread(os.path.ismount, self._mountpoint):
                    log("the mount was taken away; what lies on it is presented no more")
                    await self.stop()  # or its files keep it half alive
                elif self._due():
                    try:
                        await self.settle(patient=True)
                    except Exception:
                        log_exception()
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await trio.sleep(TICK_S)
        finally:
            with trio.move_on_after(STOP_S_MAX, shield=True):
                await self.stop()

    def _due(self) -> bool:
        now = trio.current_time()
        return self._stale or any(
            (each.reason or each.failed or not each.daemon.alive) and now >= each.retry_at
            for each in self._services.values()
        )

    async def settle(self, *, patient: bool = False) -> None:
        """Make it so now; ``patient``: leave alone what failed only just now."""
        async with self._alone:
            if self._stopped:
                raise errors.Busy("the daemon is stopping; try again when it has started")
            self._stale = False
            before = self.states()
            self._plan = self._planner.make()
            doors = self._plan.iscsi.keys() | self._plan.smb.keys()
            for door in self._services.keys() - doors:
                await self._end(self._services.pop(door).daemon)
            for door in doors:
                await self._present(door, patient=patient)
            self._tell(before)

    async def stop(self) -> None:
        """Stop every daemon; returns when they are gone.  A second call does nothing."""
        self._stopped = True
        async with self._alone:
            for service in self._services.values():
                await self._end(service.daemon)
            self._services.clear()
            if self._changed in self._store.listeners:
                self._store.listeners.remove(self._changed)

    async def _end(self, daemon: tgt.Tgtd | samba.Smbd) -> None:
        await self._thread(daemon.stop)
        await self._thread(daemon.clear)

    async def _thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await trio.to_thread.run_sync(work, *arguments, limiter=self._threads)

    # --- states

    def states(self) -> dict[str, State]:
        """Every share's state, by its record's key."""
        return self._plan.states | {
            key: self._state(*part) for key, part in self._plan.parts.items()
        }

    def state(self, key: str) -> State:
        return self.states().get(key, State(STARTING))

    def _state(self, door: Door, names: tuple[str, ...]) -> State:
        service = self._services.get(door)
        if service is None or (service.applied is None and service.reason is None):
            return State(STARTING)
        if service.reason is not None:
            return State(FAILED, service.reason)
        reason = next((service.failed[name] for name in names if name in service.failed), None)
        return State(UP) if reason is None else State(FAILED, reason)

    def _tell(self, before: dict[str, State]) -> None:
        for key, state in self.states().items():
            if before.get(key) != state:
                reason = f": {state.reason}" if state.reason else ""
                log(f"{key} is {state.state}{reason}")

    def target_failure(self, target: Target) -> str | None:
        """Why a target is not as its record says; None when it is."""
        service = self._services.get(iscsi_door(target))
        if service is None:
            return None
        return service.reason or service.failed.get(share_records.iqn(self._store, target))

    def connected(self, target: Target) -> list[str]:
        """The initiators that are logged in, ``name address``.  Any thread but the loop's."""
        service = self._services.get(iscsi_door(target))
        if service is None or not isinstance(service.daemon, tgt.Tgtd) or not service.daemon.alive:
            return []
        try:
            found = service.daemon.control.connections(share_records.tid(self._store, target))
        except (errors.RametError, OSError):
            return []  # the target is not there, or the daemon on its way out
        return sorted({f"{each.initiator} {each.address}" for each in found})

    def processes(self) -> dict[str, int]:
        """Process ids of the daemons, by kind and address."""
        return {
            f"{door.kind} {door.listen}": service.daemon.pid
            for door, service in self._services.items()
            if service.daemon.pid is not None and service.daemon.alive
        }

    # --- daemons

    def _directory(self, door: Door) -> Path:
        host = door.listen.host.replace(":", "_")
        return self._store.path / "run" / f"{door.kind}-{host}-{door.listen.port}"

    async def _present(self, door: Door, *, patient: bool) -> None:
        service = self._services.get(door)
        if service is None:
            daemon = (tgt.Tgtd if door.kind == ISCSI else samba.Smbd)(
                self._directory(door), door.listen
            )
            service = self._services[door] = Service(daemon)
        if patient and trio.current_time() < service.retry_at:
            return
        try:
            if not service.daemon.alive:
                if service.daemon.pid is not None:
                    log(f"{service.daemon.name} at {door.listen} died; it is started again")
                service.applied = None
                await self._start(service.daemon)
            await self._apply(door, service)
        except (errors.RametError, OSError) as error:
            service.reason = str(error)
            await self._thread(service.daemon.stop)
        if service.reason or service.failed:
            service.attempts += 1
            service.retry_at = trio.current_time() + pause_s(service.attempts)
        else:
            service.attempts = 0

    async def _start(self, daemon: tgt.Tgtd | samba.Smbd) -> None:
        await self._thread(daemon.kill)  # what is left of one that died
        await self._thread(daemon.prepare)
        daemon.spawn()
        await self._thread(daemon.await_ready)

    async def _apply(self, door: Door, service: Service) -> None:
        """Only what differs reaches the daemon; then each part is looked at."""
        wanted: tuple[Any, ...]
        if door.kind == ISCSI:
            wanted = tuple(self._plan.iscsi[door].values())
        else:
            wanted = tuple(self._plan.smb[door])
        if service.applied == wanted and not service.failed and not service.reason:
            return
        service.failed = await self._thread(self._apply_and_probe, service.daemon, wanted)
        service.applied, service.reason = wanted, None

    @staticmethod
    def _apply_and_probe(daemon: Any, wanted: tuple[Any, ...]) -> dict[str, str]:
        failed: dict[str, str] = daemon.apply(wanted)
        for part in wanted:
            name = part.iqn if isinstance(part, tgt.Target) else part.name
            if name in failed:
                continue
            if isinstance(part, tgt.Target):
                good = tuple(n for n in part.luns if f"{name}/{n.number}" not in failed)
                part = replace(part, luns=good)  # noqa: PLW2901 - what there is to look at
            try:
                daemon.probe(part)
            except (errors.RametError, OSError) as error:
                failed[name] = str(error)
        return failed
