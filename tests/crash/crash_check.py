"""What must be true of a store after its power went, as far as ``engine`` itself can tell.

The store is opened as it is: no repair, no fsck before.  The contents are compared with what the
notes allow (crash_log.py); then the store has to do its work: a write, a commit, a gc that frees
nothing that is in use.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
from crash_log import History
from crash_model import GOLDEN, State, fingerprint, tree_bytes

from engine import ROOT_INO, Store, Volume, errors, fsck

CACHE_BYTES = 4 << 20
PROBE = "probe"
PROBE_BYTES = bytes(range(256)) * 200 + bytes(9000) + b"end"


def check(store_path: Path, history: History, *, full: bool = False) -> list[str]:
    """All that is wrong; empty when nothing is.  ``full``: somebody fills the disk before the
    store is opened, and makes room again before it has to work.

    In a process of its own: damaged metadata may end it by a signal, and nothing of it stays.
    """
    output, into = os.pipe()
    child = os.fork()
    if not child:
        _report(into, store_path, history, full=full)
    os.close(into)
    try:
        with os.fdopen(output, "rb") as answer:
            raw = answer.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    return msgspec.msgpack.decode(raw, type=list[str]) if raw else [f"the check died ({status})"]


def _report(into: int, store_path: Path, history: History, *, full: bool) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        problems = check_here(store_path, history, full=full)
    except BaseException as error:
        problems = [f"{type(error).__name__}: {error}"]
    with os.fdopen(into, "wb") as answer:
        answer.write(msgspec.msgpack.encode(problems))
    os._exit(0)


def check_here(store_path: Path, history: History, *, full: bool = False) -> list[str]:
    others = store_path.with_name("others")
    if full:
        fill(others)
    try:
        store = Store.open(store_path, cache_bytes=CACHE_BYTES)
    except errors.NoSuchStore as error:
        return [f"the store is gone: {error}"] if history.created else []
    except errors.RametError as error:
        return [f"the store does not open: {error}"]
    try:
        return check_open(store, history, others)
    finally:
        store.abandon()


def fill(path: Path) -> None:
    """A file takes all the room there is, to the last block."""
    size = 0
    with path.open("wb", buffering=0) as file:
        for step in (1 << 24, 1 << 20, 1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
        file.seek(size)
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 12))


def check_open(store: Store, history: History, others: Path) -> list[str]:
    """The same of an open store; leaves a volume of its own behind."""
    problems = findings(store, data=True) + history.verify(contents(store))
    if not problems and _has_room_again(others):
        _work(store)
        problems = findings(store, data=True)
    return problems


def _has_room_again(others: Path) -> bool:
    """A btrfs that was full once may have no room for a file's inode ever after."""
    if not others.exists():
        return True
    others.unlink()
    subprocess.run(["sync", "-f", others.parent], check=True)  # btrfs frees nothing before
    return os.statvfs(others.parent).f_bavail > 0


def findings(store: Store, *, data: bool) -> list[str]:
    report = fsck.check(store, data=data)
    return [f"fsck {f.check} {f.where}: {f.problem}" for f in report.findings]


def volumes(store: Store) -> Iterator[Volume]:
    """All of them, each followed by its snapshots."""
    for volume in store.volumes():
        yield volume
        yield from store.snapshots(volume)


def contents(store: Store) -> dict[str, State]:
    """The state (crash_model.py) of each client: of the volumes named after it."""
    found: dict[str, State] = {}
    for client, key, data in data_of(store):
        found.setdefault(client, {})[key] = fingerprint(data)
    return found


def data_of(store: Store) -> Iterator[tuple[str, str, bytes]]:
    """(client, key, what is there): of volumes nothing, of files and directories all."""
    for volume in volumes(store):
        name = str(volume)
        if name == GOLDEN:
            continue
        client = name.partition("-")[0]
        yield client, name, b""
        for entry in volume.readdir(ROOT_INO):
            content = _tree if volume.inode(entry.ino).is_dir else _file
            yield client, f"{name}:{entry.name.decode()}", content(volume, entry.ino)


def _file(volume: Volume, ino: int) -> bytes:
    return volume.read(ino, 0, volume.inode(ino).size)


def _tree(volume: Volume, top: int) -> bytes:
    return tree_bytes({e.name: _file(volume, e.ino) for e in volume.readdir(top)})


def _work(store: Store) -> None:
    """A write, a commit, a gc; what was written is there."""
    volume = store.create_volume(PROBE)
    ino = volume.create(ROOT_INO, b"file", 0o644, 0, 0).ino
    volume.write(ino, 100, PROBE_BYTES)
    store.commit()
    store.gc()
    if volume.read(ino, 100, len(PROBE_BYTES)) != PROBE_BYTES:
        raise errors.Corrupt("what was written after the crash reads differently")
