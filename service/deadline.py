"""Calls that may never return: each on a thread of its own, given up when nothing comes of it.

libvirt's calls have no timeout, and a host that has lost its network answers nothing.  A call that
is given up goes on in its thread and ends when it ends; nobody looks at what it returns, so it must
be one that does no harm then.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from engine import errors

T = TypeVar("T")
Tick = Callable[[], None]
ANSWER_S = 30.0  # how long a host may take to answer one question


class _Call(Generic[T]):
    def __init__(self, work: Callable[[Tick], T]) -> None:
        self._work = work
        self.done = threading.Event()
        self.result: T | Exception
        self.tick()
        threading.Thread(target=self._run, daemon=True).start()

    def tick(self) -> None:
        self.alive_s = time.monotonic()

    def _run(self) -> None:
        try:
            self.result = self._work(self.tick)
        except Exception as error:
            self.result = error
        self.done.set()


def beside(
    works: Mapping[str, Callable[[Tick], T]], silent_s: float
) -> dict[str, T | Exception]:  # fmt: skip
    """Run all at once; what each returned or raised, by its key.

    A work calls what it is given whenever it has got on; RametError stands for one that has not
    for ``silent_s``.
    """
    calls = {key: _Call(work) for key, work in works.items()}
    results: dict[str, T | Exception] = {}
    for key, call in calls.items():
        while not call.done.wait(max(0.0, call.alive_s + silent_s - time.monotonic())):
            if time.monotonic() >= call.alive_s + silent_s:
                break
        if call.done.is_set():
            results[key] = call.result
        else:
            results[key] = errors.RametError(f"no answer in {silent_s:g} s")
    return results


def within(silent_s: float, work: Callable[[], T]) -> T:
    """What one work returns; RametError when it does not in time."""
    result = beside({"": lambda _: work()}, silent_s)[""]
    if isinstance(result, Exception):
        raise result
    return result
