"""The report: whole in itself, escaped, honest about who is better."""

import re
from pathlib import Path

import pytest

from bench.command import write_report
from bench.harness import plots
from bench.harness.report import html, losses
from bench.harness.results import (
    VERSION,
    BudgetLine,
    Chart,
    Host,
    LeftOut,
    Line,
    PeerFacts,
    Point,
    Results,
    ScenarioResult,
)

EVIL = "<script>alert('x')</script>&\"'"


def results(text: str = "plain") -> Results:
    """A chart with lines, one with bars; each text that comes from outside is ``text``."""
    points = [Point(1, [1.0, 1.2]), Point(1024, [1.1, 1.3])]
    worse = [Point(1, [2.0, 2.2]), Point(1024, [0.5, 0.6])]
    charts = [
        Chart("call", f"call {text}", "ms", "lower", f"size {text}", "GiB",
              lines=[Line("ramet", points), Line("xfs", worse)]),
        Chart("space", "space", "bytes", "lower", "when", x_names=[f"new {text}", "old"],
              lines=[Line("ramet", [Point(0, [10.0]), Point(1, [0.0])]),
                     Line("xfs", [Point(0, [2e9])])]),
    ]  # fmt: skip
    scenario = ScenarioResult("size", f"Size {text}", text, text, {"xfs": f"why {text}"}, charts,
                              notes=[text])  # fmt: skip
    peers = [PeerFacts("ramet", "Ramet", {}), PeerFacts("xfs", f"XFS {text}", {text: text})]
    host = Host(text, 2, 1 << 30, text, text, True, [9.0, 0.0, 0.0], versions={"x": text})
    return Results(
        VERSION, "tiny", text, text, text, host, peers, [scenario], [LeftOut(text, peer=text)],
        [BudgetLine(text, text, text, False)], interrupted=True,
    )  # fmt: skip


def pictures(found: Results, folder: Path) -> str:
    write_report(found, folder)
    return (folder / "report.html").read_text()


def test_all_that_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    text = pictures(results(EVIL), tmp_path)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_it_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = pictures(results(), tmp_path)
    assert text.count("<svg") == 2
    assert not re.findall(r"""(?:\ssrc|\shref)\s*=\s*["'](?!#)|url\((?!#)|@import|<link""", text)


def test_each_chart_is_a_picture_of_both_kinds(tmp_path: Path) -> None:
    pictures(results(), tmp_path)
    for name in ("size-call", "size-space"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.svg").read_text().startswith("<svg")


def test_it_tells_where_a_peer_is_better_and_why() -> None:
    found = results()
    assert losses(found.scenarios[0]) == {"xfs": ["call plain, size plain 1 TiB: 2.18 x"]}
    text = html(found, {})
    assert "Where a peer is better" in text
    assert "why plain" in text


def test_a_scenario_in_which_nobody_is_better_has_no_such_section() -> None:
    found = results()
    del found.scenarios[0].charts[0].lines[1]
    assert "Where a peer is better" not in html(found, {})


def test_without_matplotlib_it_says_what_to_install_and_has_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    text = pictures(results(), tmp_path)
    assert "pip install 'ramet[bench]'" in capsys.readouterr().err
    assert "<svg" not in text
    assert "1.1 ms" in text
    assert not list(tmp_path.glob("*.png"))
