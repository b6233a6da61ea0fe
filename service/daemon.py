"""``ramet serve``: the one process that owns a store, and all doors to it in one trio program.

Everything that changes the store runs on this loop; commits, gc's mark and fsck run on threads, on
captured state.  A change that came by RPC is answered when it is durable and when the kernel has
forgotten what it knew before.  SIGTERM, SIGINT, ``shutdown`` or the end of the mount end it: the
mount goes, the last commit is written, the store closes.
"""

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import trio

from engine import Store, errors
from engine.accounting import Accounting
from fusefs.invalidate import Invalidator, all_volumes
from fusefs.mount import check_mountpoint
from fusefs.mount import serve as serve_mount
from service import integrity, luns, operations, shares, smb_shares, vms
from service.addresses import Context
from service.cleaner import Cleaner
from service.commits import Committer
from service.log import log, log_exception
from service.presenter import Presenter
from service.rpc import OS_ERRORS, SOCKET, Answer, Request, body_length, decode_request, door, pack
from service.steps import Beside

ROOMS = (operations, vms, integrity, shares, luns, smb_shares)
READS = {call.__name__: call for room in ROOMS for call in room.READS}
CHANGES = {call.__name__: call for room in ROOMS for call in room.CHANGES}
ACCEPT_PAUSE_S = 0.1
SWITCH_INTERVAL_S = 0.0002  # how long a thread's Python may keep the loop, and so a guest, waiting


class Daemon:
    """One store, served."""

    def __init__(self, store: Store, mountpoint: Path | None) -> None:
        self.store = store
        self.mountpoint = mountpoint
        self.presenter = None if mountpoint is None else Presenter(Context(store, mountpoint))
        self.context = Context(store, mountpoint, presenter=self.presenter)
        self.committer = Committer(store)
        self.cleaner = Cleaner(store, self.committer)
        self.invalidator: Invalidator | None = None
        self._scope = trio.CancelScope()
        self._own: dict[str, Callable[..., Any]] = {
            "status": self._status, "shutdown": self._shutdown, "gc": self._gc,
            "account": self._account,
        }  # fmt: skip

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until told to stop; ``ready`` is called when every door is open."""
        if self.mountpoint is not None:
            check_mountpoint(self.mountpoint)
        with self._listen() as listener, self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.committer.run)
                nursery.start_soon(self.cleaner.run)
                nursery.start_soon(self._stop_on_signal)
                if self.mountpoint is not None:
                    await nursery.start(self._mount)
                if self.presenter is not None:
                    await nursery.start(self.presenter.run)
                nursery.start_soon(self._accept, listener, nursery)
                ready()

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
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                await self._withdraw()
                self._scope.cancel()

    async def _withdraw(self) -> None:
        """What lies on the mount is presented no more, while the mount can still answer."""
        if self.presenter is not None:
            await self.presenter.stop()

    async def _mount(self, task_status: trio.TaskStatus[None]) -> None:
        assert self.mountpoint is not None
        self.invalidator = Invalidator(self.store, all_volumes)
        try:
            await serve_mount(
                self.store, self.mountpoint, durable=self.committer.durable,
                admit=self.committer.admit, task_status=task_status,
            )  # fmt: skip
        finally:
            self.invalidator.close()
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
                try:
                    frame = pack(answer)
                except Exception as error:
                    frame = pack(
                        Answer(kind="RametError", message=f"no answer can be sent: {error}")
                    )
                await stream.send_all(frame)

    async def _answer(self, stream: trio.SocketStream) -> Answer:
        try:
            self._check_peer(stream)
            body = await _receive(stream, body_length(await _receive(stream, 4)))
            request = decode_request(body)
            return Answer(await self._perform(request))
        except errors.RametError as error:
            return Answer(kind=type(error).__name__, message=str(error))
        except OSError as error:
            kind = OS_ERRORS.get(error.errno or 0, errors.RametError)
            return Answer(kind=kind.__name__, message=str(error))
        except Exception as error:
            # Arguments of a wrong type, mostly. One request must not take the mount down with it.
            log_exception()
            return Answer(kind="RametError", message=f"{type(error).__name__}: {error}")

    @staticmethod
    def _check_peer(stream: trio.SocketStream) -> None:
        raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = struct.unpack("3i", raw)[1]
        if uid not in (0, os.geteuid()):
            raise errors.NotPermitted("only the store's owner may use its daemon")

    async def _perform(self, request: Request) -> Any:
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
            result = await Beside(self.committer.admit, self._settled, self._foreign).run(result)
        if request.method in CHANGES:
            await self._settled()
        return result

    async def _settled(self) -> None:
        """What was done is on disk, and the mount shows it."""
        await self.committer.durable()
        if self.invalidator:
            await self.invalidator.settled()

    def _foreign(self) -> contextlib.AbstractContextManager[None]:
        return self.invalidator.foreign() if self.invalidator else contextlib.nullcontext()

    async def _status(self) -> dict[str, Any]:
        return (
            {
                "pid": os.getpid(),
                "store": str(self.store.path),
                "mountpoint": str(self.mountpoint) if self.mountpoint else None,
                "failed": self.store.failed,
                "dirty_nodes": self.store.dirty_nodes,
            }
            | self.cleaner.status()
            | integrity.status(self.context)
            | shares.status(self.context)
        )

    async def _shutdown(self) -> dict[str, Any]:
        await self._withdraw()
        self._scope.deadline = trio.current_time() + 0.05  # after the answer has been sent
        return {"stopped": os.getpid()}

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


def serve(store_path: str, mountpoint: str | None, ready: Callable[[], None]) -> None:
    """Own a store until told to stop.  NoSuchStore, StoreInUse, and what a mount refuses."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with Store.open(store_path) as store:
        for leftover in (store.path / SOCKET).parent.glob("import-*"):
            leftover.unlink()  # of a conversion that a crash cut short
        daemon = Daemon(store, None if mountpoint is None else Path(mountpoint).absolute())
        try:
            trio.run(daemon.run, ready)
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            (store.path / SOCKET).unlink(missing_ok=True)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
