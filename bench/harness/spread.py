"""From samples to a figure and how far to trust it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.harness.results import Better


@dataclass(frozen=True)
class Figure:
    """The median, the median absolute deviation from it, the extremes."""

    median: float
    deviation: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Figure":
        median = statistics.median(samples)
        deviation = statistics.median(abs(each - median) for each in samples)
        return cls(median, deviation, min(samples), max(samples), len(samples))


def ratio(figure: float, best: float, better: Better) -> float:
    """How many times worse than the best: 1 is as good, 10 is ten times worse."""
    above, below = (figure, best) if better == "lower" else (best, figure)
    return above / below if below else (1.0 if not above else math.inf)


def best(figures: dict[str, Figure], better: Better) -> str:
    """Whose median is best."""
    pick = min if better == "lower" else max
    return pick(figures, key=lambda name: figures[name].median)
