"""The daemon gives space back by itself, and says what it does."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from served import Served

from service.rpc import Client

DEADLINE_S = 60
MIB = 1 << 20


def told(served: Served, key: str) -> Any:
    return served.ask("status")[key]


def physical(served: Served) -> int:
    return served.ask("df")["physical_bytes"]


def on_disk(served: Served) -> int:
    return sum(p.stat().st_blocks * 512 for p in (served.store / "slabs").iterdir())


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_deleted_file_comes_back_without_gc(served: Served) -> None:
    (served.lab / "a").write_bytes(os.urandom(32 * MIB))
    (served.lab / "a").unlink()
    wait(lambda: physical(served) == 0)
    wait(lambda: told(served, "reclaim_queue") == 0)
    assert told(served, "gc_runs") == 0


def test_gc_runs_by_itself_when_it_is_worth_it(served: Served) -> None:
    (served.lab / "golden").write_bytes(os.urandom(80 * MIB))
    served.run("clone", "lab:/golden", "lab:/web")
    (served.lab / "golden").unlink()
    wait(lambda: told(served, "gc_runs") == 1)  # it finds that the clone has it all
    assert physical(served) == 80 * MIB
    (served.lab / "web").unlink()
    wait(lambda: physical(served) == 0)
    wait(lambda: on_disk(served) < MIB)
    assert told(served, "garbage_max_bytes") == 0
    assert served.json("fsck", "--data")["clean"]


def test_gc_beside_a_write_load_loses_nothing(served: Served) -> None:
    (served.lab / "golden").write_bytes(os.urandom(8 * MIB))
    contents = {}
    for n in range(6):
        served.run("clone", "lab:/golden", f"lab:/web-{n}", "--replace")
        with (served.lab / f"web-{n}").open("r+b", buffering=0) as file:
            client = Client.connect(served.store)
            assert client is not None
            for at in range(0, 8 * MIB, 16 * 4096):
                os.pwrite(file.fileno(), os.urandom(4096), at)
            client.call("gc")
        contents[n] = (served.lab / f"web-{n}").read_bytes()
        if n:
            (served.lab / f"web-{n - 1}").unlink()
            del contents[n - 1]
    served.json("gc")
    for n, data in contents.items():
        assert (served.lab / f"web-{n}").read_bytes() == data
    assert served.json("fsck", "--data")["garbage_bytes"] == 0


def test_a_volume_near_its_quota_is_an_event_that_ends(served: Served) -> None:
    served.run("volume", "quota", "lab", "1M")
    (served.lab / "a").write_bytes(os.urandom(1_000_000))
    wait(lambda: [e["kind"] for e in told(served, "events")] == ["quota_low lab"])
    with pytest.raises(OSError, match="quota"):
        (served.lab / "b").write_bytes(os.urandom(MIB))
    assert "quota_low lab" in (served.store / "run" / "daemon.log").read_text()
    (served.lab / "a").unlink()
    wait(lambda: told(served, "events") == [])


def test_unique_bytes_are_counted_beside_the_load(served: Served) -> None:
    (served.lab / "a").write_bytes(os.urandom(MIB))
    served.run("clone", "lab:/a", "lab:/b")
    (served.lab / "c").write_bytes(os.urandom(MIB))
    rows = {row["name"]: row["unique_bytes"] for row in served.json("du", "lab:/", "--exact")}
    assert rows == {"a": 0, "b": 0, "c": MIB, "total": 2 * MIB}


def test_everything_in_a_store_is_its_owners_only(served: Served) -> None:
    (served.lab / "a").write_bytes(os.urandom(MIB))
    served.run("gc")
    paths = [served.store, *served.store.rglob("*")]
    assert len(paths) > 8
    for path in paths:
        assert not path.lstat().st_mode & 0o077, path
