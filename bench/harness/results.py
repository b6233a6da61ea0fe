"""``results.json``: every sample of a run, and all that is needed to judge it.

Raw samples are kept, in the order they were taken; medians, spreads and ratios are derived when a
run is shown or compared (``spread.py``), so a later version may derive them otherwise.  VERSION
goes up when a field changes its meaning or goes; a new field with a default does not count.
"""

from pathlib import Path
from typing import Literal

import msgspec

VERSION = 1
Better = Literal["lower", "higher"]
Scale = Literal["tiny", "quick", "full"]


class UnreadableResults(Exception):
    """The file is no results.json of a version this program knows."""


class Host(msgspec.Struct, forbid_unknown_fields=True):
    """The machine, and what else it did: load averages of 1, 5 and 15 minutes."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    file_system: str  # of the folder the run was in
    root: bool
    load_before: list[float]
    load_after: list[float] = []
    versions: dict[str, str] = {}


class PeerFacts(msgspec.Struct, forbid_unknown_fields=True):
    """Who took part, and how it was set up."""

    name: str
    title: str
    settings: dict[str, str]


class LeftOut(msgspec.Struct, forbid_unknown_fields=True):
    """A peer, a scenario, or (with both names) a peer in one scenario; why, in words."""

    why: str
    peer: str = ""
    scenario: str = ""


class Point(msgspec.Struct, forbid_unknown_fields=True):
    """Samples at one place of the x axis; of a chart with ``x_names``, x is the name's number."""

    x: float
    samples: list[float]


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One peer's points, by x."""

    peer: str
    points: list[Point]


class Chart(msgspec.Struct, forbid_unknown_fields=True):
    """One figure as it depends on one thing.  ``unit`` and ``x_unit``: ms, clones/s, bytes, ..."""

    name: str  # unique in its scenario
    title: str
    unit: str
    better: Better
    x_label: str
    x_unit: str = ""
    x_names: list[str] = []
    log_x: bool = True
    log_y: bool = True
    lines: list[Line] = []


class ScenarioResult(msgspec.Struct, forbid_unknown_fields=True):
    """What a scenario asked and found."""

    name: str
    title: str
    question: str
    cache: str  # the state of the page cache, in words
    reasons: dict[str, str]  # by peer: why it is better where it is
    charts: list[Chart]
    notes: list[str] = []
    elapsed_s: float = 0.0


class BudgetLine(msgspec.Struct, forbid_unknown_fields=True):
    """A budget of the design; ``met`` is None when this run did not measure it."""

    work: str
    budget: str
    measured: str
    met: bool | None


class Results(msgspec.Struct, forbid_unknown_fields=True):
    """A whole run.  Times are ISO 8601."""

    version: int
    scale: Scale
    command: str
    started: str
    ended: str
    host: Host
    peers: list[PeerFacts]
    scenarios: list[ScenarioResult]
    left_out: list[LeftOut] = []
    budgets: list[BudgetLine] = []
    interrupted: bool = False


class _Versioned(msgspec.Struct):
    version: int


def save(results: Results, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def load(path: Path) -> Results:
    """UnreadableResults when it is something else; OSError when it cannot be read."""
    raw = path.read_bytes()
    try:
        version = msgspec.json.decode(raw, type=_Versioned).version
        if version != VERSION:
            raise UnreadableResults(f"{path} has results of version {version}, not {VERSION}; "
                                    f"compare runs of one version of ramet")  # fmt: skip
        return msgspec.json.decode(raw, type=Results)
    except msgspec.DecodeError as error:
        raise UnreadableResults(f"{path} is no results.json of ramet bench: {error}") from None
