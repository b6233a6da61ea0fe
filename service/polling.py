"""Look for the next request a little before sleeping: to be woken takes longer than most answers.

A client that waits for each answer before it asks again - a guest at queue depth 1, a command -
comes back after some 20 to 40 us.  To sleep meanwhile costs another 15 to 40 us of a round trip:
the processor leaves its idle state (on a virtual machine by way of the hypervisor), and two context
switches.  So before the loop sleeps it asks its epoll whether anything is ready, again and again,
for a window of MOST_US at most, without Python's lock.  Whatever may wake the loop ends that:
requests of all doors, threads that have finished, and timers, which limit the window.

A task that has a descriptor of its own may do the same (``look``) without going to the loop and
back, as long as it is the only one that can run: another that is woken meanwhile, by it or through
the epoll, comes first.

The window follows what happens, as that of QEMU's event loop does (``poll-max-ns``): a wait that
was longer than it doubles it, one longer than MOST_US halves it, down to none.  In a wait that was
slept through is the waking, which a look would not have had; so one that is WAKE_US longer still
doubles the window, until VAIN_MAX, with none between that came in time, show that what comes does
come too late for any, which is tried again after RESTS of them.  An idle daemon sleeps, and so does
one whose processor the clients need to go on.

Passes on threads are told how long ago there was something to do (``engine.turns.busy``).
"""

import os
from time import perf_counter, perf_counter_ns

import trio

import native
from engine.turns import busy

MOST_US = 50
WAKE_US = 50
VAIN_MAX = 8
RESTS = 256
LEAST_NS = 4_000
_SECOND_NS = 1_000_000_000
_MANY = 2


def _eventpolls() -> set[int]:
    """This process's descriptors of epoll(7)."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                found.add(int(name))
        except FileNotFoundError:  # that of listdir itself
            continue
    return found


class Polling(trio.abc.Instrument):
    """For ``trio.run``; made right before it.  ``most_us``: of one look; 0: never."""

    def __init__(self, most_us: int | None = None) -> None:
        self._most = (MOST_US if most_us is None else most_us) * 1000
        self._window = 0
        self._vain = 0  # looks since one that helped which came a little late; below 0: rests
        self._began = 0  # of the wait that is under way; 0: none
        self._looked = False  # it has been looked already, by a task
        self._deadline = 0  # of the first timer
        self._scheduled = 0  # tasks, since the loop has waited
        self._others = _eventpolls()
        self._epoll = -1

    @property
    def window_ns(self) -> int:
        """How long the next look may take."""
        return self._window

    def look(self, fd: int) -> bool:
        """Whether ``fd`` can be read now or within the window, and nothing else is to be done.

        Of the task that runs; False: it should wait in the ordinary way.
        """
        if self._scheduled >= _MANY or not self._window:
            return False
        began = perf_counter_ns()
        left = self._deadline - began
        if left <= 0:
            return False
        ready = native.poll(fd, self._epoll, min(self._window, left))
        if ready == 0:
            self._began, self._looked = began, True
        else:
            busy.at = perf_counter()
            self._came()
        return ready == 1

    def before_run(self) -> None:
        """trio does not tell its epoll; it is the one that has come."""
        found = _eventpolls() - self._others
        if len(found) == 1:
            self._epoll = found.pop()
        else:
            self._most = 0

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self._scheduled += 1

    def before_io_wait(self, timeout: float) -> None:
        if timeout <= 0 or not self._most:
            self._began, self._looked = 0, False
            self._scheduled = _MANY  # they are about to run
            return
        self._scheduled = 0
        now, left = perf_counter_ns(), int(timeout * _SECOND_NS)
        self._deadline = now + left
        if self._looked:
            self._looked = False
            return
        self._began = now
        if self._window and native.poll(self._epoll, -1, min(self._window, left)):
            self._began = 0
            self._came()

    def after_io_wait(self, timeout: float) -> None:
        busy.at = perf_counter()
        if self._began:
            self._learn(perf_counter_ns() - self._began)

    def _came(self) -> None:
        """What was looked for came within the window."""
        self._vain = min(self._vain, 0)

    def _learn(self, waited_ns: int) -> None:
        """From a wait that was slept through."""
        if waited_ns > self._most + WAKE_US * 1000:
            self._window //= 2
            if self._window < LEAST_NS:
                self._window = 0
        elif waited_ns > self._most and (self._vain < 0 or self._window >= self._most):
            self._vain += 1
            if self._vain >= VAIN_MAX:
                self._window, self._vain = 0, -RESTS
        elif waited_ns > self._window:
            self._window = min(self._most, max(LEAST_NS, 2 * self._window))
