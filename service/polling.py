"""Look for the next request a little before sleeping: to be woken takes longer than most answers.

A client that waits for each answer before it asks again - a guest at queue depth 1, a command -
comes back after some 20 to 40 us.  To sleep meanwhile costs another 15 to 40 us of a round trip:
the processor leaves its idle state (on a virtual machine by way of the hypervisor), and two context
switches.  So before the loop sleeps it asks its epoll whether anything is ready, again and again,
for a window of MOST_US at most, without Python's lock.  Whatever may wake the loop ends that:
requests of all doors, threads that have finished, and timers, which limit the window.

The window follows what happens, as that of QEMU's event loop does (``poll-max-ns``): a wait that
would have fitted one twice as large doubles it, one longer than MOST_US halves it, down to none.
An idle daemon sleeps, and so does one whose processor the clients need to go on.
"""

import os
from time import perf_counter_ns

import trio

import native

MOST_US = 50
LEAST_NS = 4_000
_SECOND_NS = 1_000_000_000


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
        self._began = 0
        self._others = _eventpolls()
        self._epoll = -1

    @property
    def window_ns(self) -> int:
        """How long the next look may take."""
        return self._window

    def before_run(self) -> None:
        """trio does not tell its epoll; it is the one that has come."""
        found = _eventpolls() - self._others
        if len(found) == 1:
            self._epoll = found.pop()
        else:
            self._most = 0

    def before_io_wait(self, timeout: float) -> None:
        if timeout <= 0 or not self._most:
            self._began = 0
            return
        self._began = perf_counter_ns()
        if self._window:
            native.poll(self._epoll, min(self._window, int(timeout * _SECOND_NS)))

    def after_io_wait(self, timeout: float) -> None:
        if self._began:
            self._learn(perf_counter_ns() - self._began)

    def _learn(self, waited_ns: int) -> None:
        if waited_ns > self._most:
            self._window //= 2
            if self._window < LEAST_NS:
                self._window = 0
        elif waited_ns > self._window:
            self._window = min(self._most, max(LEAST_NS, 2 * self._window))
