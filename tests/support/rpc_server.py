"""Programs served on a thread of their own, for as long as a test wants."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import trio

from nfsgw.rpc import Program
from nfsgw.server import Server, listening

DEADLINE_S = 60


class Hosted:
    """A running server; ``failures`` has what its programs raised and should not have."""

    def __init__(self) -> None:
        self.address = ("", 0)
        self.server: Server
        self.failures: list[BaseException] = []
        self.token: trio.lowlevel.TrioToken
        self._nursery: trio.Nursery
        self._scope = trio.CancelScope()
        self._ready = threading.Event()

    def do(self, call: Callable[[], Any]) -> Any:
        """Call something on the server's own thread, between two requests."""
        return trio.from_thread.run_sync(call, trio_token=self.token)

    def start(self, task: Callable[..., Any], *arguments: Any) -> None:
        """A task more, until the server stops."""
        self.do(partial(self._nursery.start_soon, task, *arguments))

    async def main(self, programs: Iterable[Program], host: str, limits: dict[str, Any]) -> None:
        self.token = trio.lowlevel.current_trio_token()
        self.server = Server(programs, failed=self._failed, **limits)
        listener = listening(host, 0)
        self.address = listener.getsockname()[:2]
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self.server.run)
                nursery.start_soon(self.server.accept, listener)
                self._ready.set()

    def _failed(self) -> None:
        error = sys.exc_info()[1]
        assert error is not None
        self.failures.append(error)

    def ready(self) -> None:
        assert self._ready.wait(DEADLINE_S)

    def stop(self) -> None:
        self.do(self._scope.cancel)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The server's thread does nothing meanwhile."""
        begun, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            assert go_on.wait(DEADLINE_S)

        thread = threading.Thread(target=self.do, args=(hold,))
        thread.start()
        assert begun.wait(DEADLINE_S)
        try:
            yield
        finally:
            go_on.set()
            thread.join()


@contextlib.contextmanager
def hosting(
    programs: Iterable[Program], host: str = "127.0.0.1", **limits: Any
) -> Iterator[Hosted]:
    """A server of these programs on a free port; ``limits`` are the Server's."""
    hosted = Hosted()
    thread = threading.Thread(target=trio.run, args=(hosted.main, programs, host, limits))
    thread.start()
    hosted.ready()
    try:
        yield hosted
    finally:
        hosted.stop()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
