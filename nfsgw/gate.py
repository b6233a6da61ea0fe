"""What the gateway needs of the program that owns the store.

A procedure is an ordinary function, run on the loop's thread between other requests, or a generator
that yields what has to be awaited before it goes on: ``durable`` (all that was done before is on
disk), ``admit`` (there is room for another change), ``settled`` (the mount shows what was changed),
``on_thread`` (a thread has had read what is not in memory; engine/cold.py).
The server runs it in place until it yields, and beside other requests from there on.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from engine import Store
from engine.cold import Cold, Steps, Work, hasty, read_only
from engine.errors import RametError

Wait = Callable[[], Awaitable[None]]
Told = Callable[[Exception | None], object]
Waits = Generator[Wait, None, None]
Outcome = Waits | None
T = TypeVar("T")


async def on_thread(work: Work) -> None:
    """Where nobody else has threads to spare."""
    await trio.to_thread.run_sync(work)


@dataclass(frozen=True)
class Notice:
    """A wait that needs no task: ``tell`` calls back, once, on the loop's thread, perhaps at once,
    with None or with what ``wait`` would have raised."""

    wait: Wait
    tell: Callable[[Told], None]

    def __call__(self) -> Awaitable[None]:
        return self.wait()


@dataclass(frozen=True)
class Gate:
    """``foreign`` encloses each change: the mount's kernel has to be told of it, which
    ``unsettled`` says is not done yet; ``watched`` says of a volume's inode whether there would be
    anything to tell of it; ``full`` says that ``admit`` would wait,
    ``crowded`` that it would do so for another reason than a full disk, of which a write that is
    not admitted is told by NoSpace.  ``durable`` raises StoreFailed, or NoSpace when the disk is
    full.
    """

    store: Store
    durable: Wait
    admit: Wait
    full: Callable[[], bool]
    foreign: Callable[[], AbstractContextManager[None]]
    settled: Wait
    unsettled: Callable[[], bool]
    on_thread: Callable[[Work], Awaitable[None]] = on_thread
    watched: Callable[[int, int], bool] = lambda volume_id, ino: False
    crowded: Callable[[], bool] = lambda: False

    def driven(self, steps: Steps[T]) -> Generator[Wait, None, T]:
        """Engine steps to their end, each of their waits on a thread."""
        with closing(steps):
            while True:
                try:
                    work = next(steps)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                yield partial(self.on_thread, work)

    def warm(self, look: Callable[[], object]) -> Waits:
        """Until what ``look`` reads is in memory; it changes nothing, and its errors are told by
        what comes after."""
        pool = self.store.pool
        with suppress(RametError, OSError, ValueError):
            try:
                hasty(pool, look)
            except Cold:
                yield from self.driven(read_only(pool, look))

    def room(self) -> Waits:
        """Before a change enters the engine."""
        if self.full():
            yield self.admit

    def shown(self) -> Waits:
        """Before a change that need not be durable is answered."""
        if self.unsettled():
            yield self.settled

    def stored(self) -> Waits:
        """Before a change that must be durable is answered."""
        yield self.durable
        yield from self.shown()
