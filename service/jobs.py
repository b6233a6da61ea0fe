"""Jobs: what each clone command was told, has made, and came to; kept in the store's records.

A job's record and the pieces that say what it has made so far are put in the same stretch as the
changes themselves, so one commit has both or neither: whatever the moment of a crash, the next
owner of the store knows exactly what to undo.  A hundred thousand clones are pieces of a page
each, written once; nothing is written anew per item.

Invariants:
- ids only grow and are never given twice, also not after ``clear``;
- states move as MOVES says; a job that has ended never changes but for what is ``left`` of it;
- only a job that runs, or has something left, has pieces;
- a job says that it has ended when that is durable (``unsettled``), never before;
- at most ENDED_MAX ended jobs are kept; the oldest go, but not while something of them is left.

Records (docs/FORMAT.md, Jobs): ``job/next``, ``job/ID``, ``job/ID/PIECE``.
"""

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec

from engine import Store, errors
from engine.records import RECORD_BYTES_ADMITTED, Records
from service.job_states import CANCELLED, COMPLETED, FAILED, MOVES, QUEUED, RUNNING, STATES

ENDED_MAX = 1000
FAILURES_MAX = 5  # told one by one; the others are counted
ERROR_MAX = 400  # bytes, as the following: a record has to fit a page
WHAT_MAX = 300
FAILURE_MAX = 250
ITEM_MAX = 100
URI_MAX = 500
AFTER_MAX = 32
ID_DIGITS = 12
PREFIX = "job/"
NEXT = "job/next"


MADE, REGISTERED, CUSTOMIZED, HELD = range(4)


class Made(msgspec.Struct, array_like=True, frozen=True, gc=False, omit_defaults=True):
    """One thing that a job has made: a name in a volume, or a volume (``ino`` 0).

    Known by volume id, inode number and generation; the name is where it was put, no more.
    ``uuid``: the domain that is, or is about to be, defined for it.

    Or, by ``kind``, what it has done to a VM that was there: REGISTERED it (``before``: its mark),
    CUSTOMIZED it (``before``: the snapshot that has it as it was; ``uuid``: its new one); or HELD
    its volume in a snapshot ``before``.
    """

    volume_id: int
    parent: int
    ino: int
    generation: int
    name: bytes
    uuid: str = ""
    kind: int = MADE
    before: bytes = b""


class Failure(msgspec.Struct, array_like=True):
    """An item that failed, and why."""

    item: str
    error: str


class Job(msgspec.Struct, omit_defaults=True):
    """A job's record.  Blocks are 4 KiB, times ns since 1970 (0: not yet).

    ``kind``: the class of ``error``.  ``uri``: the hypervisor that may know domains of it;
    ``powers``: and may run them.  ``pieces``: how many were written.  ``left``: why something of it
    could not be undone yet.
    """

    id: int
    command: str
    what: str
    state: str = QUEUED
    after: list[int] = []
    created_ns: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    items_total: int = 1
    items_done: int = 0
    items_failed: int = 0
    blocks_total: int = 0
    blocks_done: int = 0
    failures: list[Failure] = []
    kind: str = ""
    error: str = ""
    uri: str = ""
    powers: bool = False
    pieces: int = 0
    left: str = ""

    @property
    def ended(self) -> bool:
        return self.state not in (QUEUED, RUNNING)

    @property
    def percent(self) -> int:
        if self.state == COMPLETED:
            return 100
        return min(99, 100 * self.items_done // max(self.items_total, 1))

    def note_failure(self, item: str, error: Exception) -> None:
        self.items_failed += 1
        if len(self.failures) < FAILURES_MAX:
            self.failures.append(Failure(short(item, ITEM_MAX), short(str(error), FAILURE_MAX)))


_encode = msgspec.msgpack.Encoder().encode
_decode_job = msgspec.msgpack.Decoder(Job).decode
_decode_piece = msgspec.msgpack.Decoder(list[Made]).decode
_DAMAGE = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)


def check_completed(other: Job) -> None:
    """RametError when a job that others wait for did not complete."""
    if other.state != COMPLETED:
        how = "was cancelled" if other.state == CANCELLED else "failed"
        raise errors.RametError(
            f"job {other.id}, which it waits for, {how}: {other.error or 'nobody knows why'}"
        )


def short(text: str, limit: int) -> str:
    """So many bytes of a text as a record holds; always UTF-8."""
    clean = text.encode(errors="backslashreplace")
    return clean.decode() if len(clean) <= limit else clean[:limit].decode("utf-8", "ignore") + "…"


class Jobs:
    """The table of a store's jobs, and the only code that knows their records."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._jobs: dict[int, Job] | None = None
        self._next = 1
        self.unsettled: set[int] = set()

    # --- look

    @property
    def _table(self) -> dict[int, Job]:
        """Read when first asked for, in order of id."""
        if self._jobs is None:
            self._jobs = {}
            for key, value in self._records.items(PREFIX):
                self._load(key.removeprefix(PREFIX), value)
            self._next = max(self._next, max(self._jobs, default=0) + 1)
        return self._jobs

    def _load(self, key: str, value: bytes) -> None:
        assert self._jobs is not None
        if key == "next" and value.isdigit():
            self._next = int(value[:18])
        elif len(key) == ID_DIGITS and key.isascii() and key.isdecimal():
            number = int(key)
            try:
                job = _decode_job(value)
                if job.id != number or job.state not in STATES:
                    raise ValueError("it is another's")
            except _DAMAGE as error:
                job = Job(number, "?", "?", FAILED, error=f"its record is damaged ({error})")
            self._jobs[number] = job

    @property
    def _records(self) -> Records:
        return self._store.records

    def all(self) -> list[Job]:
        """Every job, oldest first."""
        return list(self._table.values())

    def get(self, number: int) -> Job:
        """NotFound."""
        job = self._table.get(number)
        if job is None:
            raise errors.NotFound(f"no job {number}; see `ramet job ls`")
        return job

    def interrupted(self) -> list[Job]:
        """Jobs that have not ended: at open, those of an owner that stopped or crashed."""
        return [job for job in self._table.values() if not job.ended]

    def with_leftovers(self) -> list[Job]:
        return [job for job in self._table.values() if job.left]

    def has_ended(self, job: Job) -> bool:
        """Ended, and on disk as such."""
        return job.ended and job.id not in self.unsettled

    # --- change

    def create(self, command: str, what: str, after: Iterable[int] = ()) -> Job:
        """A queued job.  NotFound when one that it is to wait for is unknown; NoSpace."""
        before = sorted(set(after))
        if len(before) > AFTER_MAX:
            raise errors.InvalidArgument(f"a job waits for at most {AFTER_MAX} others")
        for number in before:
            self.get(number)
        table = self._table
        job = Job(
            self._next, command, short(what, WHAT_MAX), after=before, created_ns=time.time_ns()
        )
        self._records.put(_key(job.id), _encode(job))
        self._next += 1
        table[job.id] = job
        self._forget_oldest()
        return job

    def begin(self, job: Job) -> None:
        """It runs; ``save`` and ``end`` put that, before anything that it does can be committed."""
        self._move(job, RUNNING)
        job.started_ns = time.time_ns()

    def save(self, job: Job, made: list[Made]) -> None:
        """Note what was made since the last time; before anything else has its turn."""
        for piece in _pieces(made):
            self._records.put_admitted(_key(job.id, job.pieces), piece)
            job.pieces += 1
        self._put(job)

    def end(self, job: Job, state: str, error: Exception | None = None) -> None:
        """It is over: completed, failed or cancelled; its pieces go, unless something is left."""
        self._move(job, state)
        job.ended_ns = time.time_ns()
        self.unsettled.add(job.id)
        job.left = short(job.left, ERROR_MAX)
        if error is not None:
            job.error, job.kind = short(str(error), ERROR_MAX), type(error).__name__
        self.tidy(job)

    def tidy(self, job: Job) -> None:
        """Put the record of an ended job; when the store has failed, the next owner does."""
        try:
            for piece in range(job.pieces if not job.left else 0):
                self.drop_piece(job, piece)
            self._put(job)
        except errors.StoreFailed:
            return

    def clear(self, job: Job) -> None:
        """Forget a job.  Busy while it runs, waits, or has something left."""
        if not self.has_ended(job):
            raise errors.Busy(f"job {job.id} has not ended; `ramet job cancel {job.id}` stops it")
        if job.left:
            raise errors.Busy(
                f"something of job {job.id} is left; `ramet job cancel {job.id}` undoes it"
            )
        if job.id + 1 == self._next:  # the highest id there is says it no more
            self._records.put_admitted(NEXT, b"%d" % self._next)
        self._records.delete(_key(job.id))
        del self._table[job.id]

    def _forget_oldest(self) -> None:
        over = len(self._table) - ENDED_MAX
        if over > 0:
            old = (job for job in self._table.values() if self.has_ended(job) and not job.left)
            for job in list(islice(old, over)):
                self.clear(job)

    @staticmethod
    def _move(job: Job, state: str) -> None:
        assert state in MOVES[job.state], f"job {job.id}: {job.state} -> {state}"
        job.state = state

    def _put(self, job: Job) -> None:
        self._records.put_admitted(_key(job.id), _encode(job))

    # --- what was made

    def piece(self, job: Job, number: int) -> list[Made]:
        """Empty when it was dropped.  Corrupt."""
        raw = self._records.get(_key(job.id, number))
        try:
            return [] if raw is None else _decode_piece(raw)
        except _DAMAGE as error:
            raise errors.Corrupt(
                f"what job {job.id} has made is damaged ({error}); look for it yourself"
            ) from None

    def made(self, job: Job) -> Iterator[Made]:
        for number in range(job.pieces):
            yield from self.piece(job, number)

    def drop_piece(self, job: Job, number: int) -> None:
        self._records.delete(_key(job.id, number))

    # --- tell

    def told(self, job: Job) -> dict[str, Any]:
        """What ``job show`` prints."""
        waits = [n for n in job.after if n in self._table and not self.has_ended(self._table[n])]
        settled = self.has_ended(job)
        state = job.state if settled or not job.ended else RUNNING
        return {
            "job": job.id,
            "command": job.command,
            "what": job.what,
            "state": state,
            "percent": job.percent if settled else min(99, job.percent),
            "items_total": job.items_total,
            "items_done": job.items_done,
            "items_failed": job.items_failed,
            "blocks_total": job.blocks_total,
            "blocks_done": job.blocks_done,
            "bytes_copied": 0,
            "error": (job.error or None) if settled else None,
            "error_kind": (job.kind or None) if settled else None,
            "failed_item": job.failures[0].item if job.failures else None,
            "failures": [{"item": each.item, "error": each.error} for each in job.failures],
            "left": (job.left or None) if settled else None,
            "after": job.after,
            "waits_for": waits if job.state == QUEUED else [],
            "created": _iso(job.created_ns),
            "started": _iso(job.started_ns),
            "ended": _iso(job.ended_ns) if settled else None,
        }


def _iso(time_ns: int) -> str | None:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat() if time_ns else None


def _key(number: int, piece: int | None = None) -> str:
    """Fixed width, so that keys sort as numbers do."""
    return (
        f"{PREFIX}{number:0{ID_DIGITS}d}"
        if piece is None
        else f"{PREFIX}{number:0{ID_DIGITS}d}/{piece:08d}"
    )


def _pieces(made: list[Made]) -> Iterator[bytes]:
    """Lists that take a page at most, encoded."""
    if not made:
        return
    whole = _encode(made)
    if len(whole) <= RECORD_BYTES_ADMITTED:
        yield whole
        return
    half = len(made) // 2
    assert half, "one name takes a page"
    yield from _pieces(made[:half])
    yield from _pieces(made[half:])
