"""``make crash``: cut the power of a running store at random points, and check what is left.

One run records a workload on a fresh disk, then replays cuts in ascending order; runs follow one
another until there are enough points.  Every fourth run works through the daemon, the others call
the engine.  The last line of output has the figures; the exit code is 1 when a point failed.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import crash_bugs
from crash_check import check
from crash_disk import FILE_SYSTEMS, own_mounts, unmount_below
from crash_log import FSYNC, History, Medium, Record
from crash_posix_cut import Posix

POINTS_PER_RUN = 125
STEPS = 400
WORKLOAD_S = 300
MODES = ("engine", "daemon", "both")
MEDIA: dict[str, Medium] = {**FILE_SYSTEMS, "posix": Posix()}
MEMORY = Path("/dev/shm")


@dataclass
class Figures:
    """``acks``: acknowledgements that had been given before the last cut of their run."""

    points: int = 0
    acks: int = 0
    flushes: int = 0
    failures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def line(self, name: str) -> str:
        elapsed = time.monotonic() - self.started
        return (
            f"{name}: {self.points} points, {self.acks} acks, {self.flushes} flushes, "
            f"{len(self.failures)} failures, {self.points / elapsed:.1f} points/s"
        )


@dataclass(frozen=True)
class Plan:
    """One run: on what, from which seed, with which mistake if any; ``full``: each cut finds the
    disk full afterwards."""

    medium: Medium
    seed: str
    daemon: bool
    bug: str | None = None
    full: bool = False
    steps: int = STEPS


@contextmanager
def scratch() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="crash-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield directory
    finally:
        unmount_below(directory)  # what a signal between two lines left
        shutil.rmtree(directory)


def record(plan: Plan, directory: Path) -> Path:
    """Run the workload while all is recorded; returns the log."""
    log = directory / "log"
    with plan.medium.recorded(directory, log) as place:
        command: list[str | Path] = [
            sys.executable, Path(__file__).with_name("crash_workload.py"), place.root / "store",
            "--notes", place.notes, "--seed", plan.seed, "--steps", str(plan.steps),
        ]  # fmt: skip
        if plan.bug:
            command += ["--bug", plan.bug]
        if plan.daemon:
            (directory / "mount").mkdir()
            command += ["--mountpoint", directory / "mount"]
        subprocess.run(command, check=True, timeout=WORKLOAD_S)
    return log


Cut = tuple[int, int]  # after so many bytes of the log (posix: records), and the coins' seed


def choose(records: list[Record], count: int, rng: random.Random) -> list[Cut]:
    """Cuts in ascending order, from the note that starts the store's life to its end.

    One in ten lies before the first acknowledgement of a change, where the store is made.
    """
    at = {r.note.kind: n for n, r in reversed(list(enumerate(records))) if r.note}
    early = [record.end for record in records[at["start"] : at["ack"]]]
    alive = [record.end for record in records[at["start"] : at["end"] + 1]]
    first = count // 10
    ends = sorted(rng.choices(early, k=first) + rng.choices(alive, k=count - first))
    return [(end, rng.getrandbits(64)) for end in ends]


def replay(
    plan: Plan, directory: Path, log: Path, records: list[Record], cuts: list[Cut], figures: Figures
) -> None:  # fmt: skip
    """Cut the power at each of these points and check what is left."""
    history, upto = History(), 0
    with plan.medium.replayed(directory, log) as cut:
        for end, seed in cuts:
            while upto < len(records) and records[upto].end <= end:
                note = records[upto].note
                figures.flushes += records[upto].kind == FSYNC
                if note is not None:
                    history.add(note)
                upto += 1
            try:
                with cut(end, seed) as root:
                    problems = check(root / "store", history, full=plan.full)
            except OSError as error:
                problems = [f"host file system: {error}"]
            figures.points += 1
            for problem in problems:
                print(f"{plan.medium.name} run {plan.seed} cut {end}:{seed}: {problem}")
            if problems:
                figures.failures.append(f"{end}:{seed}")
    figures.acks += history.acks


def one_run(plan: Plan, count: int, figures: Figures, keep: Path | None) -> None:
    with scratch() as directory:
        log = record(plan, directory)
        records, failures = plan.medium.records(log), len(figures.failures)
        cuts = choose(records, count, random.Random(plan.seed + "/cuts"))
        replay(plan, directory, log, records, cuts, figures)
        if keep and len(figures.failures) > failures:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(log, keep / f"{plan.medium.name}-{plan.seed}.log".replace("/", "-"))


def crash(
    medium: str, points: int, seed: str, *, mode: str = "both", bug: str | None = None,
    per_run: int = POINTS_PER_RUN, keep: Path | None = None, first_failure: bool = False,
    full: bool = False,
) -> Figures:  # fmt: skip
    """As many runs as it takes; with ``first_failure`` no more after the one that fails."""
    figures, run = Figures(), 0
    while figures.points < points and not (first_failure and figures.failures):
        daemon = mode == "daemon" or (mode == "both" and run % 4 == 3)
        plan = Plan(MEDIA[medium], f"{seed}/{run}", daemon and medium != "posix", bug, full)
        one_run(plan, min(per_run, points - figures.points), figures, keep)
        run += 1
        print(figures.line(f"run {run}"), flush=True)
    return figures


def again(medium: str, log: Path, cut: str, *, full: bool) -> Figures:
    """One cut of a log that was kept."""
    figures, plan = Figures(), Plan(MEDIA[medium], log.name, daemon=False, full=full)
    end, seed = map(int, cut.split(":"))
    with scratch() as directory:
        replay(plan, directory, log, plan.medium.records(log), [(end, seed)], figures)
    return figures


def prepare() -> None:
    """Whatever ends us: nothing stays mounted, no loop device attached."""
    own_mounts()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--fs", choices=MEDIA, default="ext4")
    parser.add_argument("--mode", choices=MODES, default="both")
    parser.add_argument("--bug", choices=sorted(crash_bugs.BUGS), help="see crash_bugs.py")
    parser.add_argument("--per-run", type=int, default=POINTS_PER_RUN)
    parser.add_argument("--first-failure", action="store_true", help="no run after a failed one")
    parser.add_argument("--full", action="store_true", help="the disk is full after each cut")
    parser.add_argument("--keep", type=Path, help="copy the logs of failed runs here")
    parser.add_argument("--again", nargs=2, metavar=("LOG", "END:SEED"), help="one cut of a log")
    options = parser.parse_args()
    prepare()
    if options.again:
        log, cut = options.again
        figures = again(options.fs, Path(log).absolute(), cut, full=options.full)
    else:
        figures = crash(
            options.fs, options.points, options.seed, mode=options.mode, bug=options.bug,
            per_run=options.per_run, keep=options.keep, first_failure=options.first_failure,
            full=options.full,
        )  # fmt: skip
    print(figures.line(f"crash {options.fs} seed {options.seed}"))
    return 1 if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
