"""What Ramet has promised itself, judged by a run: each promise has its line, met or not.

A line that needs a scenario or a peer which the run did not have is not measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.harness.results import BudgetLine, Results
from bench.harness.spread import Figure
from bench.harness.words import quantity
from bench.scenarios.beside import BESIDE, WORST
from bench.scenarios.cold import MANY, SMALL
from bench.scenarios.data_path import AGAIN, FIRST, FSYNC, IMAGE
from bench.scenarios.duplicate import DUPLICATE, RATE
from bench.scenarios.duplicate import NEW as NEW_DATA
from bench.scenarios.mark import ALONE, CLONED
from bench.scenarios.memory import CACHE_BYTES, GROWN
from bench.scenarios.metadata import AGED, NEW, SHARE

FLAT = 1.5  # a line is flat when its end is at most that many times its beginning
VMS_MIN = 10  # in one command: of fewer its start is most
Verdict = tuple[str, bool]
ENGINE, MOUNT, BARE = "ramet-engine", "ramet", "passthrough"


@dataclass(frozen=True)
class Budget:
    work: str
    budget: str
    judge: Callable[[Results], Verdict | None]


def line(results: Results, scenario: str, chart: str, peer: str) -> dict[float, float]:
    """Medians by x; empty when the run does not have them."""
    return {
        point.x: Figure.of(point.samples).median
        for each in results.scenarios
        if each.name == scenario
        for drawn in each.charts
        if drawn.name == chart
        for own in drawn.lines
        if own.peer == peer
        for point in own.points
    }


def at_most_ms(scenario: str, limit_ms: float) -> Callable[[Results], Verdict | None]:
    """The engine's call, and that it is flat from one end of the x axis to the other."""

    def judge(results: Results) -> Verdict | None:
        found = line(results, scenario, "call", ENGINE)
        if len(found) < 2:
            return None
        first, last = found[min(found)], found[max(found)]
        told = (f"{quantity(first, 'ms')} at {min(found):g}, {quantity(last, 'ms')} at "
                f"{max(found):g}: {last / first:.2f} x")  # fmt: skip
        return told, max(found.values()) <= limit_ms and last <= FLAT * first

    return judge


def batch(results: Results) -> Verdict | None:
    found = line(results, "batch", "rate", ENGINE)
    if not found:
        return None
    rate = found[max(found)]
    return f"{quantity(rate, 'clones/s')}, {max(found):g} in a batch", rate >= 25_000


def against(
    chart: str, peer: str, least: float, at: float = IMAGE, scenario: str = "data-path"
) -> Callable[[Results], Verdict | None]:
    """Ramet's mount against a peer, more being better."""

    def judge(results: Results) -> Verdict | None:
        ours = line(results, scenario, chart, MOUNT).get(at)
        theirs = line(results, scenario, chart, peer).get(at)
        if ours is None or not theirs:
            return None
        return f"{ours / theirs:.2f} x", ours >= least * theirs

    return judge


def first_overwrite(results: Results) -> Verdict | None:
    """Of a new clone against the same writes again, when nothing of them is shared any more."""
    found = line(results, "data-path", "write-4k", MOUNT)
    if not {FIRST, AGAIN} <= found.keys():
        return None
    return f"{found[FIRST] / found[AGAIN]:.2f} x", found[FIRST] >= 0.8 * found[AGAIN]


def fsync(results: Results) -> Verdict | None:
    ours = line(results, "data-path", FSYNC, MOUNT).get(IMAGE)
    theirs = line(results, "data-path", FSYNC, "copy").get(IMAGE)
    if ours is None or not theirs:
        return None
    return f"{ours / theirs:.2f} x", ours <= 4 * theirs


def beside(results: Results) -> Verdict | None:
    ours = line(results, "beside", WORST, MOUNT).get(BESIDE)
    theirs = line(results, "beside", WORST, "copy").get(BESIDE)
    if ours is None or theirs is None:
        return None
    return f"{quantity(ours, 'ms')}, the host's {quantity(theirs, 'ms')}", True


def vms(results: Results) -> Verdict | None:
    ours = line(results, "vms", "rate", "ramet")
    bare = line(results, "vms", "rate", "define")
    both = sorted(count for count in ours.keys() & bare.keys() if count >= VMS_MIN)
    if not both:
        return None
    ratio = ours[both[-1]] / bare[both[-1]]
    return f"{ratio:.2f} x, {both[-1]:g} VMs", ratio >= 0.5


def metadata(when: int) -> Callable[[Results], Verdict | None]:
    def judge(results: Results) -> Verdict | None:
        share = line(results, "metadata", SHARE, ENGINE).get(when)
        return None if share is None else (quantity(share, "%"), share <= 1.5)

    return judge


def memory(results: Results) -> Verdict | None:
    found = line(results, "memory", GROWN, ENGINE)
    if not found:
        return None
    told = (f"{quantity(max(found.values()), 'bytes')} at most, cache "
            f"{quantity(CACHE_BYTES, 'bytes')}, {max(found):g} GiB mapped")  # fmt: skip
    return told, max(found.values()) <= CACHE_BYTES


def mark(what: int) -> Callable[[Results], Verdict | None]:
    def judge(results: Results) -> Verdict | None:
        rate = line(results, "mark", RATE, ENGINE).get(what)
        return None if rate is None else (quantity(rate, "M entries/s"), rate >= 20)

    return judge


YARDSTICK = "the bare pyfuse3 pass-through"
BUDGETS = (
    Budget("clone of a file, engine call, from the smallest image to the largest",
           "at most 50 us, flat", at_most_ms("clone-size", 0.05)),
    Budget("the same, from one extent to the most fragmented image", "at most 50 us, flat",
           at_most_ms("fragmentation", 0.05)),
    Budget("durable clones in a batch, engine", "at least 25,000/s", batch),
    Budget("clone of a volume, engine call, by files", "at most 1 ms, flat",
           at_most_ms("datastore", 1.0)),
    Budget("FUSE 4 KiB random read, direct, 1 job", f"at least 0.9 x {YARDSTICK}",
           against("read-4k", BARE, 0.9)),
    Budget("the same, 4 jobs", "at least 0.9 x the same", against("read-4k-4", BARE, 0.9)),
    Budget("FUSE 4 KiB random write, direct", "at least 0.9 x the same",
           against("write-4k", BARE, 0.9)),
    Budget("the same", "at least 10 x JuiceFS", against("write-4k", "juicefs", 10)),
    Budget("FUSE 1 MiB sequential read", f"at least 0.8 x {YARDSTICK}",
           against("read-1m", BARE, 0.8)),
    Budget("the same after random writes", "at least 0.8 x the same",
           against("read-1m-aged", BARE, 0.8)),
    Budget("FUSE 1 MiB sequential write of new data, a new file", "at least 0.6 x the same",
           against(RATE, BARE, 0.6, NEW_DATA, "duplicate")),
    Budget("the same over an image after random writes", "at least 0.6 x the same",
           against("write-1m", BARE, 0.6)),
    Budget("FUSE 1 MiB write of duplicate data", "at least 0.8 x the same",
           against(RATE, BARE, 0.8, DUPLICATE, "duplicate")),
    Budget("first overwrite after a clone", "at least 0.8 x overwrite of an unshared file",
           first_overwrite),
    Budget("4 KiB write and fdatasync", "at most 4 x the host's file system", fsync),
    Budget("the same beside a bulk import, 99th percentile", "is told", beside),
    Budget("4 KiB random read, cold page cache, 16 jobs", "at least 0.7 x the host's",
           against(SMALL, "copy", 0.7, MANY, "cold")),
    Budget("VM cloned, customized, registered", "at least 0.5 x bare virDomainDefineXML", vms),
    Budget("metadata on disk, data written in order", "at most 1.5 % of unique data",
           metadata(NEW)),
    Budget("the same, a quarter overwritten at random", "at most 1.5 % of unique data",
           metadata(AGED)),
    Budget("anonymous memory while a large file is walked", "bounded by the configured cache",
           memory),
    Budget("gc mark of an aged tree", "at least 20 million entries/s of a core", mark(ALONE)),
    Budget("the same, with clones of it", "at least 20 million entries/s of a core", mark(CLONED)),
)  # fmt: skip


def judged(results: Results, budgets: Sequence[Budget] = BUDGETS) -> list[BudgetLine]:
    lines = []
    for each in budgets:
        measured, met = each.judge(results) or ("not in this run", None)
        lines.append(BudgetLine(each.work, each.budget, measured, met))
    return lines
