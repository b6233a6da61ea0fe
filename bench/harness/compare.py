"""Two runs: what changed, beyond noise.

A change counts when the medians differ by more than a tenth, by more than three times the sum of
both deviations, and no sample of the one lies within the other's.  One sample has no spread, so
times and rates of which there is only one must differ by half.  A busy machine slows everybody, so
next to each change stands what the other peers did at the same place: a change that they share is
the machine's.
"""

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.harness.results import Better, Chart, Results
from bench.harness.spread import Figure
from bench.harness.words import place

CHANGE_MIN = 0.10
CHANGE_OF_ONE_MIN = 0.50
STEADY = ("bytes", "%")  # units of what does not depend on the moment
DEVIATIONS_MIN = 3.0
NO_RATIO = (0.0, math.inf)  # to nothing, from nothing
SHARED = 0.5  # of a change, in logarithms
Key = tuple[str, str, str, float]
"""Scenario, chart, peer, x."""


@dataclass(frozen=True)
class Change:
    """``factor``: how many times worse; below 1, better; of two zeros 1, of one 0 or infinite.
    ``others``: that of other peers."""

    scenario: str
    chart: str
    unit: str
    peer: str
    where: str  # on the x axis
    before: Figure
    after: Figure
    factor: float
    others: float | None
    beyond_noise: bool

    @property
    def verdict(self) -> str:
        if not self.beyond_noise:
            return "same"
        word = "worse" if self.factor > 1 else "better"
        return f"{word}, as the other peers" if self._shared else word

    @property
    def _shared(self) -> bool:
        if self.others is None or self.others in NO_RATIO or self.factor in NO_RATIO:
            return False
        return math.log(self.others) / math.log(self.factor) >= SHARED

    @property
    def regression(self) -> bool:
        return self.verdict == "worse"


def compare(before: Results, after: Results) -> list[Change]:
    """Every place that both have measured, the worst first."""
    olds, news = dict(_figures(before)), dict(_figures(after))
    factors = {key: _factor(olds[key][0], figure, chart.better)
               for key, (figure, chart) in news.items() if key in olds}  # fmt: skip
    changes = []
    for key, factor in factors.items():
        scenario, _, peer, x = key
        (old, _), (new, chart) = olds[key], news[key]
        changes.append(Change(
            scenario, chart.name, chart.unit, peer, place(chart, x), old, new, factor,
            _others(factors, key), _beyond_noise(old, new, chart.unit),
        ))  # fmt: skip
    return sorted(changes, key=lambda change: -change.factor)


def _figures(results: Results) -> Iterator[tuple[Key, tuple[Figure, Chart]]]:
    for scenario in results.scenarios:
        for chart in scenario.charts:
            for line in chart.lines:
                for point in line.points:
                    key = scenario.name, chart.name, line.peer, point.x
                    yield key, (Figure.of(point.samples), chart)


def _factor(old: Figure, new: Figure, better: Better) -> float:
    below, above = (old, new) if better == "lower" else (new, old)
    if not below.median:
        return math.inf if above.median else 1.0
    return above.median / below.median


def _others(factors: Mapping[Key, float], key: Key) -> float | None:
    """Ramet's doors are one peer here: what makes one worse may make the other worse too."""
    scenario, chart, peer, x = key
    kin = peer.partition("-")[0]
    found = [factor for (s, c, p, at), factor in factors.items()
             if (s, c, at) == (scenario, chart, x) and p.partition("-")[0] != kin]  # fmt: skip
    return statistics.median(found) if found else None


def _beyond_noise(old: Figure, new: Figure, unit: str) -> bool:
    alone = min(old.count, new.count) == 1 and unit not in STEADY
    least = CHANGE_OF_ONE_MIN if alone else CHANGE_MIN
    gap = abs(new.median - old.median)
    apart = old.most < new.least or new.most < old.least
    return (
        apart
        and gap > least * max(abs(old.median), abs(new.median))
        and gap > DEVIATIONS_MIN * (old.deviation + new.deviation)
    )
