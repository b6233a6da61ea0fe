"""The daemon behind the command: one owner, no leftovers, the same answers."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Served:
    def __init__(self, store: Path, root: Path) -> None:
        self.store, self.root = store, root

    def run(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "--json", *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), "RAMET_STORE": str(self.store)},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    def json(self, *arguments: object) -> Any:
        return json.loads(self.run(*arguments).stdout)


@pytest.fixture()
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "store", tmp_path / "mnt")
    made.root.mkdir()
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    made.run("mount", made.root)
    yield made
    if made.json("status")["serving"]:
        made.run("umount")
    assert not os.path.ismount(made.root)


def test_what_the_command_changes_the_mount_shows_at_once(served: Served) -> None:
    lab = served.root / "lab"
    (lab / "golden").write_bytes(b"g" * 300_000)
    assert os.listdir(lab) == ["golden"]
    served.run("clone", "lab:/golden", "lab:/web-{n}", "--count", 3)
    assert sorted(os.listdir(lab)) == ["golden", "web-1", "web-2", "web-3"]
    assert (lab / "web-2").read_bytes() == b"g" * 300_000
    served.run("snapshot", "create", "lab", "one")
    (lab / "golden").write_bytes(b"h")
    served.run("clone", "lab@one:/golden", "lab:/web-1", "--replace")
    served.run("rm", "lab:/web-2")
    assert not (lab / "web-2").exists()
    assert served.json("fsck", "--data")["clean"]
    served.json("gc")
    assert (lab / "web-1").read_bytes() == b"g" * 300_000


def test_a_second_daemon_is_refused(served: Served) -> None:
    served.run("serve", code=11)
    served.run("mount", served.root, code=11)


def test_only_the_owner_may_use_the_socket(served: Served) -> None:
    run = served.store / "run"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "ramet.sock").stat().st_mode) == 0o600


def test_a_crashed_daemon_blocks_nothing(served: Served) -> None:
    path = served.root / "lab" / "a"
    with path.open("wb") as file:
        file.write(b"kept")
        file.flush()
        os.fsync(file.fileno())
    pid = served.json("status")["pid"]
    os.kill(pid, signal.SIGKILL)
    while served.json("status")["serving"]:
        pass
    served.run("mount", served.root)
    assert path.read_bytes() == b"kept"


def test_umount_returns_when_the_store_is_closed(served: Served) -> None:
    (served.root / "lab" / "a").write_bytes(b"last")
    served.run("umount")
    assert not os.path.ismount(served.root)
    assert [e["size_bytes"] for e in served.json("ls", "lab:/")] == [4]
