"""``ramet bench``: from words to a run, and from a run to files and a table."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Console
from rich.status import Status
from rich.table import Table as RichTable

from bench.budgets import judged
from bench.harness import plots, report
from bench.harness.compare import compare
from bench.harness.peer import Peer
from bench.harness.results import LeftOut, Results, Scale, UnreadableResults, load, save
from bench.harness.runner import NotFound, Plan, load_file, run
from bench.harness.scenario import Scenario
from bench.harness.tables import (
    Table,
    of_budgets,
    of_changes,
    of_chart,
    of_left_out,
    of_times,
    titles,
)
from bench.peers import PEERS
from bench.scenarios import SCENARIOS
from engine import errors

Kind = TypeVar("Kind", type[Peer], type[Scenario])
RESULTS, REPORT = "results.json", "report.html"
INTERRUPTED = 3  # partly done


@dataclass(frozen=True)
class Wish:
    """What the command line said."""

    scale: Scale = "quick"
    peers: Sequence[str] = ()
    scenarios: Sequence[str] = ()
    plugins: Sequence[Path] = ()
    out: Path | None = None
    folder: Path | None = None
    given: dict[str, Path] = field(default_factory=dict)
    rounds: int | None = None
    quiet: bool = False
    command: str = ""


def known(plugins: Sequence[Path] = ()) -> tuple[list[type[Peer]], list[type[Scenario]]]:
    """All peers and scenarios there are, a lab's own last.  NotFound."""
    peers, scenarios = list(PEERS), list(SCENARIOS)
    for path in plugins:
        try:
            own = load_file(path)
        except NotFound as error:
            raise errors.NotFound(str(error)) from None
        peers += own[0]
        scenarios += own[1]
    return peers, scenarios


def chosen(kinds: Sequence[Kind], names: Sequence[str], what: str) -> list[Kind]:
    """Those of the names, or all.  NotFound."""
    by_name = {kind.name: kind for kind in kinds}
    for name in names:
        if name not in by_name:
            raise errors.NotFound(f"no {what} {name}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names] if names else list(kinds)


def listing(plugins: Sequence[Path]) -> dict[str, list[dict[str, str | None]]]:
    """What there is, and why some of it cannot run here."""
    peers, scenarios = known(plugins)
    return {
        "peers": [{"name": kind.name, "title": kind.title, "cannot_run": kind().detect()}
                  for kind in peers],
        "scenarios": [{"name": kind.name, "title": kind.title, "cannot_run": kind().detect()}
                      for kind in scenarios],
    }  # fmt: skip


def bench(wish: Wish, *, as_json: bool = False) -> int:
    """Run, write everything into the output directory, print the tables; the exit code."""
    peers, scenarios = known(wish.plugins)
    wanted = chosen(scenarios, wish.scenarios, "scenario")
    long = [each for each in wanted if each.long and wish.scale != "full" and not wish.scenarios]
    for name in wish.given:
        chosen(peers, [name], "peer")
    out = wish.out or Path(f"ramet-bench-{datetime.now():%Y%m%d-%H%M%S}")
    out.mkdir(parents=True, exist_ok=True)
    with Progress(quiet=wish.quiet) as progress:
        plan = Plan(
            chosen(peers, wish.peers, "peer"), [each for each in wanted if each not in long],
            wish.scale, (wish.folder or out).resolve(), wish.given, wish.command, wish.rounds,
            progress.say, progress.done, lambda so_far: save(so_far, out / RESULTS),
        )  # fmt: skip
        results = run(plan)
    why = "it takes long: use --full, or ask for it by --scenarios"
    results.left_out += [LeftOut(why, scenario=each.name) for each in long]
    results.budgets = judged(results)
    save(results, out / RESULTS)
    write_report(results, out)
    if as_json:
        print(msgspec.json.encode(results).decode())
    elif not wish.quiet:
        print_results(results)
        print(f"\n{out / REPORT}\n{out / RESULTS}")
    return INTERRUPTED if results.interrupted else 0


def write_report(results: Results, out: Path) -> None:
    """The report, and its pictures as files where matplotlib is there to draw them."""
    pictures: dict[tuple[str, str], str] = {}
    if plots.available():
        names = titles(results)
        for scenario, chart in report.charts(results):
            stem = out / f"{scenario.name}-{chart.name}"
            pictures[scenario.name, chart.name] = plots.write(chart, scenario.title, names, stem)
    else:
        print(f"ramet bench: {plots.INSTALL}", file=sys.stderr)
    (out / REPORT).write_text(report.html(results, pictures))


class Progress:
    """What is going on now: a line that changes on a terminal, one for each scenario in a log.

    What has ended stays to be read in both.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._status = Status("", console=self._console)
        self._told = ""

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def say(self, text: str) -> None:
        if self._console.is_terminal:
            self._status.update(text.replace("[", r"\["))
            return
        scenario = text.partition(": ")[0]
        if scenario != self._told:
            self._console.print(scenario, markup=False, highlight=False)
            self._told = scenario

    def done(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


def print_results(results: Results) -> None:
    names = titles(results)
    for scenario in results.scenarios:
        print(f"\n{scenario.title}: {scenario.question}")
        for chart in scenario.charts:
            if chart.lines:
                print_table(of_chart(chart, names))
    print_table(of_budgets(results))
    print_table(of_times(results))
    if results.left_out:
        print_table(of_left_out(results))


def print_table(table: Table) -> None:
    """Whole lines in a pipe, as wide as the terminal on one."""
    made = RichTable(box=None, pad_edge=False)
    for number, head in enumerate(table.head):
        made.add_column(head, justify="left", no_wrap=number == 0)
    for row in table.rows:
        made.add_row(*row)
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, markup=False, highlight=False, emoji=False)
    console.print(f"\n{table.title}", style="italic")
    console.print(made)


def bench_compare(before: Path, after: Path, *, all_lines: bool) -> bool:
    """Print what changed; whether Ramet became worse anywhere, beyond noise."""
    try:
        old, new = load(before), load(after)
    except UnreadableResults as error:
        raise errors.InvalidArgument(str(error)) from None
    if old.scale != new.scale:
        raise errors.InvalidArgument(f"{before} is a {old.scale} run, {after} a {new.scale} one; "
                                     f"compare runs of one size")  # fmt: skip
    changes = compare(old, new)
    shown = [each for each in changes if all_lines or each.beyond_noise]
    if shown:
        print_table(of_changes(shown))
    worse = [each for each in changes if each.regression and each.peer.startswith("ramet")]
    print(f"{len(changes)} figures compared: {sum(each.beyond_noise for each in changes)} changed "
          f"beyond noise, {len(worse)} of Ramet's are worse")  # fmt: skip
    return bool(worse)
