"""The intent log by itself; stores that have one are in test_synced.py."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors
from engine.intent_log import LOG_FILE, PAGE_BYTES, IntentLog, Logged, NoLog, Scan

BLOCK = 4096
SEED = 0x1234_5678_9ABC
REGION = 1 << 20
HOST = os.statvfs


def logged(data: bytes, offset: int = 0, ino: int = 9) -> Logged:
    return Logged(1, ino, 7, 100 + offset, -5 + offset, offset, memoryview(data))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IntentLog]:
    made = IntentLog(tmp_path, SEED, REGION)
    made.prepare()
    yield made
    made.close(remove=False)


def put(log: IntentLog, commit: int, *writes: Logged) -> int:
    """Where the record is."""
    record = log.record(commit, writes)
    assert record is not None
    log.write(record)
    return record.at


def found(log: IntentLog, commits: int) -> list[bytes]:
    return [bytes(write.data) for write in log.pending(commits)]


def damage(path: Path, at: int, data: bytes = b"?") -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


# --- the file


def test_what_was_written_is_found_in_order(log: IntentLog) -> None:
    writes = [logged(bytes([n]) * (n * 1000 + 1), n * BLOCK) for n in range(6)]
    put(log, 5, writes[0])
    put(log, 5, writes[1], writes[2], writes[3])
    put(log, 6, writes[4])
    put(log, 6, writes[5])
    assert log.pending(4) == writes
    assert log.pending(5) == writes[4:]
    assert log.pending(6) == []
    assert log.pending(2) == []  # of a commit that is not the next: another past


def test_a_region_is_used_again_from_its_start(log: IntentLog) -> None:
    places = [put(log, commit, logged(b"%d" % commit)) for commit in (5, 6, 7, 8)]
    assert places == [REGION, 0, REGION, 0]
    assert found(log, 6) == [b"7", b"8"]


def test_the_last_record_may_be_torn(log: IntentLog, tmp_path: Path) -> None:
    put(log, 5, logged(b"a" * 9000))
    at = put(log, 5, logged(b"b" * 9000))
    for page in range(3):
        shutil.copy(tmp_path / LOG_FILE, tmp_path / "copy")
        damage(tmp_path / LOG_FILE, at + page * PAGE_BYTES + 60)
        assert found(log, 4) == [b"a" * 9000]
        shutil.copy(tmp_path / "copy", tmp_path / LOG_FILE)
    assert len(found(log, 4)) == 2


@pytest.mark.parametrize("where", [0, 8, 20, 44, 60, 5000])
def test_a_damaged_record_before_others_is_no_end(
    log: IntentLog, tmp_path: Path, where: int
) -> None:
    put(log, 5, logged(b"a"))
    at = put(log, 5, logged(b"b" * 9000))
    put(log, 5, logged(b"c"))
    damage(tmp_path / LOG_FILE, at + where)
    with pytest.raises(errors.Corrupt, match=r"record 1 of commit 5 .* is damaged: .*ramet fsck"):
        log.pending(4)
    assert log.pending(5) == []  # all of it is in that commit


def test_a_damaged_record_before_those_of_the_next_commit_is_no_end(
    log: IntentLog, tmp_path: Path
) -> None:
    put(log, 5, logged(b"a"))
    at = put(log, 5, logged(b"b"))
    put(log, 6, logged(b"c"))
    damage(tmp_path / LOG_FILE, at)
    with pytest.raises(errors.Corrupt, match="1 of 2 records of commit 5"):
        log.pending(4)


def test_a_commit_without_records_between_two_with_some(log: IntentLog) -> None:
    put(log, 5, logged(b"a"))
    put(log, 7, logged(b"b"))
    assert found(log, 6) == [b"b"]
    assert found(log, 5) == [b"b"]  # commit 6 was lost, and had no records


def test_another_stores_log_is_none(log: IntentLog, tmp_path: Path) -> None:
    put(log, 5, logged(b"a"))
    assert Scan(tmp_path / LOG_FILE, SEED + 1).problem is None
    assert list(Scan(tmp_path / LOG_FILE, SEED + 1).records(4)) == []


def test_a_full_region_takes_no_more_until_the_next_commit(log: IntentLog) -> None:
    big = logged(b"x" * (REGION // 4))
    for _ in range(3):
        put(log, 5, big)
    assert log.crowded
    assert log.record(5, [big]) is None
    put(log, 5, logged(b"small"))
    put(log, 6, big)
    assert not log.crowded
    assert len(found(log, 4)) == 5


def test_a_cut_leaves_what_is_before_the_damage(log: IntentLog, tmp_path: Path) -> None:
    put(log, 5, logged(b"a"))
    at = put(log, 5, logged(b"b"))
    put(log, 5, logged(b"c"))
    put(log, 6, logged(b"d"))
    damage(tmp_path / LOG_FILE, at + 70)
    Scan(tmp_path / LOG_FILE, SEED).cut(4)
    assert found(log, 4) == [b"a"]


def test_a_host_without_room_has_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [0]

    def host(path: Path) -> object:
        return os.statvfs_result([4096, 4096, 1 << 30, 1 << 30, free[0] // 4096, 9, 9, 9, 0, 255])

    monkeypatch.setattr(os, "statvfs", host)
    log = IntentLog(tmp_path, SEED, 16 * REGION)
    free[0] = 31 * REGION
    with pytest.raises(NoLog):
        log.take_share()
    assert not (tmp_path / LOG_FILE).exists()
    free[0] = 32 * REGION
    log = IntentLog(tmp_path, SEED, 16 * REGION)
    assert log.take_share() == 2 * REGION // BLOCK
    log.prepare()
    assert (tmp_path / LOG_FILE).stat().st_size == 2 * REGION
    log.close(remove=True)
    assert not (tmp_path / LOG_FILE).exists()
