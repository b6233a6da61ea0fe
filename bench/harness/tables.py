"""Results as tables: the same rows for a terminal and for the report."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.harness.compare import Change
from bench.harness.results import Chart, Results
from bench.harness.spread import Figure, best, ratio
from bench.harness.words import place, quantity, times


@dataclass(frozen=True)
class Table:
    title: str
    head: list[str]
    rows: list[list[str]]


def titles(results: Results) -> dict[str, str]:
    return {peer.name: peer.title for peer in results.peers}


def columns(chart: Chart) -> list[float]:
    return sorted({point.x for line in chart.lines for point in line.points})


def figures_at(chart: Chart, x: float) -> dict[str, Figure]:
    """By peer."""
    return {
        line.peer: Figure.of(point.samples)
        for line in chart.lines
        for point in line.points
        if point.x == x
    }


def of_chart(chart: Chart, names: dict[str, str]) -> Table:
    """A row for each peer: median, spread, and how many times the best it is."""
    places = columns(chart)
    at = {x: figures_at(chart, x) for x in places}
    head = [chart.x_label, *(place(chart, x) for x in places)]
    rows = []
    for line in chart.lines:
        row = [names.get(line.peer, line.peer)]
        for x in places:
            figure = at[x].get(line.peer)
            leader = at[x][best(at[x], chart.better)].median
            row.append(_cell(figure, leader, chart))
        rows.append(row)
    return Table(f"{chart.title} ({'less' if chart.better == 'lower' else 'more'} is better)", head,
                 rows)  # fmt: skip


def _cell(figure: Figure | None, leader: float, chart: Chart) -> str:
    if figure is None:
        return "-"
    told = quantity(figure.median, chart.unit)
    spread = (
        f" ±{figure.deviation / figure.median:.0%}" if figure.count > 1 and figure.median else ""
    )
    factor = ratio(figure.median, leader, chart.better)
    return f"{told}{spread}  {'best' if factor <= 1 else times(factor)}"


def of_budgets(results: Results) -> Table:
    words = {True: "met", False: "NOT MET", None: "not measured"}
    rows = [[each.work, each.budget, each.measured, words[each.met]] for each in results.budgets]
    return Table("Budgets", ["work", "budget", "measured here", ""], rows)


def of_left_out(results: Results) -> Table:
    rows = [[each.scenario or "all", each.peer or "all", each.why] for each in results.left_out]
    return Table("Left out", ["scenario", "peer", "why"], rows)


def of_times(results: Results) -> Table:
    """Which scenarios a run's time went to."""
    rows = [[each.title, f"{each.elapsed_s:.0f} s"] for each in results.scenarios]
    rows.append(["all", f"{sum(each.elapsed_s for each in results.scenarios):.0f} s"])
    return Table("Time", ["scenario", "took"], rows)


def of_changes(changes: Sequence[Change]) -> Table:
    head = ["scenario", "chart", "peer", "at", "before", "after", "change", "others", ""]
    rows = []
    for each in changes:
        others = "-" if each.others is None else times(each.others)
        rows.append([
            each.scenario, each.chart, each.peer, each.where,
            quantity(each.before.median, each.unit), quantity(each.after.median, each.unit),
            times(each.factor), others, each.verdict,
        ])  # fmt: skip
    return Table("Changes (above 1: worse)", head, rows)
