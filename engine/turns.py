"""Turns: how a pass on a thread leaves the interpreter to the engine thread, and so to a guest.

Python's switch interval does not do it.  Who waits for the interpreter asks for it only when a
whole interval has passed in which nobody let go of it, and a pass lets go of it every few
microseconds: each look into LMDB and each call of our C does.  It has it back before the waiting
thread has woken up.  Measured: reads through the mount stood for 30 to 250 ms beside a pass of
accounting, and for 25 ms beside fsck, with an interval of 0.2 ms.

So a pass goes away for a moment, longer than a thread takes to wake up, each time it has worked for
WORK_S, which is about what a read then waits at most.  While the engine thread has had nothing to
do for RECENT_S (``busy``), that is three times as much: who goes away more often takes longer.  In
a command that has the store to itself nobody waits, and it does not go away.

The other way to keep the interpreter is to free a lot at once: ``empty`` takes containers apart.
"""

import time
from typing import Any

WORK_S = 0.0001
WORK_ALONE_S = 0.0003
RECENT_S = 0.005
AWAY_S = 0.0001
PORTION = 256  # objects freed between two looks at the clock


class Busy:
    """When the engine thread last had something to do, in seconds of ``perf_counter``."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = 0.0


busy = Busy()
"""Of this process: who waits on the engine thread notes there when it was woken."""


class Turns:
    """Of one pass, on one thread at a time.  ``beside``: whether somebody may be waiting."""

    __slots__ = ("_beside", "_until", "taken")

    def __init__(self, *, beside: bool) -> None:
        self._beside = beside
        self._until = time.perf_counter() + WORK_S
        self.taken = 0  # so often others had their turn

    def give(self) -> None:
        """Let others have their turn, if it is time; called often, in the middle of anything."""
        if self._beside and time.perf_counter() >= self._until:
            self.taken += 1
            time.sleep(AWAY_S)
            now = time.perf_counter()
            self._until = now + (WORK_S if now - busy.at < RECENT_S else WORK_ALONE_S)

    def empty(self, *containers: "dict[Any, Any] | set[Any] | list[Any]") -> None:
        """Free what is in them, a portion at a time: a million objects are a tenth of a second."""
        for each in containers:
            take = each.popitem if isinstance(each, dict) else each.pop
            while each:
                for _ in range(min(len(each), PORTION)):
                    take()
                self.give()
