"""The report: one HTML file that needs nothing else, to be sent to a colleague.

Everything that came from outside this program (names, messages, settings) is escaped; the pictures
are SVG in the text.  A scenario in which a peer is better has a section that says so and why.
"""

from collections.abc import Iterator, Mapping
from html import escape

from bench.harness.results import Chart, Results, ScenarioResult
from bench.harness.spread import best, ratio
from bench.harness.tables import (
    Table,
    columns,
    figures_at,
    of_budgets,
    of_chart,
    of_left_out,
    of_times,
    titles,
)
from bench.harness.words import place, times

BETTER_MIN = 1.005  # times; what would be told as 1 x is no difference
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
table { border-collapse: collapse; font-size: 13px; margin: .8rem 0; display: block;
  overflow-x: auto; }
caption { text-align: left; font-weight: 600; }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid #e4e4e4;
  vertical-align: top; }
svg { max-width: 100%; height: auto; overflow: visible; font-family: system-ui, sans-serif; }
.behind { background: #fff6e5; border-left: 4px solid #E69F00; padding: .5rem 1rem; }
.small { color: #555; font-size: 13px; } pre { background: #f4f4f4; padding: .6rem; }
"""


def html(results: Results, pictures: Mapping[tuple[str, str], str]) -> str:
    """``pictures``: SVG by scenario and chart; without one, its table stands alone."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>ramet bench</title><style>{STYLE}</style></head><body>",
        "<h1>Ramet and the alternatives, measured on one host</h1>",
        *_summary(results),
        *_budgets(results),
        *(part for each in results.scenarios for part in _scenario(each, results, pictures)),
        *_peers(results),
        "<h2>Left out, and why</h2>",
        _table(of_left_out(results)) if results.left_out else "<p>Nothing.</p>",
        "<h2>What the run took</h2>",
        _table(of_times(results)),
        *_reproduce(results),
        "</body></html>",
    ]
    return "\n".join(parts)


def _summary(results: Results) -> Iterator[str]:
    host = results.host
    yield (
        f"<p>{escape(host.cpu)}, {host.cores} cores, {host.memory_bytes / 2**30:.0f} GiB memory, "
        f"{escape(host.kernel)}, on {escape(host.file_system)}. {escape(results.scale)} run, "
        f"{escape(results.started)} to {escape(results.ended)}. Load average before "
        f"{host.load_before}, after {host.load_after}.</p>"
    )
    if max(host.load_before[:1], default=0) > host.cores / 2:
        yield "<p class='behind'>The host was busy with other things: trust ratios, not times.</p>"
    if results.interrupted:
        yield "<p class='behind'>The run was interrupted; what it had measured is here.</p>"
    yield "<h2>Summary</h2>"
    rows = [row for each in results.scenarios for row in _verdicts(each, titles(results))]
    yield _table(Table("The best at the far end of each chart", HEAD, rows))


HEAD = ["scenario", "figure", "at", "best", "Ramet", "next best, or how far behind"]


def _verdicts(scenario: ScenarioResult, names: Mapping[str, str]) -> Iterator[list[str]]:
    for chart in scenario.charts:
        for x in columns(chart)[-1:]:
            found = figures_at(chart, x)
            ours = {peer: each for peer, each in found.items() if peer.startswith("ramet")}
            theirs = {peer: each for peer, each in found.items() if peer not in ours}
            if not ours or not theirs:
                continue
            mine, other = best(ours, chart.better), best(theirs, chart.better)
            factor = ratio(found[mine].median, found[other].median, chart.better)
            leader = mine if factor <= 1 else other
            told = (
                f"{names[other]} {times(1 / factor)} worse" if 0 < factor < 1
                else f"{times(factor)} worse"
            )  # fmt: skip
            yield [scenario.title, chart.title, place(chart, x), names[leader], names[mine], told]


def _budgets(results: Results) -> Iterator[str]:
    if results.budgets:
        yield "<h2>Budgets</h2>"
        yield _table(of_budgets(results))


def _scenario(
    scenario: ScenarioResult, results: Results, pictures: Mapping[tuple[str, str], str]
) -> Iterator[str]:  # fmt: skip
    names = titles(results)
    yield f"<h2>{escape(scenario.title)}</h2><p>{escape(scenario.question)}</p>"
    yield f"<p class='small'>Page cache: {escape(scenario.cache)}. {scenario.elapsed_s:.0f} s.</p>"
    for note in scenario.notes:
        yield f"<p class='small'>{escape(note)}</p>"
    for chart in scenario.charts:
        if chart.lines:
            yield pictures.get((scenario.name, chart.name), "")
            yield _table(of_chart(chart, names))
    behind = losses(scenario)
    if behind:
        yield "<div class='behind'><b>Where a peer is better</b><ul>"
        for peer, where in behind.items():
            why = scenario.reasons.get(peer, "The reason is not known to the scenario.")
            yield f"<li>{escape(names[peer])} ({escape('; '.join(where))}): {escape(why)}</li>"
        yield "</ul></div>"


def losses(scenario: ScenarioResult) -> dict[str, list[str]]:
    """By peer, where it is better than every door of Ramet that took part."""
    found: dict[str, list[str]] = {}
    for chart in scenario.charts:
        for x in columns(chart):
            figures = figures_at(chart, x)
            ours = {peer: each for peer, each in figures.items() if peer.startswith("ramet")}
            if not ours:
                continue
            mine = ours[best(ours, chart.better)].median
            for peer, each in figures.items():
                factor = ratio(mine, each.median, chart.better)
                if peer not in ours and factor >= BETTER_MIN:
                    axis = "" if chart.x_names else f"{chart.x_label} "
                    where = f"{chart.title}, {axis}{place(chart, x)}: {times(factor)}"
                    found.setdefault(peer, []).append(where)
    return found


def _peers(results: Results) -> Iterator[str]:
    yield "<h2>Peers and their settings</h2>"
    for peer in results.peers:
        rows = [[key, value] for key, value in peer.settings.items()]
        yield _table(Table(f"{peer.title} ({peer.name})", ["", ""], rows))


def _reproduce(results: Results) -> Iterator[str]:
    yield "<h2>How to reproduce</h2>"
    yield f"<pre>pip install 'ramet[bench]'\n{escape(results.command)}</pre>"
    versions = ", ".join(f"{name} {each}" for name, each in results.host.versions.items())
    yield f"<p class='small'>{escape(versions)}. Every sample is in results.json beside this.</p>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in table.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in table.rows
    )
    return f"<table><caption>{escape(table.title)}</caption><tr>{head}</tr>{rows}</table>"


def charts(results: Results) -> Iterator[tuple[ScenarioResult, Chart]]:
    """Those that have something to show."""
    for scenario in results.scenarios:
        for chart in scenario.charts:
            if chart.lines:
                yield scenario, chart
