"""A chart as a picture, by matplotlib, which is asked for only here and may be absent.

Okabe and Ito's colours, which colour-blind people tell apart, and a marker for each peer besides;
the peers' names stand at their lines, so nobody has to look anything up; from a line that ends
early, because its peer was asked for no more, dots go there.  A thin line goes from the
least to the greatest sample.  Ramet's lines and names are bold: it is they that one looks for.
Bars begin at zero; where that would hide the small ones the axis is logarithmic, and there are
dots, for the length of a bar would mean nothing.
"""

import io
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from bench.harness.results import Chart
from bench.harness.spread import Figure
from bench.harness.tables import columns, figures_at
from bench.harness.words import number, place, quantity

INSTALL = "no pictures: matplotlib is not installed; pip install 'ramet[bench]'"
STYLES = {
    "ramet": ("#0072B2", "o"), "ramet-cp": ("#56B4E9", "s"), "ramet-engine": ("#000000", "D"),
    "xfs": ("#D55E00", "^"), "btrfs": ("#009E73", "v"), "btrfs-snapshot": ("#CC79A7", "<"),
    "qcow2": ("#E69F00", ">"), "copy": ("#7F7F7F", "X"), "juicefs": ("#8B5A2B", "P"),
}  # fmt: skip
OTHERS = (("#5D3A9B", "h"), ("#A0A000", "*"), ("#40B0A6", "d"), ("#994F00", "p"))
SIZE_INCHES = (8.6, 4.4)
LABEL_POINTS = 12.5  # between two labels at least
FEW_DECADES = 200  # times the least of the axis
BARS_UP_TO = 40  # times the least figure


def available() -> bool:
    try:
        import matplotlib  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


def styles(peers: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker by peer: the same in every chart of a report."""
    free = iter(OTHERS * (1 + len(peers) // len(OTHERS)))
    return {peer: STYLES.get(peer) or next(free) for peer in peers}


def draw(chart: Chart, heading: str, names: dict[str, str]) -> tuple[bytes, str]:
    """A PNG and an SVG to stand in HTML."""
    os.environ.setdefault("MPLCONFIGDIR", tempfile.gettempdir())
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    look: Any = {"svg.fonttype": "none", "svg.hashsalt": chart.name, "font.size": 10,
            "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
    with mpl.rc_context(look):
        figure, axes = pyplot.subplots(figsize=SIZE_INCHES, layout="constrained")
        try:
            (_bars if _categorical(chart) else _lines)(figure, axes, chart, names)
            axes.set_title(_title(chart, heading), loc="left", fontsize=11)
            png, svg = io.BytesIO(), io.StringIO()
            figure.savefig(png, format="png", dpi=130)
            figure.savefig(svg, format="svg", metadata={"Date": None})
        finally:
            pyplot.close(figure)
    text = svg.getvalue()
    return png.getvalue(), text[text.index("<svg") :]


def _title(chart: Chart, heading: str) -> str:
    """Of one place that has no name, the place too: no axis tells it."""
    title = heading if heading == chart.title else f"{heading}: {chart.title}"
    places = columns(chart)
    if chart.x_names or len(places) > 1:
        return title
    return f"{title} ({chart.x_label}: {place(chart, places[0])})"


def _categorical(chart: Chart) -> bool:
    """One place of the axis, or named ones: bars.  Else lines."""
    return bool(chart.x_names) or len(columns(chart)) == 1


def _lines(figure: Any, axes: Any, chart: Chart, names: dict[str, str]) -> None:
    looks = styles(list(names))
    ends = []
    for line in chart.lines:
        colour, marker = looks[line.peer]
        points = sorted(line.points, key=lambda point: point.x)
        figures = [Figure.of(point.samples) for point in points]
        xs, ys = [point.x for point in points], [each.median for each in figures]
        ours = line.peer.startswith("ramet")
        axes.vlines(xs, [each.least for each in figures], [each.most for each in figures],
                    color=colour, alpha=0.45, linewidth=1.1)  # fmt: skip
        axes.plot(xs, ys, color=colour, marker=marker, markersize=6,
                  linewidth=2.6 if ours else 1.4)  # fmt: skip
        ends.append((names[line.peer], colour, xs[-1], ys[-1]))
    if chart.log_x:
        axes.set_xscale("log", base=10)
    if chart.log_y:
        axes.set_yscale("log", base=10)
        _more_ticks(axes)
    else:
        axes.set_ylim(bottom=0)
        _round_bytes(axes.yaxis, chart, axes.get_ylim()[1])
    places = columns(chart)
    axes.set_xticks(places, [place(chart, x) for x in places])
    axes.minorticks_off()
    _dress(axes, chart)
    _label(figure, axes, ends)


def _dress(axes: Any, chart: Chart) -> None:
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(_axis(chart))
    axes.yaxis.set_major_formatter(lambda value, _: _tick(value, chart))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)


def _tick(value: float, chart: Chart) -> str:
    """Times and sizes have their own unit at each tick, other figures the axis's."""
    if value <= 0:
        return "0" if value == 0 else ""
    return quantity(value, chart.unit) if chart.unit in ("ms", "bytes") else number(value)


def _axis(chart: Chart) -> str:
    arrow = "less is better" if chart.better == "lower" else "more is better"
    return arrow if chart.unit in ("ms", "bytes") else f"{chart.unit}: {arrow}"


def _label(figure: Any, axes: Any, ends: list[tuple[str, str, float, float]]) -> None:
    """Names right of the axes, each as near to its line's end as its neighbours let it."""
    figure.canvas.draw()
    last = max(x for _, _, x, _ in ends)
    pixels = LABEL_POINTS * figure.dpi / 72
    spots = sorted((axes.transData.transform((x, y))[1], name, colour, x, y)
                   for name, colour, x, y in ends)  # fmt: skip
    bottom, top = axes.transAxes.transform((0, 0))[1], axes.transAxes.transform((0, 1))[1]
    heights = _apart([spot[0] for spot in spots], pixels, bottom, top)
    for height, (_, name, colour, x, y) in zip(heights, spots, strict=True):
        at = axes.transAxes.inverted().transform((0, height))[1]
        axes.annotate(
            name, xy=(x, y), xytext=(1.04, at), textcoords="axes fraction", color=colour,
            va="center", fontsize=9, annotation_clip=False, fontweight=_weight(name),
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6,
                        "linestyle": "-" if x == last else (0, (1, 4)), "relpos": (0, 0.5)},
        )  # fmt: skip


def _apart(wanted: list[float], gap: float, bottom: float, top: float) -> list[float]:
    """The sorted heights moved as little as keeps them ``gap`` apart, within the axes if it can."""
    placed: list[float] = []
    for each in wanted:
        placed.append(max(each, placed[-1] + gap) if placed else max(each, bottom))
    limit = top
    for spot in range(len(placed) - 1, -1, -1):
        placed[spot] = min(placed[spot], limit)
        limit = placed[spot] - gap
    return placed


def _more_ticks(axes: Any) -> None:
    """A logarithmic axis of few decades has ticks between them."""
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    bottom, top = axes.get_ylim()
    if top < FEW_DECADES * bottom:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))


def _round_bytes(axis: Any, chart: Chart, most: float) -> None:
    """Ticks of a linear axis at powers of two, which are round figures of KiB and MiB."""
    if chart.unit == "bytes" and most > 0:
        step = 2.0 ** math.ceil(math.log2(most / 7))
        axis.set_ticks([step * number for number in range(int(most / step) + 1)])


def _weight(name: str) -> str:
    return "bold" if name.startswith("Ramet") else "normal"


def _bars(figure: Any, axes: Any, chart: Chart, names: dict[str, str]) -> None:
    """A group of rows below the name of each place, the figure at the end of each row."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415

    looks = styles(list(names))
    places = columns(chart)
    grouped = bool(chart.x_names) and len(places) > 1
    rows = [(x, peer, each) for x in places for peer, each in figures_at(chart, x).items()]
    figure.set_size_inches(SIZE_INCHES[0], 1.1 + 0.3 * (len(rows) + 1.3 * len(places)))
    least, most = min(each.median for _, _, each in rows), max(each.most for _, _, each in rows)
    dots = chart.log_y and least > 0 and most > BARS_UP_TO * least
    at, ticks = 0.0, []
    for row, (x, peer, each) in enumerate(rows):
        if grouped and (not row or x != rows[row - 1][0]):
            at += 1.3 if row else 0
            axes.text(0.0, at - 0.85, f" {place(chart, x)}", transform=axes.get_yaxis_transform(),
                      va="center", fontsize=10, fontstyle="italic", color="#333333")  # fmt: skip
        colour, marker = looks[peer]
        if dots:
            axes.axhline(at, color="#EEEEEE", linewidth=0.7, zorder=0)
            axes.plot(each.median, at, marker, color=colour, markersize=8)
        else:
            axes.barh(at, each.median, color=colour, height=0.8)
        axes.hlines(at, each.least, each.most, color="#444444", linewidth=0.9,
                    path_effects=[withStroke(linewidth=2.2, foreground="white")])  # fmt: skip
        axes.annotate(quantity(each.median, chart.unit), (each.most, at),
                      xytext=(8 if dots else 5, 0), textcoords="offset points", va="center",
                      fontsize=9, annotation_clip=False)  # fmt: skip
        ticks.append((at, names[peer]))
        at += 1
    axes.set_ylim(at - 0.4, -1.4 if grouped else -0.6)
    axes.set_yticks([each for each, _ in ticks], [name for _, name in ticks])
    for label, (_, name) in zip(axes.get_yticklabels(), ticks, strict=True):
        label.set_fontweight(_weight(name))
    lowest = min((each.least for _, _, each in rows if each.least > 0), default=0.0)
    _dress_bars(axes, chart, (lowest, most), dots=dots)


def _dress_bars(axes: Any, chart: Chart, reach: tuple[float, float], *, dots: bool) -> None:
    least, most = reach
    if dots:
        axes.set_xscale("log")
        axes.set_xlim(least / 1.6, most * 2.5)
    else:
        axes.set_xlim(0, (most or 1) * 1.16)
        _round_bytes(axes.xaxis, chart, most)
    axes.set_xlabel(_axis(chart))
    axes.xaxis.set_major_formatter(lambda value, _: _tick(value, chart))
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)


def write(chart: Chart, heading: str, names: dict[str, str], stem: Path) -> str:
    """STEM.png and STEM.svg; returns the latter's text."""
    png, svg = draw(chart, heading, names)
    stem.with_suffix(".png").write_bytes(png)
    stem.with_suffix(".svg").write_text(svg)
    return svg
