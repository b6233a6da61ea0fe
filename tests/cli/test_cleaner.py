"""The daemon gives space back by itself, and says what it does."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Ramet

from service.rpc import Client

DEADLINE_S = 60
MIB = 1 << 20


class Served(Ramet):
    def __init__(self, store: Path, root: Path) -> None:
        super().__init__(store)
        self.lab = root / "lab"

    def told(self, key: str) -> Any:
        client = Client.connect(self.store)
        assert client is not None
        return client.call("status")[key]

    def physical(self) -> int:
        client = Client.connect(self.store)
        assert client is not None
        return client.call("df")["physical_bytes"]

    @property
    def on_disk(self) -> int:
        return sum(p.stat().st_blocks * 512 for p in (self.store / "slabs").iterdir())


@pytest.fixture()
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "store", tmp_path / "mnt")
    made.lab.parent.mkdir()
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    made.run("mount", made.lab.parent)
    yield made
    made.run("umount")


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_deleted_file_comes_back_without_gc(served: Served) -> None:
    (served.lab / "a").write_bytes(os.urandom(32 * MIB))
    (served.lab / "a").unlink()
    wait(lambda: served.physical() == 0)
    wait(lambda: served.told("reclaim_queue") == 0)
    assert served.told("gc_runs") == 0


def test_gc_runs_by_itself_when_it_is_worth_it(served: Served) -> None:
    (served.lab / "golden").write_bytes(os.urandom(80 * MIB))
    served.run("clone", "lab:/golden", "lab:/web")
    (served.lab / "golden").unlink()
    wait(lambda: served.told("gc_runs") == 1)  # it finds that the clone has it all
    assert served.physical() == 80 * MIB
    (served.lab / "web").unlink()
    wait(lambda: served.physical() == 0)
    wait(lambda: served.on_disk < MIB)
    assert served.told("garbage_max_bytes") == 0
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
    wait(lambda: [e["kind"] for e in served.told("events")] == ["quota_low lab"])
    with pytest.raises(OSError, match="quota"):
        (served.lab / "b").write_bytes(os.urandom(MIB))
    assert "quota_low lab" in (served.store / "run" / "daemon.log").read_text()
    (served.lab / "a").unlink()
    wait(lambda: served.told("events") == [])


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
