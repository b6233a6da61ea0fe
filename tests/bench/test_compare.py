"""Two runs compared: what is a change, and whose."""

import math
from pathlib import Path

import pytest

from bench.command import bench_compare
from bench.harness.compare import Change, compare
from bench.harness.results import (
    VERSION,
    Chart,
    Host,
    Line,
    Point,
    Results,
    ScenarioResult,
    UnreadableResults,
    load,
    save,
)
from engine import errors


def run(**samples: list[float]) -> Results:
    """One chart, less is better, by peer."""
    lines = [Line(peer.replace("_", "-"), [Point(1, found)]) for peer, found in samples.items()]
    chart = Chart("call", "call", "ms", "lower", "size", "GiB", lines=lines)
    scenario = ScenarioResult("clone-size", "Size", "Does it?", "warm", {}, [chart])
    host = Host("cpu", 2, 1 << 30, "Linux", "ext4", True, [0.0, 0.0, 0.0])
    return Results(VERSION, "tiny", "ramet bench", "t", "t", host, [], [scenario])


def only(before: Results, after: Results, peer: str = "ramet") -> Change:
    return next(each for each in compare(before, after) if each.peer == peer)


def test_a_regression_beyond_noise_is_found() -> None:
    change = only(run(ramet=[10, 11, 10], xfs=[5, 5.1, 5]), run(ramet=[20, 21, 20], xfs=[5, 5, 5]))
    assert change.regression
    assert change.factor == 2.0


def test_what_became_better_is_no_regression() -> None:
    change = only(run(ramet=[20, 21, 20]), run(ramet=[10, 11, 10]))
    assert change.verdict == "better"
    assert not change.regression


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([10, 14, 18], [13, 20, 26]),  # samples of the one lie among the other's
        ([100, 101, 102], [105, 106, 107]),  # less than a tenth
        ([10, 13, 16], [17, 21, 25]),  # apart, but both spread as wide as the change
    ],
)
def test_noise_is_no_change(before: list[float], after: list[float]) -> None:
    assert only(run(ramet=before), run(ramet=after)).verdict == "same"


def test_one_sample_shows_no_noise_so_it_has_to_differ_by_half() -> None:
    assert only(run(ramet=[10]), run(ramet=[19])).verdict == "same"
    assert only(run(ramet=[10]), run(ramet=[21])).verdict == "worse"


def test_bytes_are_what_they_are_the_first_time() -> None:
    before, after = run(ramet=[100]), run(ramet=[120])
    for results in (before, after):
        results.scenarios[0].charts[0].unit = "bytes"
    assert only(before, after).verdict == "worse"


@pytest.mark.parametrize(
    ("before", "after", "factor", "verdict"),
    [([0.0], [5.0], math.inf, "worse"), ([5.0], [0.0], 0.0, "better"), ([0.0], [0.0], 1.0, "same")],
)
def test_nothing_is_a_figure_too(
    before: list[float], after: list[float], factor: float, verdict: str
) -> None:
    change = only(run(ramet=before, xfs=[1, 1]), run(ramet=after, xfs=[2, 2]))
    assert (change.factor, change.verdict) == (factor, verdict)


def test_a_change_that_all_peers_share_is_the_machines() -> None:
    before = run(ramet=[10, 10, 10], ramet_cp=[4, 4, 4], xfs=[5, 5, 5], copy=[8, 8, 8])
    after = run(ramet=[20, 20, 20], ramet_cp=[4, 4, 4], xfs=[9, 9, 9], copy=[17, 17, 17])
    change = only(before, after)
    assert change.verdict == "worse, as the other peers"
    assert not change.regression


def test_more_is_better_turns_it_round() -> None:
    before, after = run(ramet=[10, 10, 10]), run(ramet=[20, 20, 20])
    for results in (before, after):
        results.scenarios[0].charts[0].better = "higher"
    assert only(before, after).verdict == "better"


def test_the_command_says_whether_ramet_is_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    save(run(ramet=[10, 10, 10], xfs=[5, 5, 5]), old)
    save(run(ramet=[20, 20, 20], xfs=[5, 5, 5]), new)
    assert bench_compare(old, new, all_lines=False)
    assert "1 GiB  10 ms   20 ms  2 x " in capsys.readouterr().out
    assert not bench_compare(old, old, all_lines=True)
    assert not bench_compare(new, old, all_lines=False)


def test_a_full_run_is_not_compared_with_a_quick_one(tmp_path: Path) -> None:
    quick, full = run(ramet=[10, 10]), run(ramet=[10, 10])
    full.scale = "full"
    save(quick, tmp_path / "quick.json")
    save(full, tmp_path / "full.json")
    with pytest.raises(errors.InvalidArgument, match="compare runs of one size"):
        bench_compare(tmp_path / "quick.json", tmp_path / "full.json", all_lines=False)


def test_results_come_back_as_they_were_saved(tmp_path: Path) -> None:
    made = run(ramet=[10.5, 1e-3], xfs=[5])
    save(made, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == made


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"version": 99}', b'{"version": 1}'])
def test_what_is_no_results_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "results.json").write_bytes(text)
    with pytest.raises(UnreadableResults):
        load(tmp_path / "results.json")
