"""Polling before sleep: when it is done, what ends it, and that nothing waits for it."""

import os
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import trio
import trio.testing

import native
from service import polling
from service.polling import LEAST_NS, MOST_US, RESTS, VAIN_MAX, WAKE_US, Polling

LONG_US = 500_000
PATIENCE_S = 20


class Looked(Polling):
    """Notes what was asked of the epoll, and how long it took."""

    def __init__(self, most_us: int | None = None) -> None:
        super().__init__(most_us)
        self.windows: list[int] = []

    def before_io_wait(self, timeout: float) -> None:
        if timeout > 0:
            self.windows.append(self.window_ns)
        super().before_io_wait(timeout)


def learned(*waits_ns: int, most_us: int | None = None) -> int:
    found = Polling(most_us)
    for each in waits_ns:
        found._learn(each)
    return found.window_ns


def test_the_window_follows_the_waits() -> None:
    """Grows by what would have fitted, shrinks by what was in vain, and ends at none."""
    most = MOST_US * 1000
    assert learned() == 0
    assert learned(20_000) == LEAST_NS
    assert learned(20_000, 20_000, 20_000) == 4 * LEAST_NS
    assert learned(*[20_000] * 20) == 8 * LEAST_NS  # 20 us fit: no need for more
    assert learned(*[most] * 20) == most
    late = most + WAKE_US * 1000 + 1
    assert learned(*[most] * 20, late) == most // 2
    assert learned(*[most] * 20, *[late] * 20) == 0
    assert learned(*[20_000] * 5, 1_000_000_000, 1_000_000_000, 1_000_000_000, 1_000_000_000) == 0


def test_a_wait_that_may_be_waking_alone_is_tried_for_a_while() -> None:
    """Who comes within the window is waited for; who always comes later is not, for long."""
    most = MOST_US * 1000
    near = most + WAKE_US * 1000
    grow = [near] * 5
    assert learned(*grow) == most
    assert learned(*grow, *[near] * (VAIN_MAX - 1)) == most
    assert learned(*grow, *[near] * VAIN_MAX) == 0
    rests = [near] * RESTS
    assert learned(*grow, *[near] * VAIN_MAX, *rests) == 0
    assert learned(*grow, *[near] * VAIN_MAX, *rests, *grow) == most
    assert learned(*grow, *[near] * VAIN_MAX, 20_000) == LEAST_NS  # this one surely fits

    found = Polling()
    for each in (*grow, *[near] * (VAIN_MAX - 1)):
        found._learn(each)
    found._came()
    for _ in range(VAIN_MAX - 1):
        found._learn(near)
    assert found.window_ns == most


def test_poll_asks_until_ready_or_late() -> None:
    one, other = socket.socketpair()
    with one, other:
        begun = time.perf_counter_ns()
        native.poll(one.fileno(), -1, 3_000_000)
        assert time.perf_counter_ns() - begun >= 3_000_000
        other.send(b"x")
        begun = time.monotonic()
        native.poll(one.fileno(), -1, PATIENCE_S * 1_000_000_000)
        assert time.monotonic() - begun < PATIENCE_S


def test_python_goes_on_meanwhile() -> None:
    """Another thread makes it ready: it could not if poll kept Python's lock."""
    one, other = socket.socketpair()
    with one, other:
        threading.Timer(0.05, other.send, [b"x"]).start()
        begun = time.monotonic()
        native.poll(one.fileno(), -1, PATIENCE_S * 1_000_000_000)
        assert time.monotonic() - begun < PATIENCE_S
        assert one.recv(1) == b"x"


def test_whatever_wakes_the_loop_ends_a_look() -> None:
    """A socket, a thread, a timer; each with a window far longer than it takes."""
    instrument = Looked(LONG_US)

    async def main() -> None:
        one, other = trio.socket.socketpair()
        with one, other:
            for _ in range(30):  # the window grows
                await trio.sleep(0.001)
            assert instrument.window_ns >= 500_000
            instrument._window = PATIENCE_S * 1_000_000_000
            begun = trio.current_time()
            await trio.to_thread.run_sync(time.sleep, 0.02)
            threading.Timer(0.02, os.write, [other.fileno(), b"x"]).start()
            assert await one.recv(1) == b"x"
            await trio.sleep(0.02)
            assert trio.current_time() - begun < PATIENCE_S / 2

    trio.run(main, instruments=[instrument])


def test_an_idle_loop_sleeps() -> None:
    instrument = Looked()

    async def main() -> None:
        instrument._window = MOST_US * 1000
        for _ in range(10):
            await trio.sleep(0.01)

    trio.run(main, instruments=[instrument])
    assert instrument.windows[-1] == 0


@pytest.mark.parametrize("found", [set(), {71, 72}])
def test_without_its_epoll_it_never_looks(found: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    instrument = Looked(LONG_US)
    others = polling._eventpolls()
    monkeypatch.setattr(polling, "_eventpolls", lambda: others | found)
    monkeypatch.setattr(native, "poll", lambda *_: pytest.fail("nothing to ask"))

    async def main() -> None:
        for _ in range(10):
            await trio.sleep(0.001)

    trio.run(main, instruments=[instrument])
    assert set(instrument.windows) == {0}


def test_zero_never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "poll", lambda *_: pytest.fail("it was told not to"))

    async def main() -> None:
        for _ in range(10):
            await trio.sleep(0.00001)

    trio.run(main, instruments=[Polling(0)])


def test_it_finds_the_epoll_of_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside another that was there before."""
    asked: list[int] = []
    monkeypatch.setattr(native, "poll", lambda fd, *_: asked.append(cast(int, fd)))

    async def main() -> None:
        for _ in range(10):
            await trio.sleep(0.0001)

    with select.epoll() as other:
        trio.run(main, instruments=[Polling(LONG_US)])
        assert asked
        assert other.fileno() not in asked


class Looker:
    """A task with a socket of its own, in a loop that polls."""

    def __init__(self, instrument: Polling) -> None:
        self.instrument = instrument
        self.one, self.other = socket.socketpair()

    async def woken(self) -> None:
        """By the loop, with nothing else to be done."""
        self.other.send(b"w")
        await trio.lowlevel.wait_readable(self.one)
        self.one.recv(1)

    def look(self) -> bool:
        self.instrument._window = LONG_US * 1000
        return self.instrument.look(self.one.fileno())


def looking(test: Callable[[Looker], Awaitable[None]]) -> None:
    instrument = Polling(LONG_US)

    async def main() -> None:
        looker = Looker(instrument)
        with looker.one, looker.other:
            await trio.sleep(0.001)
            await looker.woken()
            await test(looker)

    trio.run(main, instruments=[instrument])


def test_a_look_finds_what_comes() -> None:
    async def test(looker: Looker) -> None:
        with trio.CancelScope(deadline=trio.current_time() + PATIENCE_S):
            await looker.woken()
            threading.Timer(0.02, looker.other.send, [b"x"]).start()
            assert looker.look()
            assert looker.one.recv(1) == b"x"
            looker.other.send(b"y")
            assert looker.look()

    looking(test)


def test_a_look_without_a_window_is_none() -> None:
    async def test(looker: Looker) -> None:
        looker.other.send(b"x")
        looker.instrument._window = 0
        assert not looker.instrument.look(looker.one.fileno())

    looking(test)


def test_a_look_ends_with_its_window() -> None:
    async def test(looker: Looker) -> None:
        with trio.CancelScope(deadline=trio.current_time() + PATIENCE_S):
            await looker.woken()
            assert not looker.look()
            began = looker.instrument._began
            await trio.sleep(0.001)  # the loop does not look again, and learns from the whole wait
            assert began
            assert looker.instrument.window_ns == LONG_US * 1000 // 2

    looking(test)


def test_a_look_leaves_other_tasks_their_turn() -> None:
    """Those that can run, those that it has woken itself, those that wait for a descriptor, for a
    thread, or for a time: each while nothing comes at the one that is looked at."""

    async def test(looker: Looker) -> None:
        ran: list[str] = []

        async def run(name: str) -> None:
            ran.append(name)

        async def told(stream: socket.socket) -> None:
            await trio.lowlevel.wait_readable(stream)
            ran.append("descriptor")

        near, far = socket.socketpair()
        with near, far:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(told, near)
                await looker.woken()
                nursery.start_soon(run, "started")
                assert not looker.look()
                await trio.testing.wait_all_tasks_blocked()
                assert ran == ["started"]
                await trio.lowlevel.checkpoint()
                looker.other.send(b"x")
                assert not looker.look()  # there is no telling: it was not the loop's wait
                looker.one.recv(1)
                await looker.woken()
                far.send(b"x")
                looker.other.send(b"x")
                assert not looker.look()
                looker.one.recv(1)
                await trio.testing.wait_all_tasks_blocked()
                assert ran == ["started", "descriptor"]
                await looker.woken()
                token = trio.lowlevel.current_trio_token()
                threading.Timer(0.02, token.run_sync_soon, [ran.append, "thread"]).start()
                begun = time.monotonic()
                assert not looker.look()
                assert time.monotonic() - begun < PATIENCE_S
                await trio.testing.wait_all_tasks_blocked()
                assert ran[-1] == "thread"

    looking(test)


def test_a_timer_limits_a_look() -> None:
    async def test(looker: Looker) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.05)
            await trio.sleep(0.001)
            await looker.woken()
            looker.instrument._window = PATIENCE_S * 1_000_000_000
            begun = time.monotonic()
            assert not looker.instrument.look(looker.one.fileno())
            assert time.monotonic() - begun < PATIENCE_S / 2

    looking(test)
