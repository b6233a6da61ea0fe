"""The log of a recorded disk, and the notes in it: what was acknowledged, and when.

Notes are written through the disk's own daemon, so they stand in one order with its writes and
flushes.  A ``state`` note is written *before* the store can make that state durable, an ``ack``
note *after* the store said that it had.  A cut at some point of the log may therefore leave any
state between the last one acknowledged and the last one noted, and nothing else.
"""

import itertools
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
from crash_model import Fingerprint, State

WRITE, FSYNC, NOTE = 1, 2, 3
_RECORD = struct.Struct("<IIQQ")
_MAGIC = 0x474F4C52


class Note(msgspec.Struct, omit_defaults=True):
    """``kind``: start, created, state, ack, end.  In ``changed``, None: the key is gone."""

    kind: str
    client: str = ""
    sequence: int = 0
    changed: dict[str, Fingerprint | None] = {}
    what: str = ""  # how the client got there, for the report


class Place(NamedTuple):
    """Where a workload works: the directory that gets its store, and the file for its notes."""

    root: Path
    notes: Path


Cutter = Callable[[int, int], AbstractContextManager[Path]]  # end, seed: the root that is left


class Sink(Protocol):
    """Where a workload writes its notes."""

    def __call__(self, note: Note) -> None: ...


class NotesFile:
    """Notes through the disk's daemon, one request each."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY)

    def __call__(self, note: Note) -> None:
        raw = msgspec.msgpack.encode(note)
        assert os.write(self._fd, raw) == len(raw)


@dataclass(frozen=True)
class Record:
    """``end``: bytes of the log up to and with this record."""

    kind: int
    end: int
    note: Note | None = None


def read_log(path: Path) -> Iterator[Record]:
    """All whole records, in order."""
    decode = msgspec.msgpack.Decoder(Note).decode
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        at = 0
        while at + _RECORD.size <= len(raw):
            magic, kind, _, length = _RECORD.unpack_from(raw, at)
            end = at + _RECORD.size + length
            if magic != _MAGIC or end > len(raw):
                raise ValueError(f"the log is damaged at byte {at}")
            note = decode(raw[end - length : end]) if kind == NOTE else None
            yield Record(kind, end, note)
            at = end


class Medium(Protocol):
    """What can lose its power: a disk with a file system, or a file system of its own."""

    @property
    def name(self) -> str: ...
    def recorded(self, directory: Path, log: Path) -> AbstractContextManager[Place]: ...
    def records(self, log: Path) -> list[Record]: ...
    def replayed(self, directory: Path, log: Path) -> AbstractContextManager[Cutter]:
        """Cuts must come in ascending order."""


@dataclass
class Client:
    """One client's past: the states that a cut may leave, the acknowledged one first."""

    states: dict[int, State] = field(default_factory=lambda: {0: {}})
    steps: dict[int, str] = field(default_factory=dict)
    latest: State = field(default_factory=dict)


class History:
    """What the notes up to some point allow."""

    def __init__(self) -> None:
        self.created = False
        self.acks = 0
        self.clients: dict[str, Client] = {}

    def add(self, note: Note) -> None:
        if note.kind == "created":
            self.created = True
        elif note.kind == "state":
            client = self.clients.setdefault(note.client, Client())
            state = dict(client.latest)
            for key, fingerprint in note.changed.items():
                if fingerprint is None:
                    state.pop(key, None)
                else:
                    state[key] = fingerprint
            client.latest = client.states[note.sequence] = state
            client.steps[note.sequence] = note.what
        elif note.kind == "ack":
            self.acks += 1
            client = self.clients[note.client]
            client.states = {s: v for s, v in client.states.items() if s >= note.sequence}
            assert note.sequence in client.states

    __call__ = add

    def verify(self, found: dict[str, State]) -> list[str]:
        """What is wrong with a store that has these contents; empty when nothing is."""
        problems = [f"client {c} was never heard of" for c in found.keys() - self.clients.keys()]
        for name, client in self.clients.items():
            have = found.get(name, {})
            if not any(have == state for state in client.states.values()):
                problems += explain(have, client.states)
                problems += [f"  state {s}: {client.steps.get(s, '')}" for s in client.states]
        return problems


def explain(have: State, allowed: dict[int, State]) -> list[str]:
    """Which keys, and which of their blocks, are what none of the allowed states has."""
    problems = []
    for key in sorted(have.keys() | next(iter(allowed.values())).keys()):
        mine = have.get(key)
        past = {sequence: state.get(key) for sequence, state in allowed.items()}
        if mine in past.values():
            continue
        if mine is None:
            problems.append(f"{key} is gone")
        elif not any(past.values()):
            problems.append(f"{key} should not be there")
        else:
            problems.append(f"{key}: {_blocks(mine, {s: p for s, p in past.items() if p})}")
    return problems or ["each file is old or new, but the whole is no state the store ever had"]


def _blocks(mine: Fingerprint, past: dict[int, Fingerprint]) -> str:
    """Runs of blocks, each with the states that have these very blocks there: none, if foreign."""

    def states_of(block: int) -> list[int]:
        at = slice(block * 8, block * 8 + 8)
        return [s for s, each in past.items() if each.blocks[at] == mine.blocks[at]]

    runs = []
    for states, group in itertools.groupby(range(len(mine.blocks) // 8), states_of):
        blocks = list(group)
        runs.append(f"{blocks[0]}-{blocks[-1]}: {states if states else 'FOREIGN'}")
    sizes = {sequence: each.size for sequence, each in past.items()}
    return f"{mine.size} bytes, states have {sizes}; blocks and their states: {', '.join(runs)}"
