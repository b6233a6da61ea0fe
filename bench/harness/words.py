"""Figures as people read them."""

import math

from bench.harness.results import Chart

SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def quantity(value: float, unit: str) -> str:
    """With its unit, three digits: ``17.3 us``, ``1.20 GiB``, ``24,100 clones/s``."""
    if unit == "bytes":
        return _bytes(value)
    if unit == "ms":
        return _time(value)
    return f"{number(value)} {unit}".rstrip()


def number(value: float) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def times(value: float) -> str:
    """A ratio: ``1.37 x``, ``2.2 x``, ``583 x``."""
    if math.isinf(value):
        return "against 0"
    return f"{number(value)} x"


def place(chart: Chart, x: float) -> str:
    """A point of the x axis."""
    if chart.x_names:
        return chart.x_names[int(x)]
    if chart.x_unit in SIZES:
        return _bytes(x * 1024 ** SIZES.index(chart.x_unit))
    return quantity(x, "")


def _bytes(value: float) -> str:
    at = 0
    while abs(value) >= 1024 and at < len(SIZES) - 1:
        value, at = value / 1024, at + 1
    return f"{number(value)} {SIZES[at]}"


def _time(milliseconds: float) -> str:
    if milliseconds < 0.9995:
        return f"{number(milliseconds * 1e3)} us"
    return (
        f"{number(milliseconds)} ms" if milliseconds < 999.5 else f"{number(milliseconds / 1e3)} s"
    )
