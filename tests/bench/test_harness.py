"""The harness with real peers: what it measures, and that it leaves nothing behind."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.budgets import BUDGETS, judged
from bench.command import Wish, bench, chosen, known
from bench.harness.peer import Peer
from bench.harness.results import Chart, Results, load, save
from bench.harness.runner import Plan, run
from bench.harness.scenario import PREPARE_S, TIME_S, Lab, Scenario
from bench.harness.tables import of_times
from bench.peers import PEERS
from bench.peers.full_copy import FullCopy
from bench.peers.qcow2 import Qcow2
from bench.peers.ramet import Ramet, RametEngine
from bench.scenarios import SCENARIOS
from bench.scenarios.clone_size import CloneSize
from engine import errors

DEADLINE_S = 120
DOCUMENT = Path(__file__).parents[2] / "docs" / "BENCHMARKS.md"


def mounted_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(str(folder))]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run of four peers; nothing of it is left."""
    folder = tmp_path_factory.mktemp("run")
    plan = Plan([Ramet, RametEngine, FullCopy, Qcow2], [CloneSize], "tiny", folder)
    made = run(plan)
    assert not list(folder.iterdir())
    assert not mounted_below(folder)
    return made


def test_every_peer_has_every_sample(found: Results) -> None:
    assert not found.left_out
    (scenario,) = found.scenarios
    for chart in scenario.charts:
        assert [line.peer for line in sorted(chart.lines, key=lambda line: line.peer)] == [
            "copy", "qcow2", "ramet", "ramet-engine",
        ]  # fmt: skip
        for line in chart.lines:
            assert [(point.x, len(point.samples)) for point in line.points] == [(1, 2), (4, 2)]
            assert all(sample > 0 for point in line.points for sample in point.samples)


def test_the_report_can_tell_who_took_part(found: Results) -> None:
    assert {peer.name for peer in found.peers} == {"copy", "qcow2", "ramet", "ramet-engine"}
    assert all(peer.settings["clone"] for peer in found.peers)
    assert len(found.host.load_before) == len(found.host.load_after) == 3


def test_a_run_comes_back_as_it_was_saved(found: Results, tmp_path: Path) -> None:
    save(found, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == found


def test_each_budget_has_its_line(found: Results) -> None:
    lines = judged(found)
    assert [each.work for each in lines] == [each.work for each in BUDGETS]
    assert lines[0].met in (True, False)
    assert lines[4].met is None


class Probe(Scenario):
    """What ``act`` does with each peer."""

    name = "probe"
    title = "Probe"
    question = "?"

    @staticmethod
    def act(peer: Peer, n: int) -> dict[str, float]:
        return {"c": 1.0}

    def charts(self) -> list[Chart]:
        return [Chart("c", "c", "ms", "lower", "x")]

    def run(self, lab: Lab) -> None:
        for x in (1, 2, 3):
            lab.turns(x, 3, self.act)


class Recorded(FullCopy):
    """Says what happens to it."""

    name = "recorded"
    log: list[str] = []

    def start(self, undo: contextlib.ExitStack) -> None:
        super().start(undo)
        undo.callback(self.log.append, f"undone {self.name}")


class HalfWay(Recorded):
    name = "half-way"

    def start(self, undo: contextlib.ExitStack) -> None:
        super().start(undo)
        raise OSError("no room for half of it")


def probe(tmp_path: Path, *peers: type[Peer], act: object = None) -> Results:
    Recorded.log.clear()
    kind = type("Kind", (Probe,), {"act": staticmethod(act)} if act else {})
    made = run(Plan(peers, [kind], "tiny", tmp_path))
    assert not list(tmp_path.iterdir())
    return made


def test_a_peer_that_fails_at_set_up_is_undone_and_left_out(tmp_path: Path) -> None:
    made = probe(tmp_path, HalfWay, FullCopy)
    assert Recorded.log == ["undone half-way"]
    assert [(each.peer, each.why) for each in made.left_out] == [
        ("half-way", "set-up: no room for half of it")
    ]
    assert [line.peer for line in made.scenarios[0].charts[0].lines] == ["copy"]


def test_a_peer_that_fails_is_left_out_from_there_on(tmp_path: Path) -> None:
    def act(peer: Peer, n: int) -> dict[str, float]:
        if peer.name == "recorded" and n == 1:
            raise subprocess.CalledProcessError(1, ["tool"], stderr=b"first\nit broke\n")
        return {"c": 1.0}

    made = probe(tmp_path, Recorded, FullCopy, act=act)
    assert Recorded.log == ["undone recorded"]
    assert [each.why for each in made.left_out] == ["1: tool: it broke"]
    lines = {line.peer: line.points for line in made.scenarios[0].charts[0].lines}
    assert [len(point.samples) for point in lines["copy"]] == [3, 3, 3]
    assert [len(point.samples) for point in lines["recorded"]] == [1]


def test_an_interrupt_undoes_all_and_keeps_what_was_measured(tmp_path: Path) -> None:
    def act(peer: Peer, n: int) -> dict[str, float]:
        if n == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"c": 1.0}

    made = probe(tmp_path, Recorded, act=act)
    assert made.interrupted
    assert Recorded.log == ["undone recorded"]
    assert made.scenarios[0].charts[0].lines[0].points[0].samples == [1.0]


def test_a_mistake_in_a_scenario_undoes_all_the_same(tmp_path: Path) -> None:
    def act(peer: Peer, n: int) -> dict[str, float]:
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        probe(tmp_path, Recorded, act=act)
    assert Recorded.log == ["undone recorded"]
    assert not list(tmp_path.iterdir())


def test_turns_rotate_and_patience_ends(tmp_path: Path) -> None:
    order: list[str] = []

    class Kind(Probe):
        def run(self, lab: Lab) -> None:
            lab.turns(1, 2, lambda peer, n: order.append(peer.name) or {"c": 1.0})  # type: ignore[func-returns-value]
            lab.patience_s = 0.0
            lab.turns(2, 2, lambda peer, n: order.append(peer.name) or {"c": 1.0})  # type: ignore[func-returns-value]
            lab.turns(3, 2, lambda peer, n: order.append(peer.name) or {"c": 1.0})  # type: ignore[func-returns-value]

    made = run(Plan([Recorded, FullCopy], [Kind], "tiny", tmp_path))
    assert order == ["recorded", "copy", "copy", "recorded", "recorded", "copy"]
    assert {each.peer for each in made.left_out} == {"recorded", "copy"}


def test_when_the_time_is_over_there_is_one_round(tmp_path: Path) -> None:
    class Kind(Probe):
        def run(self, lab: Lab) -> None:
            lab.turns(1, 2, self.act)
            lab.deadline = 0.0
            lab.turns(2, 2, self.act)

    (made,) = run(Plan([FullCopy], [Kind], "tiny", tmp_path)).scenarios
    assert [len(point.samples) for point in made.charts[0].lines[0].points] == [2, 1]
    assert made.notes == ["Fewer rounds for want of time: 2 (1 of 2)"]


def test_parts_share_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second round of the first part takes what is the second's; the third has its own."""
    now = [0]
    monkeypatch.setitem(TIME_S, "tiny", 30.0)
    monkeypatch.setattr("bench.harness.scenario.time.monotonic", lambda: now[0])

    def slow(_: Peer, __: int) -> dict[str, float]:
        now[0] += 7
        return {"c": 1.0}

    class Kind(Probe):
        def run(self, lab: Lab) -> None:
            for number in lab.parts(range(3)):
                lab.turns(number, 2, slow)

    (made,) = run(Plan([FullCopy], [Kind], "tiny", tmp_path)).scenarios
    assert [len(point.samples) for point in made.charts[0].lines[0].points] == [2, 1, 2]


def test_no_more_rounds_than_asked_for(tmp_path: Path) -> None:
    plan = Plan([FullCopy], [Probe], "tiny", tmp_path, rounds_max=2)
    (made,) = run(plan).scenarios
    assert [len(point.samples) for point in made.charts[0].lines[0].points] == [2, 2, 2]


def test_who_prepares_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PREPARE_S, "tiny", 0.0)

    class Kind(Probe):
        def run(self, lab: Lab) -> None:
            lab.prepare("image", lambda peer: list(lab.limited("abc")))
            super().run(lab)

    made = run(Plan([Recorded, FullCopy], [Kind], "tiny", tmp_path))
    assert [(each.peer, each.why) for each in made.left_out] == [
        (name, "image: had its time after 0 writes") for name in ("recorded", "copy")
    ]
    assert not made.scenarios[0].charts[0].lines


def test_preparations_of_a_scenario_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0]
    monkeypatch.setitem(PREPARE_S, "tiny", 10.0)
    monkeypatch.setattr("bench.harness.scenario.time.monotonic", lambda: now[0])

    def slow(_: Peer) -> None:
        now[0] += 4

    class Kind(Probe):
        def run(self, lab: Lab) -> None:
            for part in ("first", "second", "third", "fourth"):
                lab.prepare(part, slow)

    made = run(Plan([FullCopy], [Kind], "tiny", tmp_path))
    assert [each.why for each in made.left_out] == ["third: preparing took 12 s"]


def test_a_scenario_can_be_about_some_peers_only(tmp_path: Path) -> None:
    kind = type("Kind", (Probe,), {"only": ("recorded",)})
    made = run(Plan([Recorded, FullCopy], [kind], "tiny", tmp_path))
    assert not made.left_out
    assert [line.peer for line in made.scenarios[0].charts[0].lines] == ["recorded"]


def test_what_was_measured_before_a_mistake_is_kept(tmp_path: Path) -> None:
    class Wrong(Probe):
        def run(self, lab: Lab) -> None:
            raise KeyError("a mistake")

    kept: list[int] = []
    plan = Plan([FullCopy], [Probe, Wrong], "tiny", tmp_path,
                keep=lambda results: kept.append(len(results.scenarios)))  # fmt: skip
    with pytest.raises(KeyError):
        run(plan)
    assert kept == [1]


def test_the_time_of_a_scenario_is_told(found: Results) -> None:
    (scenario,) = found.scenarios
    assert scenario.elapsed_s > 0
    assert of_times(found).rows == [
        [scenario.title, f"{scenario.elapsed_s:.0f} s"], ["all", f"{scenario.elapsed_s:.0f} s"],
    ]  # fmt: skip


def test_names_are_unique_and_unknown_ones_are_told() -> None:
    for kinds in (PEERS, SCENARIOS):
        assert len({kind.name for kind in kinds}) == len(kinds)
    with pytest.raises(errors.NotFound, match="no peer xsf; there are ramet,"):
        chosen(PEERS, ["xsf"], "peer")


@pytest.mark.parametrize("scenario", [kind() for kind in SCENARIOS], ids=lambda each: each.name)
def test_a_scenario_knows_why_each_peer_may_be_better(scenario: Scenario) -> None:
    asked = {
        kind.name for kind in PEERS
        if kind.role in scenario.roles and kind.name in (scenario.only or (kind.name,))
        and scenario.accepts(kind()) is None and not kind.name.startswith("ramet")
    }  # fmt: skip
    assert asked <= scenario.reasons.keys()


def wait_for_mount(folder: Path, process: subprocess.Popen[str]) -> None:
    """The kernel tells when its table of mounts changes."""
    deadline = time.monotonic() + DEADLINE_S
    with Path("/proc/self/mounts").open() as table:
        poll = select.poll()
        poll.register(table, select.POLLPRI)
        while not mounted_below(folder):
            left = deadline - time.monotonic()
            assert left > 0, "nothing was mounted"
            assert process.poll() is None
            poll.poll(min(left, 1.0) * 1000)


def test_ctrl_c_leaves_nothing_mounted_or_running(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "bench", "--tiny", "--peers", "ramet,qcow2", "--scenarios",
         "generation", "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    wait_for_mount(tmp_path, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3, said
    assert not mounted_below(tmp_path)
    assert load(tmp_path / "out" / "results.json").interrupted
    assert not list((tmp_path / "out").glob("ramet-bench-*"))
    running = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, check=False)
    assert not running.stdout


def example() -> str:
    found = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    plugin, share = tmp_path / "ours.py", tmp_path / "share"
    plugin.write_text(example())
    share.mkdir()
    code = bench(Wish(
        "tiny", ["share", "copy"], ["first-read"], [plugin], tmp_path / "out",
        given={"share": share}, quiet=True,
    ))  # fmt: skip
    assert code == 0
    made = load(tmp_path / "out" / "results.json")
    assert not made.left_out
    lines = made.scenarios[0].charts[0].lines
    assert {line.peer: len(line.points[0].samples) for line in lines} == {"share": 5, "copy": 5}
    assert not list(share.iterdir())
    assert "cp on our share" in (tmp_path / "out" / "report.html").read_text()


def test_the_example_is_as_short_as_promised() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 50


def test_a_file_without_a_peer_or_scenario_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("from bench.harness.peer import Peer\n")
    with pytest.raises(errors.NotFound, match="defines no Peer"):
        known([tmp_path / "none.py"])


def test_peers_get_paths_without_detours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ganesha exports nothing below a path that goes by ``..``."""
    seen: list[Path] = []

    class Kind(Probe):
        def run(self, lab: Lab) -> None:
            seen.extend(peer.folder for peer in lab.peers)

    monkeypatch.setattr("bench.command.known", lambda plugins: ([FullCopy], [Kind]))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert bench(Wish("tiny", out=Path("../out"), quiet=True)) == 0
    assert seen
    assert all(".." not in folder.parts and folder.is_absolute() for folder in seen)
