"""The fetchers under ThreadSanitizer (fetch_race.c): every access of two threads is ordered."""

import subprocess
from pathlib import Path

from native.build import HERE, SOURCES

RACE = Path(__file__).with_name("fetch_race.c")


def test_no_two_threads_race(tmp_path: Path) -> None:
    program, slabs = tmp_path / "fetch_race", tmp_path / "slabs"
    slabs.mkdir()
    subprocess.run(
        ["gcc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror",
         "-fsanitize=thread", f"-I{HERE}", RACE, *(HERE / name for name in SOURCES), "-o", program],
        check=True,
    )  # fmt: skip
    done = subprocess.run(
        [program, slabs, "2"], capture_output=True, text=True, check=False, timeout=120,
        env={"TSAN_OPTIONS": "halt_on_error=1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
