"""What it costs that every clone is a job: the same clones without and with it, in turns.

Without: the names parsed and resolved, the clones made, one durable commit.  With: the command as
the daemon runs it, a record of the job and of all it has made in the same commit.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.clones import GIB, aged_file
from engine import Store
from service.addresses import Context, parse
from service.clones import Places, clone, expand
from service.steps import run_here
from service.work import Work, queue, run

BATCH = 10_000
SINGLES = 400
ROUNDS = 6


def bare(context: Context, target: str, count: int) -> None:
    origin, path = parse(context, "lab:/golden")
    inode = origin.resolve(path)
    clones, places = context.store.clone_file, Places(context)
    for each in [expand(target, n) for n in range(1, count + 1)]:
        volume, parent, name = places.find(each)
        clones(origin, inode.ino, volume, parent, name)
    context.store.commit()


def as_job(context: Context, target: str, count: int) -> None:
    arguments = ("lab:/golden", target, count, 1, False)
    work = Work(queue(context, clone, arguments, ()))
    steps = run(context, work, clone(context, work, *arguments))
    run_here(steps, context.store.commit, lambda: None)
    context.store.commit()
    context.jobs.unsettled.clear()


def timed(call: Callable[[Context, str, int], None], context: Context, at: str, n: int) -> float:
    """Seconds for ``n`` clones into a directory of their own."""
    volume = context.store.volume("lab")
    volume.mkdir(1, at.encode(), 0o755, 0, 0)
    context.store.commit()
    begun = time.perf_counter()
    call(context, f"lab:/{at}/clone-{{n}}", n)
    return time.perf_counter() - begun


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ramet-bench-") as scratch:
        Store.create(Path(scratch) / "store")
        with Store.open(Path(scratch) / "store") as store:
            context = Context(store)
            aged_file(store.create_volume("lab"), b"golden", 4 * GIB, 1000)
            store.commit()
            for count, rounds in ((BATCH, ROUNDS), (1, SINGLES)):
                took: dict[Callable[..., None], list[float]] = {bare: [], as_job: []}
                for n in range(rounds):
                    for call in (bare, as_job) if n % 2 else (as_job, bare):
                        took[call].append(
                            timed(call, context, f"{call.__name__}-{count}-{n}", count)
                        )
                without, with_it = (statistics.median(took[call]) for call in (bare, as_job))
                print(
                    f"{count} durable clones: {count / without:,.0f}/s, as a job "
                    f"{count / with_it:,.0f}/s ({without / with_it:.2f} x; budget 0.9)"
                )


if __name__ == "__main__":
    main()
