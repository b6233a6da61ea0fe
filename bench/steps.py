"""How long the steps of long commands are: what a request beside one may have to wait for.

The CPU time of each stretch between two yields, with Python's looks for cyclic garbage as in a
daemon.  Unlike bench.stalls, which asks a mounted daemon, it hardly depends on what else the
machine does.  The budget is 5 ms.
"""

import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from engine import ROOT_INO, Store
from service.addresses import Context
from service.clones import clone
from service.cycles import short_looks
from service.datastores import volume_clone
from service.steps import Steps
from service.work import JobCommand, Result, Work, queue, run

ENTRIES = 30_000
FILE_CLONES = 5_000
VOLUME_CLONES = 500


def job(context: Context, command: JobCommand, *arguments: object) -> Steps[Result]:
    work = Work(queue(context, command, arguments, ()))
    return run(context, work, command(context, work, *arguments))


def drive(what: str, steps: Generator[object, None, object]) -> None:
    """Run them to the end and print a line."""
    taken, going = [], True
    while going:
        start = time.thread_time()
        going = next(steps, steps) is not steps
        taken.append((time.thread_time() - start) * 1e3)
    last, total = taken[-1], sum(taken)
    taken.sort()
    p50, p99 = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
    figures = "".join(f"{each:>9.2f}" for each in (p50, p99, taken[-1], last))
    print(f"{what:<36}{len(taken):>7}{figures}{total / 1e3:>9.2f}", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ramet-bench-") as name:
        Store.create(Path(name) / "store")
        with Store.open(Path(name) / "store") as store, short_looks():
            lab, context = store.create_volume("lab"), Context(store)
            tree = lab.mkdir(ROOT_INO, b"tree", 0o755, 0, 0).ino
            for n in range(ENTRIES):
                lab.create(tree, b"%d" % n, 0o644, 0, 0)
            lab.write(lab.create(ROOT_INO, b"file", 0o644, 0, 0).ino, 0, b"x" * 100_000)
            store.commit()
            heads = ("steps", "p50 ms", "p99 ms", "max ms", "last ms", "all s")
            print(f"{'CPU time of steps':<36}{heads[0]:>7}" + "".join(f"{h:>9}" for h in heads[1:]))
            drive(f"clone of {ENTRIES:,} entries", job(context, clone, "lab:/tree", "lab:/twin", 1,
                  1, False))  # fmt: skip
            store.commit()
            drive(f"rm -r of {ENTRIES:,} entries", store.removal(lab, ROOT_INO, b"twin"))
            store.commit()
            drive(f"{FILE_CLONES:,} clones of a file", job(context, clone, "lab:/file",
                  "lab:/clone-{n}", FILE_CLONES, 1, False))  # fmt: skip
            store.commit()
            drive(f"{VOLUME_CLONES:,} clones of a volume", job(context, volume_clone, "lab",
                  "twin-{n}", VOLUME_CLONES, 1))  # fmt: skip


if __name__ == "__main__":
    main()
