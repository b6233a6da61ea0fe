"""What a command imports: no more than it needs, because that is most of what it costs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from served import Served

from cli.main import MODULES, main
from cli.output import plain

HEAVY = {
    "fusefs", "libvirt", "lmdb", "native", "nfsgw", "pycdlib", "pyfuse3", "rich", "trio", "xml",
    "yaml",
}  # fmt: skip
SMALL = {  # of the layers below the commands
    "engine", "engine.block_range", "engine.errors", "engine.owner", "hypervisor",
    "hypervisor.patterns", "hypervisor.variables", "service", "service.background",
    "service.client", "service.clone_spec", "service.deadline", "service.host_files",
    "service.job_states", "service.mount_options", "service.mount_table", "service.mounting",
    "service.rpc",
}  # fmt: skip
COMMAND = """
import atexit, sys
atexit.register(lambda: print("modules:", *sys.modules, file=sys.stderr))
from cli.main import main
main(prog_name="ramet")
"""
HINT = "a module of commands imports what a daemon does not need from it by `cli.later`"


def imported(store: Path, *words: object, code: int = 0) -> set[str]:
    """The modules that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, words)], capture_output=True, text=True,
        check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "RAMET_STORE": str(store),
             "RAMET_CONFIG": "/dev/null"},
    )  # fmt: skip
    assert done.returncode == code, (words, done.stderr)
    return set(done.stderr.rpartition("modules: ")[2].split())


def check_small(found: set[str]) -> None:
    assert not {name.partition(".")[0] for name in found} & HEAVY, HINT
    below = ("engine", "hypervisor", "service")
    assert {name for name in found if name.partition(".")[0] in below} <= SMALL, HINT


def test_help_imports_all_commands_and_nothing_behind_them(tmp_path: Path) -> None:
    found = imported(tmp_path / "none", "--help")
    assert {f"cli.{module}" for module in MODULES} <= found
    check_small(found)


def test_a_command_asks_the_daemon_and_imports_nothing_behind_it(served: Served) -> None:
    (served.lab / "a").write_bytes(b"a")
    small: dict[tuple[str, ...], int] = {
        ("ls", "lab:/"): 0,
        ("status",): 0,
        ("clone", "lab:/a", "lab:/b-{n}", "--count", "2"): 0,
        ("volume", "clone", "lab", "class-{n}", "--count", "2"): 0,
        ("vm", "clone", "lab:/none", "lab:/web-{n}", "--count", "2", "--register"): 12,
        ("job", "wait", "1"): 0,
        ("share", "ls"): 0,
        ("vm", "ls", "--exact"): 0,
        ("volume", "map", "lab:/none"): 12,
    }
    for words, code in small.items():
        found = imported(served.store, *words, code=code)
        check_small(found)
        assert sum(f"cli.{module}" in found for module in MODULES) == 1, words


def test_each_module_has_the_commands_that_the_root_says() -> None:
    names = [name for each in MODULES.values() for name in each]
    assert sorted(main.commands) == sorted(set(names)) == sorted(names)
    for name, command in main.commands.items():
        assert command.name == name
    assert main.commands.get("frobnicate") is None


@pytest.mark.parametrize("name", ["plain", "日本語", "e\u0301te\u0301", ""])
def test_a_table_looks_as_rich_would_print_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [[name, "1.5 KiB", "-"], ["a longer one", "0 B", name * 2]]
    plain(["name", "size", "note"], [False, True, False], cells)
    ours = capsys.readouterr().out
    made = Table(box=None, pad_edge=False)
    for title, side in (("name", "left"), ("size", "right"), ("note", "left")):
        made.add_column(title, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for row in cells:
        made.add_row(*row)
    Console(width=10_000, markup=False, highlight=False, emoji=False).print(made)
    assert ours == capsys.readouterr().out
