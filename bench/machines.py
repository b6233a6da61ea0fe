"""What many VMs in a store cost a command: listing them, looking identities up, removing one.

For 100, 1,000 and 5,000 VMs: the longest stretch that others wait for (``vm ls``, and reading the
index of VMs, which the first command that hands out an identity does), whether a MAC is taken, and
``vm rm`` of a VM that is registered nowhere, engine and index, without the commit.  Of the
processor's time, so that other load does not count; the middle of ROUNDS.
"""

import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engine import ROOT_INO, Store
from hypervisor.machine_index import index_of
from hypervisor.machines import Directory, Machine
from service.addresses import Context
from service.steps import Steps
from service.vms import vm_ls, vm_rm

COUNTS = (100, 1000, 5000)
ROUNDS = 5
REMOVED = 50
ASKED = 10_000


class Took(NamedTuple):
    """Milliseconds: of the longest stretch, and of all."""

    longest: float
    whole: float


def fill(path: Path, count: int) -> None:
    with Store.open(path) as store:
        lab = store.create_volume("lab")
        for n in range(count):
            lab.mkdir(ROOT_INO, b"vm%d" % n, 0o755, 0, 0)
            mac = f"52:54:00:00:{n >> 8:02x}:{n & 255:02x}"
            machine = Machine(f"vm{n}", str(uuid.uuid4()), [mac])
            Directory(lab, f"/vm{n}", None).set_machine(machine)


def took(steps: Steps[Any] | Iterator[None]) -> Took:
    stretches, value = [], None
    try:
        while True:
            start = time.thread_time()
            todo = steps.send(value) if hasattr(steps, "send") else next(steps)
            stretches.append(time.thread_time() - start)
            value = todo() if todo else None
    except StopIteration:
        stretches.append(time.thread_time() - start)
    return Took(max(stretches) * 1e3, sum(stretches) * 1e3)


def measure(path: Path) -> tuple[Took, Took, float, float]:
    """One round, on a store that is opened for it: index, list, µs a question, ms a removal."""
    with Store.open(path) as store:
        context = Context(store)
        index = index_of(store)
        read, listed = took(index.ready()), took(vm_ls(context, None))
        start = time.thread_time()
        for n in range(ASKED):
            _ = f"52:54:00:ff:{n & 255:02x}:00" in index.macs
        asked = (time.thread_time() - start) / ASKED * 1e6
        removed = [took(vm_rm(context, f"lab:/vm{n}", False, False)).whole for n in range(REMOVED)]
        store.abandon()
    return read, listed, asked, statistics.median(removed)


def main() -> None:
    print("VMs in a store      index, longest   vm ls, longest   is a MAC taken     vm rm")
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "store"
            Store.create(path)
            fill(path, count)
            rounds = [measure(path) for _ in range(ROUNDS)]
        read, listed = middle([r[0] for r in rounds]), middle([r[1] for r in rounds])
        asked = statistics.median(r[2] for r in rounds)
        removed = statistics.median(r[3] for r in rounds)
        print(
            f"{count:>6}      {read.whole:>8.1f} ms {read.longest:>5.2f} ms"
            f" {listed.whole:>8.1f} ms {listed.longest:>5.2f} ms {asked:>8.1f} us"
            f"{removed:>13.2f} ms"
        )


def middle(found: list[Took]) -> Took:
    return Took(*(statistics.median(values) for values in zip(*found, strict=True)))


if __name__ == "__main__":
    main()
