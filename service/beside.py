"""The daemon's driver of steps (service/steps.py): on its trio loop, beside everything else.

Apart from the steps themselves, so that a command which runs them on a store of its own needs no
trio.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import trio

from service.steps import HypervisorCall, Insisted, Steps, Stopping, durable

T = TypeVar("T")
TOLD = "the daemon is stopping; what was done is undone"
HYPERVISOR_CALLS = trio.CapacityLimiter(16)


class Beside:
    """Runs steps on a trio loop beside others: work on threads, turns for everybody.

    ``admit`` waits before a stretch, ``stretch`` wraps it, ``commit`` makes durable.  A cancelled
    run goes on until its steps have undone what they did; they are told so again after what they
    insist on.
    """

    def __init__(
        self, admit: Callable[[], Awaitable[None]], commit: Callable[[], Awaitable[None]],
        stretch: Callable[[], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        self._admit = admit
        self._commit = commit
        self._stretch = stretch

    async def run(self, steps: Steps[T]) -> T:
        value: Any = None
        error: Exception | None = None
        cancelled: trio.Cancelled | None = None
        owed = False
        with trio.CancelScope() as scope:
            while True:
                try:
                    with self._stretch():
                        work = steps.throw(error) if error else steps.send(value)
                except StopIteration as done:
                    result: T = done.value
                    return result
                except Stopping:
                    if cancelled is not None:
                        raise cancelled from None
                    raise
                value, error = None, None
                if owed and not isinstance(work, Insisted):
                    owed, error = False, Stopping(TOLD)
                    continue
                try:
                    value = await self._between(work)
                except Exception as raised:
                    error = raised
                except trio.Cancelled as stop:
                    cancelled, scope.shield = stop, True
                    error, owed = Stopping(TOLD), isinstance(work, Insisted)
        raise AssertionError("the scope is never cancelled by itself")

    async def _between(self, work: Callable[[], Any] | None) -> Any:
        await trio.lowlevel.checkpoint()
        if work is durable:
            return await self._commit()
        await self._admit()
        if work is None:
            return None
        limiter = HYPERVISOR_CALLS if isinstance(work, HypervisorCall) else None
        return await trio.to_thread.run_sync(work, limiter=limiter)
