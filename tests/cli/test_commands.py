"""The command as scripts use it: JSON, exit codes, one-line errors."""

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import click.testing
import pytest
from command import Ramet

from cli.main import main
from engine import Store
from service.clones import expand


@pytest.fixture
def cli(tmp_path: Path) -> Ramet:
    made = Ramet(tmp_path / "store")
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    return made


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o4664])
def test_who_may_read_an_image_may_read_it_inside_and_again_outside(
    cli: Ramet, tmp_path: Path, mode: int
) -> None:
    raw, packed, out = tmp_path / "a.raw", tmp_path / "a.qcow2", tmp_path / "out"
    raw.write_bytes(b"a" * 8192)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, packed], check=True)
    for image in (raw, packed):
        image.chmod(mode)
        cli.run("import", image, f"lab:/{image.name}")
        with Store.open(cli.store) as store:
            inside = store.volume("lab").resolve(f"/{image.name}").mode
        assert stat.S_IMODE(inside) == mode & 0o777
        cli.run("export", f"lab:/{image.name}", out)
        assert stat.S_IMODE(out.stat().st_mode) == mode & 0o777
        out.unlink()


def test_twenty_clones_copy_nothing_and_outlive_their_source(cli: Ramet, tmp_path: Path) -> None:
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


def test_snapshot_clone_and_restore(cli: Ramet, tmp_path: Path) -> None:
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


def test_exit_codes_say_what_is_wrong(cli: Ramet, tmp_path: Path) -> None:
    cli.run("volume", "create", "lab", code=13)
    cli.run("ls", "nowhere:/", code=12)
    cli.run("ls", "lab", code=1)
    cli.run("frobnicate", code=2)
    Ramet(tmp_path / "missing").run("df", code=10)
    with Store.open(cli.store):
        assert "owns" in cli.run("df", code=11).stderr


def test_damage_is_exit_code_14_and_named(cli: Ramet, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(40_960))
    cli.run("import", tmp_path / "a", "lab:/a")
    (slab,) = (cli.store / "slabs").iterdir()
    with slab.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"damage")
    assert "lab:/a: block 3" in cli.run("export", "lab:/a", tmp_path / "out", code=14).stderr
    assert not (tmp_path / "out").exists()
    assert not json.loads(cli.run("fsck", "--data", code=14).stdout)["clean"]


def test_no_space_for_an_export_is_exit_code_15(cli: Ramet, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(4 << 20))
    cli.run("import", tmp_path / "a", "lab:/a")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", small], check=True)
    try:
        assert "space" in cli.run("export", "lab:/a", small / "out", code=15).stderr
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_hostile_names_are_refused(cli: Ramet) -> None:
    for name in ("../up", "a/b", "", "a\nb", "-rf", "ü", "x" * 300):
        cli.run("volume", "create", "--", name, code=1)
    assert [v["name"] for v in cli.json("volume", "ls")] == ["lab"]


def test_patterns_take_one_field() -> None:
    assert expand("web-{n:03d}", 7) == "web-007"
    assert expand("web-{n}", 7) == "web-7"
    for bad in ("{n.real}", "{n[0]}", "{n:f}", "{n", "{n:999d}"):
        with pytest.raises(Exception, match="write"):
            expand(bad, 1)


def test_import_of_other_formats(cli: Ramet, tmp_path: Path) -> None:
    raw = tmp_path / "a.raw"
    raw.write_bytes(os.urandom(1 << 20))
    os.truncate(raw, 8 << 20)
    for form in ("qcow2", "vmdk", "vdi", "vhdx"):
        image = tmp_path / f"a.{form}"
        subprocess.run(["qemu-img", "convert", "-O", form, raw, image], check=True)
        got = cli.json("import", "-p", image, f"lab:/deep/er/{form}")
        assert (got["format"], got["referenced_bytes"]) == (form, 1 << 20)
        cli.run("export", f"lab:/deep/er/{form}", tmp_path / f"{form}.out")
        assert (tmp_path / f"{form}.out").read_bytes() == raw.read_bytes()
    cli.run("import", tmp_path / "a.qcow2", "lab:/as-is", "--format", "raw")
    assert [*(cli.store / "run").iterdir()] == []
    sums = {row["name"]: row for row in cli.json("du", "lab:/")}
    assert sums["deep"]["files"] == 4
    assert sums["total"]["logical_bytes"] == 4 * (8 << 20) + (tmp_path / "a.qcow2").stat().st_size


def test_an_image_that_names_other_files_is_refused(cli: Ramet, tmp_path: Path) -> None:
    secret, image = tmp_path / "secret", tmp_path / "image"
    secret.write_bytes(b"s" * 65536)
    backed = ["-b", str(secret), "-F", "raw"]
    external = ["-o", f"data_file={tmp_path / 'data'}"]
    for extra in (backed, external):
        image.unlink(missing_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *extra, image, "1M"], check=True)
        assert "another file" in cli.run("import", image, "lab:/a", code=1).stderr
    image.write_bytes(b"QFI\xfb" + b"\xff" * 600)
    cli.run("import", image, "lab:/a", code=1)
    cli.run("import", tmp_path / "missing", "lab:/a", code=12)
    cli.run("import", tmp_path, "lab:/a", code=1)
    assert cli.json("ls", "lab:/") == []


def test_a_batch_of_clones_is_all_or_none(cli: Ramet, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    cli.run("import", tmp_path / "a", "lab:/a")
    cli.run("import", tmp_path / "a", "lab:/b-7")
    cli.run("clone", "lab:/a", "lab:/b-{n}", "--count", 9, code=13)
    assert [e["name"] for e in cli.json("ls", "lab:/")] == ["a", "b-7"]
    cli.run("clone", "lab:/a", "lab:/same", "--count", 2, code=1)


def test_dry_runs_remove_nothing(cli: Ramet, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    cli.run("import", tmp_path / "a", "lab:/a")
    cli.run("snapshot", "create", "lab", "monday")
    for words in (
        ("rm", "lab:/a"), ("snapshot", "rm", "lab", "monday"), ("volume", "rm", "lab"),
        ("snapshot", "restore", "lab", "monday"),
    ):  # fmt: skip
        assert cli.json(*words, "--dry-run")["dry_run"]
    assert [e["name"] for e in cli.json("ls", "lab@monday:/")] == ["a"]
    assert [e["name"] for e in cli.json("ls", "lab:/")] == ["a"]


def test_people_get_tables_quiet_and_a_configuration_file(
    cli: Ramet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "ramet.toml"
    config.write_text(f'store = "{cli.store}"\n')
    monkeypatch.setenv("RAMET_CONFIG", str(config))
    monkeypatch.delenv("RAMET_STORE", raising=False)
    runner = click.testing.CliRunner()
    assert "lab" in runner.invoke(main, ["volume", "ls"]).output
    assert runner.invoke(main, ["volume", "ls", "-q"]).output == ""
    assert json.loads(runner.invoke(main, ["df", "--json"]).output)["volumes"] == 1
    config.write_text("stor = 1\n")
    assert runner.invoke(main, ["df"]).exit_code == 2


def test_every_command_explains_itself_with_an_example() -> None:
    def leaves(group: click.Group) -> Iterator[click.Command]:
        for command in group.commands.values():
            yield from leaves(command) if isinstance(command, click.Group) else [command]

    for command in leaves(main):
        assert "Example: ramet " in (command.help or ""), command.name


def test_unique_and_shared_bytes_are_counted_on_demand(cli: Ramet, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(1 << 20))
    cli.run("import", tmp_path / "a", "lab:/golden")
    assert cli.json("df")["as_of"] is None
    assert cli.json("df", "--exact")["unique_bytes"] == 1 << 20
    cli.run("clone", "lab:/golden", "lab:/web")
    (tmp_path / "b").write_bytes(os.urandom(1 << 20))
    cli.run("import", tmp_path / "b", "lab:/other")
    found = cli.json("df", "--exact")
    assert (found["shared_bytes"], found["unique_bytes"]) == (1 << 20, 1 << 20)
    rows = {row["name"]: row["unique_bytes"] for row in cli.json("du", "lab:/", "--exact")}
    assert rows == {"golden": 0, "web": 0, "other": 1 << 20, "total": 2 << 20}
    assert cli.json("tree", "--exact")[0]["unique_bytes"] == 2 << 20
