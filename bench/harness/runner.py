"""Runs scenarios, and leaves nothing behind whatever happens.

Peers are set up anew for each scenario, so none inherits what another did.  Ctrl-C and SIGTERM end
the run where it is and unwind what was set up; while that goes on they are not heard again, because
a half undone set-up is what nobody wants.  What was measured until then is reported.
"""

import contextlib
import importlib.util
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.harness import host
from bench.harness.peer import Peer
from bench.harness.results import VERSION, LeftOut, PeerFacts, Results, Scale, ScenarioResult
from bench.harness.scenario import FAILURES, Lab, Scenario, reason

Say = Callable[[str], None]


class NotFound(Exception):
    """A peer or scenario by that name, or a file of them, is not there."""


@dataclass
class Plan:
    """What to run, and where."""

    peers: Sequence[type[Peer]]
    scenarios: Sequence[type[Scenario]]
    scale: Scale = "quick"
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    given: Mapping[str, Path] = field(default_factory=dict)  # by peer: use this directory
    command: str = ""
    rounds_max: int | None = None  # None: as many as the scale has
    say: Say = lambda _: None  # what goes on now
    done: Say = lambda _: None  # what has ended
    keep: Callable[[Results], None] = lambda _: None  # after each scenario: what there is by then


def run(plan: Plan) -> Results:
    """All scenarios, one after the other."""
    results = Results(
        VERSION, plan.scale, plan.command, _now(), "", host.facts(plan.folder), [], []
    )  # fmt: skip
    able = _able(plan, results)
    scratch = tempfile.mkdtemp(prefix="ramet-bench-", dir=plan.folder)
    try:
        with _terminated_as_interrupt():
            for number, kind in enumerate(plan.scenarios, 1):
                title = f"[{number}/{len(plan.scenarios)}] {kind.title}: "
                started = time.monotonic()
                _run_one(kind(), able, Path(scratch), plan, results, _prefixed(plan.say, title))
                plan.done(f"{title}{time.monotonic() - started:.0f} s")
                results.ended = _now()
                plan.keep(results)
    except KeyboardInterrupt:
        results.interrupted = True
    finally:
        with unheard():
            shutil.rmtree(scratch, ignore_errors=True)
    results.ended = _now()
    results.host.load_after = host.load()
    return results


def _able(plan: Plan, results: Results) -> list[type[Peer]]:
    able = []
    for kind in plan.peers:
        why = kind(plan.given.get(kind.name)).detect()
        if why is None:
            able.append(kind)
        else:
            results.left_out.append(LeftOut(why, peer=kind.name))
    return able


def _run_one(
    scenario: Scenario, able: Sequence[type[Peer]], scratch: Path, plan: Plan,
    results: Results, say: Say,
) -> None:  # fmt: skip
    why = scenario.detect()
    if why is not None:
        results.left_out.append(LeftOut(why, scenario=scenario.name))
        return
    charts = scenario.charts()
    found = ScenarioResult(
        scenario.name, scenario.title, scenario.question, scenario.cache,
        dict(scenario.reasons), charts,
    )  # fmt: skip
    results.scenarios.append(found)
    lab = Lab(plan.scale, [], charts, say, plan.rounds_max)
    with _timed(found), _undone() as undo:
        lab.peers = _started(scenario, able, scratch, plan, lab, undo)
        try:
            scenario.run(lab)
        finally:
            found.notes = lab.all_notes()
            _note_peers(results, lab)
            for each in lab.left_out:
                each.scenario = scenario.name
            results.left_out += lab.left_out
            say("tearing down")


@contextlib.contextmanager
def _timed(found: ScenarioResult) -> Iterator[None]:
    """All that a scenario takes, setting up and tearing down included."""
    started = time.monotonic()
    try:
        yield
    finally:
        found.elapsed_s = time.monotonic() - started


def _started(
    scenario: Scenario, able: Sequence[type[Peer]], scratch: Path, plan: Plan, lab: Lab,
    undo: contextlib.ExitStack,
) -> list[Peer]:  # fmt: skip
    """The peers that take part, set up in the order given."""
    peers = []
    for kind in able:
        if kind.role not in scenario.roles or kind.name not in (scenario.only or (kind.name,)):
            continue
        peer = kind(plan.given.get(kind.name))
        why = scenario.accepts(peer)
        if why is not None:
            lab.left_out.append(LeftOut(why, peer=peer.name))
            continue
        lab.say(f"setting up {peer.name}")
        peer.folder = scratch / scenario.name / peer.name
        peer.folder.mkdir(parents=True)
        undo.callback(shutil.rmtree, peer.folder, ignore_errors=True)
        try:
            peer.start(undo)
        except FAILURES as error:
            lab.left_out.append(LeftOut(f"set-up: {reason(error)}", peer=peer.name))
            continue
        peers.append(peer)
    lab.all_peers = list(peers)
    return peers


def _note_peers(results: Results, lab: Lab) -> None:
    known = {facts.name: facts for facts in results.peers}
    for peer in lab.all_peers:
        if peer.name in known:
            known[peer.name].settings.update(peer.settings)
        else:
            results.peers.append(PeerFacts(peer.name, peer.title, dict(peer.settings)))


@contextlib.contextmanager
def _undone() -> Iterator[contextlib.ExitStack]:
    """A stack that is unwound whatever happens, without being interrupted at it.

    What cannot be undone is told on stderr, and the rest is undone all the same.
    """
    with contextlib.ExitStack() as undo:
        try:
            yield undo
        finally:
            with unheard():
                try:
                    undo.close()
                except FAILURES as error:
                    print(f"ramet bench: left behind: {reason(error)}", file=sys.stderr)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """SIGINT and SIGTERM are ignored meanwhile."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in kept:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    kept = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


def load_file(path: Path) -> tuple[list[type[Peer]], list[type[Scenario]]]:
    """A lab's own peers and scenarios: the classes that a Python file defines.  NotFound."""
    spec = importlib.util.spec_from_file_location(f"bench_of_lab_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise NotFound(f"{path} is no Python file; give one that defines a Peer or a Scenario")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    own = [each for each in vars(module).values()
           if isinstance(each, type) and each.__module__ == spec.name]  # fmt: skip
    peers = [each for each in own if issubclass(each, Peer)]
    scenarios = [each for each in own if issubclass(each, Scenario)]
    if not peers and not scenarios:
        raise NotFound(f"{path} defines no Peer and no Scenario; see docs/BENCHMARKS.md")
    return peers, scenarios


def _prefixed(say: Say, prefix: str) -> Say:
    return lambda text: say(prefix + text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
