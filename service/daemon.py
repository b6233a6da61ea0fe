"""``ramet serve``: the one process that owns a store, and all doors to it in one trio program.

Everything that changes the store runs on this loop; commits, gc's mark and fsck run on threads, on
captured state.  A change that came by RPC is answered when it is durable and when the kernel has
forgotten what it knew before.  SIGTERM, SIGINT, ``shutdown`` or the end of the mount end it, in
this order, each needing what comes after it: requests, which undo what they cannot finish; notices
to the kernel, which may wait for an answer of the mount; the mount; the commits; the store.  Only
then is ``shutdown`` answered, with what went wrong on the way.
"""

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import trio

from engine import Store, errors
from engine.accounting import Accounting
from fusefs.invalidate import Invalidator, all_volumes, one_volume
from fusefs.mount import check_mountpoint
from fusefs.mount import serve as serve_mount
from nfsgw.gate import Gate, Notice
from service import (
    clones,
    customizing,
    datastores,
    extents,
    hosts,
    integrity,
    job_commands,
    luns,
    maps,
    moments,
    nfs_shares,
    operations,
    registration,
    rescan,
    shares,
    smb_shares,
    vms,
    volume_maps,
)
from service.addresses import Context, View, volume_named
from service.beside import Beside
from service.cleaner import Cleaner
from service.commits import Committer
from service.cycles import short_looks
from service.disk_threads import on_thread
from service.gateway import Gateway
from service.indexer import Indexer
from service.jobs import Job
from service.log import log, log_exception
from service.mount_options import MountOptions
from service.mount_table import drop_binds
from service.polling import Polling
from service.presenter import Presenter
from service.rpc import OS_ERRORS, SOCKET, Answer, Request, body_length, decode_request, door, pack
from service.runner import Runner, Tell

MODULES = (
    operations, vms, datastores, integrity, job_commands, hosts, rescan, extents, maps, volume_maps,
    shares, luns, smb_shares, nfs_shares,
)  # fmt: skip
READS = {call.__name__: call for module in MODULES for call in module.READS}
CHANGES = {call.__name__: call for module in MODULES for call in module.CHANGES}
JOBS = {
    call.__name__: call
    for module in (clones, vms, datastores, registration, customizing)
    for call in module.JOBS
}
ACCEPT_PAUSE_S = 0.1
STOPS = (signal.SIGTERM, signal.SIGINT)
ALL = MountOptions()
NOWHERE = contextlib.nullcontext()  # there is no mount to be told
SWITCH_INTERVAL_S = 0.0002  # how long a thread's Python may keep the loop, and so a guest, waiting


class Daemon:
    """One store, served."""

    def __init__(
        self, store: Store, mountpoint: Path | None, options: MountOptions = ALL
    ) -> None:  # fmt: skip
        self.store = store
        self.mountpoint = mountpoint
        self.options = options
        self.shown = None if options.volume is None else volume_named(store, options.volume)
        self.committer = Committer(store)
        whole = mountpoint if self.shown is None else None
        view = View(mountpoint, self.shown) if mountpoint and self.shown else None
        self.presenter = None if whole is None else Presenter(store, whole)
        self.polling = Polling(options.poll_us)
        self.gateway = Gateway(store, self._gate(), self.polling.look)
        self.context = Context(
            store, whole, view, presenter=self.presenter, gateway=self.gateway
        )  # fmt: skip
        self.cleaner = Cleaner(store, self.committer)
        self.indexer = Indexer(store)
        self.invalidator: Invalidator | None = None
        self.runner = Runner(self.context, self._beside, self._settled)
        self._scope = trio.CancelScope()
        self._told_to_stop = False
        self._farewells: list[socket.socket] = []
        self._own: dict[str, Callable[..., Any]] = {
            "status": self._status, "gc": self._gc, "account": self._account,
            "job_cancel": self._job_cancel,
        }  # fmt: skip

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until told to stop; ``ready`` is called when every door is open."""
        if self.mountpoint is not None:
            check_mountpoint(self.mountpoint, nonempty=self.options.nonempty)
        with self._listen() as listener:
            async with trio.open_nursery() as commits:
                commits.start_soon(self.committer.run)
                async with trio.open_nursery() as mounts:
                    with self._scope:
                        remote = await self._recover()
                        if self.mountpoint is not None:
                            await mounts.start(self._mount)
                        await self._work(listener, remote, ready)
                    await self._stop_notices()
                    mounts.cancel_scope.cancel()
                commits.cancel_scope.cancel()

    async def _recover(self) -> list[Job]:
        """Undo what a crash has left half-done, before anybody sees it; returns the jobs for which
        a hypervisor must be asked."""
        interrupted = self.context.jobs.interrupted()
        await self.runner.recover(job for job in interrupted if not job.uri)
        return [*(job for job in interrupted if job.uri), *self.context.jobs.with_leftovers()]

    async def _work(
        self, listener: socket.socket, remote: list[Job], ready: Callable[[], None]
    ) -> None:  # fmt: skip
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_on_signal)
            nursery.start_soon(self._interrupt_passes)
            nursery.start_soon(self.cleaner.run)
            nursery.start_soon(self.indexer.run)
            await nursery.start(self.runner.run)
            if self.presenter is not None:
                await nursery.start(self.presenter.run)
            await nursery.start(self.gateway.run)
            nursery.start_soon(self.runner.recover, remote)
            nursery.start_soon(self._let_go)
            nursery.start_soon(self._accept, listener, nursery)
            ready()

    async def _let_go(self) -> None:
        """What an earlier daemon held; a store that is damaged there is served all the same."""
        try:
            await self._beside().run(moments.recover(self.context))
        except Exception:
            log_exception()

    def _listen(self) -> socket.socket:
        """The socket, for its owner only.  A crashed daemon's is in the way: the lock is ours."""
        path = self.store.path / SOCKET
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        old = os.umask(0o177)
        try:
            with door(self.store.path) as address:
                listener.bind(address)
        finally:
            os.umask(old)
        listener.listen(64)
        return listener

    async def _stop_on_signal(self) -> None:
        with trio.open_signal_receiver(*STOPS) as signals:
            if self._told_to_stop:  # before this was ready to hear of it
                self._scope.cancel()
            async for _ in signals:
                self._scope.cancel()

    def heed_signals(self) -> None:
        """From now on they stop the daemon, never the process: told twice, it stops no faster."""
        for each in STOPS:
            signal.signal(each, self._tell_to_stop)

    def _tell_to_stop(self, *_: object) -> None:
        self._told_to_stop = True

    async def _interrupt_passes(self) -> None:
        """When all of this is cancelled: threads do not hear of it by themselves."""
        try:
            await trio.sleep_forever()
        finally:
            self.store.pool.meta.interrupt()

    async def _stop_notices(self) -> None:
        if self.invalidator is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.invalidator.close)

    def _before_close(self) -> None:
        assert self.invalidator is not None
        assert self.mountpoint is not None
        self.invalidator.close()
        drop_binds(self.mountpoint)

    async def _mount(self, task_status: trio.TaskStatus[None]) -> None:
        assert self.mountpoint is not None
        number = all_volumes if self.shown is None else one_volume(self.shown)
        self.invalidator, options = Invalidator(self.store, number), self.options
        await serve_mount(
            self.store, self.mountpoint, volume=self.shown, durable=self.committer.synced,
            admit=self.committer.admit, full=self.committer.full,
            flags=options.flags, source=options.source,
            real_blocks=options.real_blocks, nonempty=options.nonempty,
            on_thread=on_thread, known=self.invalidator.known,
            drop_pages=self.invalidator.drop, settled=self.invalidator.settled,
            before_close=self._before_close,
            task_status=task_status,
        )  # fmt: skip
        self._scope.cancel()

    # --- RPC

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        waiting = trio.socket.from_stdlib_socket(listener)
        while True:
            try:
                connection, _ = await waiting.accept()
            except OSError as error:  # out of descriptors: those who are served give theirs back
                log(f"no new connection: {error}")
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            nursery.start_soon(self._serve, trio.SocketStream(connection))

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                answer = await self._answer(stream)
                if answer is None:
                    self._farewells.append(socket.socket(fileno=os.dup(stream.socket.fileno())))
                    self._scope.cancel()
                    return
                try:
                    frame = pack(answer)
                except Exception as error:
                    frame = pack(
                        Answer(kind="RametError", message=f"no answer can be sent: {error}")
                    )
                await stream.send_all(frame)

    @staticmethod
    async def _tell(stream: trio.SocketStream, progress: dict[str, Any]) -> None:
        await stream.send_all(pack(Answer(progress, more=True)))

    def farewell(self, error: BaseException | None) -> None:
        """The store is closed: answer who asked for that."""
        answer = Answer({"stopped": os.getpid()}) if error is None else _failed(error)
        for each in self._farewells:
            with each, contextlib.suppress(OSError):
                each.sendall(pack(answer))

    async def _answer(self, stream: trio.SocketStream) -> Answer | None:
        """None: the answer is the ``farewell``."""
        try:
            self._check_peer(stream)
            body = await _receive(stream, body_length(await _receive(stream, 4)))
            request = decode_request(body)
            if request.method == "shutdown":
                return None
            tell = partial(self._tell, stream) if request.progress else None
            return Answer(await self._perform(request, tell))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise  # nobody is there to be answered; a job goes on
        except Exception as error:
            # Arguments of a wrong type, mostly. One request must not take the mount down with it.
            if not isinstance(error, errors.RametError | OSError):
                log_exception()
            return _failed(error)

    @staticmethod
    def _check_peer(stream: trio.SocketStream) -> None:
        raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = struct.unpack("3i", raw)[1]
        if uid not in (0, os.geteuid()):
            raise errors.NotPermitted("only the store's owner may use its daemon")

    async def _perform(self, request: Request, tell: Tell | None) -> Any:
        if request.method in JOBS:
            return await self._job(request, tell)
        if request.method == "job_wait":
            (number,) = request.arguments
            return self.context.jobs.told(await self.runner.wait(number, tell))
        own = self._own.get(request.method)
        if own is not None:
            return await own(*request.arguments)
        call = READS.get(request.method) or CHANGES.get(request.method)
        if call is None:
            raise errors.Unsupported(f"the daemon knows no {request.method!r}; same version?")
        await self.committer.admit()
        with self._foreign():
            result = call(self.context, *request.arguments)
        if isinstance(result, Generator):
            result = await self._beside().run(result)
        if request.method in CHANGES:
            await self._settled()
        return result

    def _beside(self) -> Beside:
        return Beside(self.committer.admit, self._settled, self._foreign)

    async def _job(self, request: Request, tell: Tell | None) -> dict[str, Any]:
        """Its result when it has ended, or, if nobody wants to wait, what it is as it starts."""
        await self.committer.admit()
        running = self.runner.start(JOBS[request.method], request.arguments, request.after)
        if not request.wait:
            await self._settled()
            return self.context.jobs.told(running.job)
        await self.runner.wait(running.job.id, tell)
        if running.error is not None:
            raise running.error
        return running.result

    async def _job_cancel(self, number: int) -> dict[str, Any]:
        return self.context.jobs.told(await self.runner.cancel(number))

    def _gate(self) -> Gate:
        committer = self.committer
        return Gate(
            self.store, Notice(committer.synced, committer.tell), committer.admit, committer.full,
            self._foreign, self._shown,
            lambda: self.invalidator is not None and self.invalidator.unsettled(),
            on_thread,
            lambda *inode: self.invalidator is not None and self.invalidator.watches(*inode),
            committer.crowded,
        )  # fmt: skip

    async def _settled(self) -> None:
        """What was done is on disk, and the mount shows it."""
        await self.committer.durable()
        await self._shown()

    async def _shown(self) -> None:
        if self.invalidator:
            await self.invalidator.settled()

    def _foreign(self) -> contextlib.AbstractContextManager[None]:
        return self.invalidator.foreign if self.invalidator else NOWHERE

    async def _status(self) -> dict[str, Any]:
        return (
            {
                "pid": os.getpid(),
                "store": str(self.store.path),
                "mountpoint": str(self.mountpoint) if self.mountpoint else None,
                "volume": None if self.shown is None else str(self.shown),
                "failed": self.store.failed,
                "dirty_nodes": self.store.dirty_nodes,
            }
            | self.cleaner.status()
            | integrity.status(self.context)
            | shares.status(self.context)
        )

    async def _gc(self) -> dict[str, Any]:
        return operations.gc_figures(await self.cleaner.gc())

    async def _account(self) -> dict[str, Any]:
        """The pass runs on a thread, on the commit that is made for it."""
        await self.committer.durable()
        accounting = Accounting(self.store.pool)
        try:
            self.store.unique = await trio.to_thread.run_sync(accounting.run)
        finally:
            accounting.close()
        return {"as_of": operations.as_of(self.context)}


async def _receive(stream: trio.SocketStream, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = await stream.receive_some(min(count - len(parts), 1 << 16))
        if not part:
            raise errors.InvalidArgument("the request was cut short")
        parts += part
    return bytes(parts)


def serve(
    store_path: str, mountpoint: str | None, ready: Callable[[], None], options: MountOptions = ALL
) -> None:
    """Own a store until told to stop.  NoSuchStore, StoreInUse, and what a mount refuses.

    StoreFailed when the last changes could not be stored.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    daemon: Daemon | None = None
    try:
        with Store.open(store_path) as store:
            for leftover in (store.path / SOCKET).parent.glob("import-*"):
                leftover.unlink()  # of a conversion that a crash cut short
            path = None if mountpoint is None else Path(mountpoint).absolute()
            daemon = Daemon(store, path, options)
            _run(daemon, ready)
    except BaseException as error:
        if daemon is not None:
            daemon.farewell(error)
        raise
    daemon.farewell(None)


def _run(daemon: Daemon, ready: Callable[[], None]) -> None:
    store = daemon.store
    daemon.heed_signals()
    store.pool.meta.beside = True
    try:
        with short_looks():
            trio.run(daemon.run, ready, instruments=[daemon.polling])
    except BaseExceptionGroup as group:
        raise _first(group) from group
    finally:
        store.pool.meta.beside = False
        (store.path / SOCKET).unlink(missing_ok=True)
    if store.failed is not None:
        raise errors.StoreFailed(
            f"the last changes are not stored: {store.failed}; see to the disk, then open it again"
        )


def _failed(error: BaseException) -> Answer:
    """What went wrong, as a client is told."""
    if isinstance(error, errors.RametError):
        return Answer(kind=type(error).__name__, message=str(error))
    if isinstance(error, OSError):
        kind = OS_ERRORS.get(error.errno or 0, errors.RametError)
        return Answer(kind=kind.__name__, message=str(error))
    return Answer(kind="RametError", message=f"{type(error).__name__}: {error}")


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
