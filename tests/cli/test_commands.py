"""The command as scripts use it: JSON, exit codes, one-line errors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import Store
from service.operations import expand


class Cli:
    def __init__(self, store: Path) -> None:
        self.store = store

    def run(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from cli.main import main; main()", "--json"]
        done = subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), "RAMET_STORE": str(self.store)},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: object) -> Any:
        return json.loads(self.run(*arguments).stdout)


@pytest.fixture()
def cli(tmp_path: Path) -> Cli:
    made = Cli(tmp_path / "store")
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    return made


def test_twenty_clones_copy_nothing_and_outlive_their_source(cli: Cli, tmp_path: Path) -> None:
    golden = tmp_path / "golden.raw"
    golden.write_bytes(os.urandom(3 << 20))
    os.truncate(golden, 16 << 20)
    cli.run("import", golden, "lab:/golden.raw")
    before = cli.json("df")["physical_bytes"]
    made = cli.json("clone", "lab:/golden.raw", "lab:/web-{n:03d}.raw", "--count", 20)
    assert made["bytes_copied"] == 0
    assert made["clones"][0] == "lab:/web-001.raw"
    assert cli.json("df")["physical_bytes"] == before == 3 << 20
    cli.run("rm", "lab:/golden.raw")
    cli.run("gc")
    for n in (1, 20):
        out = tmp_path / f"out{n}"
        cli.run("export", f"lab:/web-{n:03d}.raw", out)
        assert out.read_bytes() == golden.read_bytes()
    assert cli.json("fsck", "--data")["clean"]


def test_snapshot_clone_and_restore(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    cli.run("import", tmp_path / "a", "lab:/a")
    cli.run("snapshot", "create", "lab", "monday")
    cli.run("rm", "lab:/a")
    assert cli.json("ls", "lab:/") == []
    assert [e["name"] for e in cli.json("ls", "lab@monday:/")] == ["a"]
    cli.run("clone", "lab@monday:/a", "lab:/b")
    cli.run("volume", "clone", "lab@monday", "test")
    cli.run("snapshot", "restore", "lab", "monday")
    assert [e["name"] for e in cli.json("ls", "lab:/")] == ["a"]
    assert {v["name"]: v["cloned_from"] for v in cli.json("tree")}["test"] == "lab@monday"


def test_exit_codes_say_what_is_wrong(cli: Cli, tmp_path: Path) -> None:
    cli.run("volume", "create", "lab", code=13)
    cli.run("ls", "nowhere:/", code=12)
    cli.run("ls", "lab", code=1)
    cli.run("frobnicate", code=2)
    Cli(tmp_path / "missing").run("df", code=10)
    with Store.open(cli.store):
        assert "owns" in cli.run("df", code=11).stderr


def test_hostile_names_are_refused(cli: Cli) -> None:
    for name in ("../up", "a/b", "", "a\nb", "-rf", "ü", "x" * 300):
        cli.run("volume", "create", "--", name, code=1)
    assert [v["name"] for v in cli.json("volume", "ls")] == ["lab"]


def test_patterns_take_one_field() -> None:
    assert expand("web-{n:03d}", 7) == "web-007"
    assert expand("web-{n}", 7) == "web-7"
    for bad in ("{n.real}", "{n[0]}", "{n:x}", "{n", "{n:999d}"):
        with pytest.raises(Exception, match="write"):
            expand(bad, 1)
