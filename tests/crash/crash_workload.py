"""The process that works on a store until its power goes: ``crash_workload.py STORE ...``.

As the store's owner it calls the engine; a state may become durable from the moment it is captured,
so that is when it is noted.  With ``--mountpoint`` it starts the real daemon and works through its
mount and its socket as several clients at once; any operation may become durable by another
client's fsync, so each is noted before it is asked for.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import crash_bugs
from crash_doors import DaemonDoor, EngineDoor
from crash_log import Note, NotesFile, Sink
from crash_model import GOLDEN, GOLDEN_FILES, TREE, Action, Workload, describe

from engine import ROOT_INO, Store, slabs
from engine.trim import Trim

CACHE_BYTES = 8 << 20
SLAB_SLOTS = 128  # 512 KiB: slabs fill, and freed slots are wanted soon
ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 3
TIMEOUT_S = 120


def init(store: Path, rng: random.Random, sink: Sink) -> None:
    sink(Note("start"))
    Store.create(store, slab_slots=SLAB_SLOTS, fanout=rng.choice([16, 252]))
    sink(Note("created"))
    with Store.open(store) as opened:
        golden = opened.create_volume(GOLDEN)
        top = golden.mkdir(ROOT_INO, TREE.encode(), 0o755, 0, 0).ino
        for name, data in GOLDEN_FILES.items():
            golden.write(golden.create(top, name, 0o644, 0, 0).ino, 0, data)


class EngineRun:
    """One owner, one client; commits of its own, and commits beside its writes."""

    client = "c0"

    def __init__(self, path: Path, rng: random.Random, sink: Sink) -> None:
        self._path = path
        self._rng = rng
        self._sink = sink
        self._store = Store.open(path, cache_bytes=CACHE_BYTES)
        self._door = EngineDoor(self._store)
        self._workload = Workload(rng, self.client, self._door)
        self._sequence = 0
        self._acked = 0

    def run(self, steps: int) -> None:
        self._workload.first()()
        kinds = {
            self._operate: 72, self._commit: 6, self._sync: 12, self._commit_beside: 10,
            self._synced_writes: 8, self._write_back: 4,
            self._reclaim: 4, self._gc: 2, self._reopen: 1, self._clone_tree: 5,
            self._remove_tree: 3,
        }  # fmt: skip
        for _ in range(steps):
            self._rng.choices(list(kinds), list(kinds.values()))[0]()
        self._commit()
        self._store.close()

    def _operate(self) -> None:
        self._workload.next()()

    def _note_state(self) -> int:
        self._sequence += 1
        changes = self._workload.model.changes()
        self._sink(Note("state", self.client, self._sequence, changes))
        return self._sequence

    def _ack(self, sequence: int) -> None:
        """A record of the log may have acknowledged more than a commit captured before it."""
        self._acked = max(self._acked, sequence)
        self._sink(Note("ack", self.client, self._acked))

    def _commit(self) -> None:
        sequence = self._note_state()
        self._store.commit()
        self._ack(sequence)

    def _synced_writes(self) -> None:
        """Nothing but data changes, as a guest changes it: the intent log's part."""
        self._commit()
        if self._rng.random() < 0.6:
            self._punch_free()
        for _ in range(self._rng.choice([1, 4, 12])):
            for _ in range(self._rng.choice([1, 1, 3])):
                action = self._workload.write()
                if action is not None:
                    action()
            self._sync()

    def _punch_free(self) -> None:
        """No free slot takes space on the host, but what the log holds."""
        trim = Trim(self._store.pool, run_min=1)
        while runs := trim.take():
            with contextlib.suppress(OSError):  # the host's file system cannot
                trim.punch(runs)
            trim.give(runs, punched=True)

    def _sync(self) -> None:
        sequence = self._note_state()
        self._store.sync()
        self._ack(sequence)

    def _sync_by_log(self) -> None:
        sequence = self._note_state()
        if self._store.sync_by_log():
            self._ack(sequence)

    def _clone_tree(self) -> None:
        """In steps, and what is not whole yet is committed."""
        picked = self._workload.pick_tree()
        if picked is None:
            return
        for _ in self._door.clone_tree_steps(*picked):
            if self._rng.random() < 0.3:
                self._commit()
        self._workload.made_tree(picked[1])

    def _remove_tree(self) -> None:
        for volume in filter(self._workload.model.has_tree, self._workload.model.volumes()):
            self._workload.model.remove(f"{volume}:{TREE}")
            self._door.remove_tree(volume)
            return

    def _commit_beside(self) -> None:
        """Captured, written on a thread while the store is changed, finished."""
        self._reclaim()
        sequence = self._note_state()
        commit = self._store.capture()
        if commit is None:
            return
        for _ in range(self._rng.choice([0, 4, 16, 32])):  # enough to want each free slot
            self._operate()
        self._write_back()
        writer = threading.Thread(target=commit.write)
        writer.start()
        for _ in range(self._rng.choice([0, 1, 4, 16])):
            self._operate()
            if self._store.loggable:
                self._sync_by_log()
        writer.join()
        assert commit.durable
        self._store.finish(commit)
        self._ack(sequence)

    def _write_back(self) -> None:
        """What the kernel does when it pleases: write dirty pages of a slab, without a flush."""
        for slab in sorted((self._path / "slabs").iterdir()):
            fd = os.open(slab, os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    def _reclaim(self) -> None:
        self._store.reclaim(self._rng.choice([0.0001, 1.0]))

    def _gc(self) -> None:
        sequence = self._note_state()
        self._store.gc()
        self._ack(sequence)

    def _reopen(self) -> None:
        sequence = self._note_state()
        self._store.close()
        self._ack(sequence)
        self._store = Store.open(self._path, cache_bytes=CACHE_BYTES)
        self._door.reopened(self._store)


class DaemonClient:
    """One of several clients of a daemon; its volumes are its own."""

    def __init__(self, name: str, rng: random.Random, sink: Sink, door: DaemonDoor) -> None:
        self._name = name
        self._rng = rng
        self._sink = sink
        self._door = door
        self.workload = Workload(rng, name, door)
        self._sequence = 0

    def start(self) -> None:
        if not self.workload.model.volumes():
            self._perform(self.workload.first())

    def step(self) -> None:
        chance = self._rng.random()
        if chance < 0.12:
            self._perform(self._fsync)
        elif chance < 0.3:
            self._perform(self.workload.write() or self._fsync)
            self._perform(self._fsync)
        elif chance < 0.32:
            self._perform(partial(self._door.call, "gc"))
        else:
            self._perform(self.workload.next())

    def _fsync(self) -> None:
        model = self.workload.model
        volume = self._rng.choice(model.volumes())
        self._door.fsync(volume, self._rng.choice([".", *model.files(volume)]))

    def _perform(self, action: Action) -> None:
        changes = self.workload.model.changes()
        if changes:
            self._sequence += 1
            note = Note("state", self._name, self._sequence, changes, describe(action))
            self._sink(note)
        action()
        if self._door.durable:
            self._sink(Note("ack", self._name, self._sequence))


def start_daemon(store: Path, mountpoint: Path) -> subprocess.Popen[str]:
    """``ramet serve --mount``; returns when it serves."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "--store", store, "serve", "--mount", mountpoint],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == "ready\n", "the daemon did not start"
    return process


@contextmanager
def daemon(store: Path, mountpoint: Path) -> Iterator[None]:
    process = start_daemon(store, mountpoint)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0, "the daemon did not stop cleanly"


def run_daemon(store: Path, mountpoint: Path, rng: random.Random, sink: Sink, steps: int) -> None:
    clients = [
        DaemonClient(f"c{n}", random.Random(rng.random()), sink, DaemonDoor(store, mountpoint))
        for n in range(CLIENTS)
    ]
    failed: list[BaseException] = []

    def work(client: DaemonClient) -> None:
        try:
            client.start()
            for _ in range(steps // CLIENTS):
                client.step()
        except BaseException as error:
            failed.append(error)
            raise

    with daemon(store, mountpoint):
        threads = [threading.Thread(target=work, args=[client]) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--mountpoint", type=Path, help="work through a daemon, mounted here")
    parser.add_argument("--bug", choices=sorted(crash_bugs.BUGS))
    options = parser.parse_args()
    rng, sink = random.Random(options.seed), NotesFile(options.notes)
    if rng.random() < 0.5:
        slabs.SPARE_BYTES = 1 << 60  # there is never room for a whole one: they are sparse
    if options.bug:
        crash_bugs.BUGS[options.bug]()
    init(options.store, rng, sink)
    if options.mountpoint:
        run_daemon(options.store, options.mountpoint, rng, sink, options.steps)
    else:
        EngineRun(options.store, rng, sink).run(options.steps)
    sink(Note("end"))


if __name__ == "__main__":
    main()
