"""A scenario: one question, asked of all peers in turns.

``run`` gets a ``Lab`` with the peers that could be started.  All work on peers goes through
``Lab.prepare`` and ``Lab.turns``, which are what keeps a run fair and alive: turns are A B A B with
the first place rotating; a peer that fails is left out from there on, with the reason; one that
takes longer than ``patience_s`` for a sample is not asked for more of the same.  When a scenario
has had its time, what is left of it is done in one round: ``--quick`` is quick on busy hosts too,
and ``--full`` ends.  Nor does a peer prepare for longer than PREPARE_S.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from subprocess import CalledProcessError, TimeoutExpired
from typing import ClassVar, TypeVar

from bench.harness.peer import Peer, Role
from bench.harness.results import Chart, LeftOut, Line, Point, Scale
from engine.errors import RametError

FAILURES = (OSError, RametError, CalledProcessError, TimeoutExpired)
TIME_S: dict[Scale, float] = {"tiny": math.inf, "quick": 15.0, "full": 240.0}
PATIENCE_S: dict[Scale, float] = {"tiny": 30.0, "quick": 4.0, "full": 60.0}
PREPARE_S: dict[Scale, float] = {"tiny": 60.0, "quick": 20.0, "full": 120.0}
WARM = "warm: what is copied was written just before, and synced"
T = TypeVar("T")


class Lab:
    """The peers of one scenario, and where its samples go."""

    def __init__(
        self, scale: Scale, peers: Sequence[Peer], charts: Sequence[Chart],
        say: Callable[[str], None] = lambda _: None, rounds_max: int | None = None,
    ) -> None:  # fmt: skip
        self.scale = scale
        self.peers = list(peers)  # those that have not failed
        self.all_peers = list(peers)
        self.charts = {chart.name: chart for chart in charts}
        self.say = say
        self.rounds_max = rounds_max
        self.left_out: list[LeftOut] = []
        self.notes: list[str] = []
        self.patience_s = PATIENCE_S[scale]
        self._began = time.monotonic()
        self.deadline = self._began + TIME_S[scale]  # of second rounds
        self._slow: set[str] = set()
        self._cut: dict[str, str] = {}  # rounds that were made, by what
        self._preparing: dict[str, float] = {}  # seconds, by peer
        self._until = math.inf  # when who is at it now has had its time

    def pick(self, *, tiny: T, quick: T, full: T) -> T:
        """By how much time there is."""
        return {"tiny": tiny, "quick": quick, "full": full}[self.scale]

    def parts(self, things: Sequence[T]) -> Iterator[T]:
        """The parts of a scenario, one after the other: each has its share of the time for second
        rounds, and what those before it have left."""
        for number, thing in enumerate(things, 1):
            self.deadline = self._began + TIME_S[self.scale] * number / len(things)
            yield thing

    def drop(self, peer: Peer, why: str) -> None:
        self.peers = [each for each in self.peers if each is not peer]
        self.left_out.append(LeftOut(why, peer=peer.name))

    def prepare(self, what: str, act: Callable[[Peer], object]) -> None:
        """Do it with each peer, untimed; who needs more than PREPARE_S for all of it is dropped."""
        for peer in [each for each in self.peers if each.name not in self._slow]:
            self.say(f"{what}: {peer.name}")
            started, took = time.monotonic(), self._preparing.get(peer.name, 0.0)
            self._until = started + PREPARE_S[self.scale] - took
            try:
                act(peer)
            except FAILURES as error:
                self.drop(peer, f"{what}: {reason(error)}")
                continue
            finally:
                self._preparing[peer.name] = took + time.monotonic() - started
            if time.monotonic() > self._until:
                self.drop(peer, f"{what}: preparing took {self._preparing[peer.name]:.0f} s")

    def limited(self, pieces: Iterable[T]) -> Iterator[T]:
        """What an ``act`` writes, until its peer has had its time: then TimeoutError."""
        for number, piece in enumerate(pieces):
            if time.monotonic() > self._until:
                raise TimeoutError(f"had its time after {number:,} writes")
            yield piece

    def turns(
        self, x: float, rounds: int, act: Callable[[Peer, int], Mapping[str, float]],
        what: str = "",
    ) -> None:  # fmt: skip
        """``act(peer, round)`` returns samples by chart; they are taken at ``x``."""
        rounds = min(rounds, self.rounds_max or rounds)
        peers = [peer for peer in self.peers if peer.name not in self._slow]
        for number in range(rounds):
            if number and time.monotonic() > self.deadline:
                self._cut[str(what or x)] = f"{number} of {rounds}"
                return
            first = number % len(peers) if peers else 0
            for peer in peers[first:] + peers[:first]:
                if peer.name in self._slow or peer not in self.peers:
                    continue
                self.say(f"{what or x}, round {number + 1} of {rounds}: {peer.name}")
                started = time.perf_counter()
                self._until = time.monotonic() + self.patience_s
                try:
                    for chart, sample in act(peer, number).items():
                        self.record(chart, peer, x, sample)
                except FAILURES as error:
                    self.drop(peer, f"{what or x}: {reason(error)}")
                    continue
                took = time.perf_counter() - started
                if took > self.patience_s:
                    self._slow.add(peer.name)
                    self.left_out.append(
                        LeftOut(f"asked for no more after {what or x} had taken {took:.0f} s",
                                peer=peer.name)
                    )  # fmt: skip

    def all_notes(self) -> list[str]:
        """What the scenario noted, and for what the time was short."""
        cut = ", ".join(f"{what} ({rounds})" for what, rounds in self._cut.items())
        return self.notes + ([f"Fewer rounds for want of time: {cut}"] if cut else [])

    def patient(self) -> None:
        """Who was slow is asked again: another series begins."""
        self._slow.clear()

    def record(self, chart: str, peer: Peer, x: float, sample: float) -> None:
        lines = self.charts[chart].lines
        line = next((each for each in lines if each.peer == peer.name), None)
        if line is None:
            line = Line(peer.name, [])
            lines.append(line)
        point = next((each for each in line.points if each.x == x), None)
        if point is None:
            point = Point(x, [])
            line.points.append(point)
            line.points.sort(key=lambda each: each.x)
        point.samples.append(sample)


class Scenario(ABC):
    """One question.  ``reasons``: by peer, why it is better here where it is."""

    name: ClassVar[str]  # as in --scenarios and results.json
    title: ClassVar[str]
    question: ClassVar[str]
    cache: ClassVar[str] = WARM
    reasons: ClassVar[Mapping[str, str]] = {}
    roles: ClassVar[tuple[Role, ...]] = ("images",)
    only: ClassVar[tuple[str, ...]] = ()  # peers by name that it is about; empty: all of its roles
    long: ClassVar[bool] = False  # only with --full, or when it is asked for by name

    def detect(self) -> str | None:
        """None when it can run here; else why not, and what would help."""
        return None

    def accepts(self, peer: Peer) -> str | None:
        """None when the question makes sense for this peer (of one of ``roles``); else why."""
        return None

    @abstractmethod
    def charts(self) -> list[Chart]:
        """Empty ones, for this run."""

    @abstractmethod
    def run(self, lab: Lab) -> None: ...


def timed_ms(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def reason(error: BaseException) -> str:
    """One line for a person: what a command said last, or the error itself."""
    if isinstance(error, CalledProcessError):
        said = error.stderr or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        last = text.strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        return f"{error.cmd[0]}: {last[0]}"
    return str(error) or type(error).__name__
