"""``make kill``: kill -9 the daemon while clients write through its mount, again and again.

Each round starts ``ramet serve --mount`` on the store that the last one left, lets the clients work
until a random number of operations has been noted, kills the daemon in the middle of whatever it
does, and opens the store: fsck has no findings, and each client's volumes are as the notes allow
(crash_log.py).  What is found is where the next round goes on.  The page cache survives: this tests
the death of the process, ``make crash`` that of the machine.
"""

import argparse
import errno
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from crash_check import contents, data_of, findings
from crash_doors import DaemonDoor
from crash_log import Client, History, Note
from crash_model import State
from crash_run import prepare, scratch
from crash_workload import CACHE_BYTES, DaemonClient, init, start_daemon

from engine import Store, errors

CLIENTS = ("c0", "c1")
NOTES_MAX = 80
DEADLINE_S = 60
DEAD_MOUNT = (errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT, errno.EIO)


class Notes:
    """The history of one round, and when to end it."""

    def __init__(self, adopted: dict[str, State], notes_max: int) -> None:
        self.history = History()
        for name in CLIENTS:
            state = adopted.get(name, {})
            self.history.clients[name] = Client(states={0: state}, latest=state)
        self.enough = threading.Event()
        self.killed = False
        self._left = notes_max
        self._lock = threading.Lock()

    def __call__(self, note: Note) -> None:
        with self._lock:
            self.history.add(note)
            self._left -= 1
            if self._left <= 0:
                self.enough.set()


@dataclass
class Killer:
    """One store and its rounds."""

    directory: Path
    rng: random.Random
    rounds: int = 0
    acks: int = 0
    failures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.store = self.directory / "store"
        self.mountpoint = self.directory / "mount"
        self.mountpoint.mkdir()
        init(self.store, self.rng, lambda note: None)
        self._state: dict[str, State] = {}
        self._bytes: dict[str, dict[str, bytearray]] = {}

    def line(self, name: str) -> str:
        elapsed = time.monotonic() - self.started
        return (
            f"{name}: {self.rounds} kills, {self.acks} acks, {len(self.failures)} failures, "
            f"{self.rounds / elapsed:.2f} rounds/s"
        )

    def round(self) -> None:
        notes = Notes(self._state, self.rng.randrange(1, NOTES_MAX))
        daemon = start_daemon(self.store, self.mountpoint)
        unexpected: list[str] = []
        try:
            threads = [threading.Thread(target=w) for w in self._workers(notes, unexpected)]
            for thread in threads:
                thread.start()
            enough = notes.enough.wait(DEADLINE_S)
        finally:
            notes.killed = True
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
            subprocess.run(["umount", "-l", str(self.mountpoint)], check=True)
        for thread in threads:
            thread.join()
        self.rounds += 1
        self.acks += notes.history.acks
        problems = self._verify(notes.history) + unexpected
        if not enough:
            problems.append(f"no {NOTES_MAX} notes in {DEADLINE_S} s")
        self.failures += [f"round {self.rounds}: {problem}" for problem in problems]

    def _workers(self, notes: Notes, unexpected: list[str]) -> list[Callable[[], None]]:
        return [partial(self._work, name, self.rng.random(), notes, unexpected) for name in CLIENTS]

    def _work(self, name: str, seed: float, notes: Notes, unexpected: list[str]) -> None:
        """Until the daemon is no more."""
        door = DaemonDoor(self.store, self.mountpoint)
        client = DaemonClient(name, random.Random(seed), notes, door)
        client.workload.model.contents.update(self._bytes.get(name, {}))
        try:
            client.start()
            while True:
                client.step()
        except (OSError, errors.RametError, AssertionError) as error:
            if not (notes.killed and is_death(error)):
                unexpected.append(repr(error))
            notes.enough.set()

    def _verify(self, history: History) -> list[str]:
        with Store.open(self.store, cache_bytes=CACHE_BYTES) as store:
            problems = findings(store, data=True)
            self._state = contents(store)
            problems += history.verify(self._state)
            self._bytes = read_all(store)
        return problems


def is_death(error: BaseException) -> bool:
    """What a client sees when its daemon is killed: a dead mount, a dead socket, a cut answer."""
    if isinstance(error, errors.RametError):
        return "went away" in str(error)
    return isinstance(error, ConnectionError) or (
        isinstance(error, OSError) and error.errno in DEAD_MOUNT
    )


def read_all(store: Store) -> dict[str, dict[str, bytearray]]:
    """The contents by client and key, for the models of the next round."""
    found: dict[str, dict[str, bytearray]] = {}
    for client, key, data in data_of(store):
        found.setdefault(client, {})[key] = bytearray(data)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    prepare()
    with scratch() as directory:
        killer = Killer(directory, random.Random(options.seed))
        while killer.rounds < options.rounds and not killer.failures:
            killer.round()
            if killer.rounds % 50 == 0:
                print(killer.line("so far"), flush=True)
    for failure in killer.failures:
        print(failure)
    print(killer.line(f"kill seed {options.seed}"))
    return 1 if killer.failures else 0


if __name__ == "__main__":
    sys.exit(main())
