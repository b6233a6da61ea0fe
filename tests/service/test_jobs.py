"""The table of jobs: ids, states, bounds, damage, and what fits a record."""

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine import ROOT_INO, Store, errors
from engine.records import RECORD_BYTES_ADMITTED
from service import jobs
from service.addresses import Context
from service.job_states import CANCELLED, COMPLETED, FAILED
from service.jobs import Jobs, Made
from service.undo import take_back


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as opened:
        yield opened


def ended(table: Jobs, state: str = COMPLETED) -> int:
    job = table.create("clone", "a -> b")
    table.begin(job)
    table.end(job, state, None if state == COMPLETED else errors.NotFound("why"))
    table.unsettled.discard(job.id)
    return job.id


def test_an_id_is_never_given_twice(store: Store) -> None:
    table = Jobs(store)
    assert [ended(table) for _ in range(3)] == [1, 2, 3]
    for number in (3, 1, 2):
        table.clear(table.get(number))
    assert Jobs(store).all() == []
    assert ended(Jobs(store)) == 4


def test_what_has_ended_is_kept_up_to_a_bound(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ENDED_MAX", 10)
    table = Jobs(store)
    running = table.create("clone", "stays")
    table.begin(running)
    left = table.get(ended(table, FAILED))
    left.left = "something"
    for _ in range(30):
        ended(table)
    kept = [job.id for job in Jobs(store).all()]
    assert kept == [running.id, left.id, *range(25, 33)]


def test_an_end_is_told_when_it_is_durable(store: Store) -> None:
    table = Jobs(store)
    job = table.create("clone", "a -> b")
    table.begin(job)
    job.items_done = 1
    table.end(job, COMPLETED)
    told = table.told(job)
    assert (told["state"], told["percent"], told["ended"]) == ("running", 99, None)
    with pytest.raises(errors.Busy):
        table.clear(job)
    table.unsettled.clear()
    told = table.told(job)
    assert (told["state"], told["percent"]) == ("completed", 100)


def test_a_job_ends_once(store: Store) -> None:
    table = Jobs(store)
    job = table.get(ended(table, CANCELLED))
    with pytest.raises(AssertionError):
        table.end(job, COMPLETED)
    with pytest.raises(AssertionError):
        table.begin(job)


def test_the_longest_record_fits_a_page(store: Store) -> None:
    """A record that is put while the disk is full has a page, and no more."""
    table, long = Jobs(store), "\udc80ä" * 5000
    for _ in range(jobs.AFTER_MAX):
        ended(table)
    job = table.create("volume clone", long, range(1, jobs.AFTER_MAX + 1))
    table.begin(job)
    for _ in range(100):
        job.note_failure(long, errors.NoSpace(long))
    job.uri, job.left, job.powers = "u" * jobs.URI_MAX, long, True
    job.items_total = job.items_done = job.blocks_total = job.blocks_done = 1 << 62
    table.end(job, FAILED, errors.NoSpace(long))
    raw = store.records.get(f"job/{job.id:012d}")
    assert raw is not None
    assert len(raw) <= RECORD_BYTES_ADMITTED
    assert job.items_failed == 100
    assert len(Jobs(store).told(job)["failures"]) == jobs.FAILURES_MAX
    with pytest.raises(errors.InvalidArgument, match="at most"):
        table.create("clone", "x", range(1, jobs.AFTER_MAX + 2))


def test_what_was_made_is_kept_in_pages(store: Store) -> None:
    rng, table = random.Random(1), Jobs(store)
    job = table.create("clone", "a -> b")
    table.begin(job)
    made = [
        Made(rng.randrange(1 << 63), 1, rng.randrange(1 << 63), 2, rng.randbytes(255), "u" * 36)
        for _ in range(500)
    ]
    table.save(job, made[:300])
    table.save(job, made[300:])
    sizes = [len(v) for k, v in store.records.items(f"job/{job.id:012d}/")]
    assert max(sizes) <= RECORD_BYTES_ADMITTED
    again = Jobs(store)
    assert list(again.made(again.get(job.id))) == made
    table.end(job, FAILED, errors.NotFound("x"))
    assert store.records.items(f"job/{job.id:012d}/") == []


def test_a_damaged_record_is_a_failed_job(store: Store) -> None:
    table = Jobs(store)
    first, second = ended(table), ended(table)
    for damage in (b"", b"\xff", msgspec.msgpack.encode({"id": 77}), b"\x91" * 5000):
        store.records.put(f"job/{first:012d}", damage)
        again = Jobs(store)
        told = again.told(again.get(first))
        assert told["state"] == "failed"
        assert "damaged" in told["error"]
        assert again.get(second).state == COMPLETED
    store.records.put("job/next", b"\xb2")
    store.records.put("job/99999999999999999999", b"?")
    store.records.put("job/x/y", b"?")
    again = Jobs(store)
    again.clear(again.get(first))
    assert [job.id for job in again.all()] == [second]
    job = again.create("clone", "a -> b")
    again.begin(job)
    again.save(job, [Made(1, 1, 2, 3, b"x")])
    store.records.put(f"job/{job.id:012d}/{0:08d}", b"\xff")
    with pytest.raises(errors.Corrupt, match="look for it"):
        list(again.made(job))


def test_another_generation_is_another_file(store: Store) -> None:
    lab = store.create_volume("lab")
    inode = lab.create(ROOT_INO, b"a", 0o644, 0, 0)
    context = Context(store)
    for made in (
        Made(lab.id, ROOT_INO, inode.ino, inode.generation + 1, b"a"),
        Made(lab.id, ROOT_INO, inode.ino + 1, inode.generation, b"a"),
        Made(lab.id + 1, ROOT_INO, inode.ino, inode.generation, b"a"),
    ):
        assert list(take_back(context, made)) == []
        assert lab.entry(ROOT_INO, b"a") is not None
    lab.link(inode.ino, ROOT_INO, b"b")
    list(take_back(context, Made(lab.id, ROOT_INO, inode.ino, inode.generation, b"a")))
    assert lab.readdir(ROOT_INO) == []
