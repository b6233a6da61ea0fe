"""The fixed corpus: what the fuzzers found once, and inputs that reach far.

The C core and nfsgw/again.c are built with ASan and UBSan into programs that replay files; no
fuzzer is needed for that.  The Python decoders are called directly, and may allocate in proportion
to their input only, whatever its length fields say.
"""

import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from targets import TARGETS, close

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
ROOT = HERE.parents[1]
SOURCES = {"core": [*(ROOT / "native").glob("*.c")], "again": [ROOT / "nfsgw" / "again.c"]}
ALLOCATED_MIN = 64 << 10
ALLOCATED_PER_BYTE = 64
FILES_MAX = 360
BYTES_MAX = 300 << 10


@pytest.mark.parametrize("name", SOURCES)
def test_c_stands_every_input_of_its_corpus(name: str, tmp_path: Path) -> None:
    program, of = tmp_path / f"fuzz_{name}", SOURCES[name]
    sources = [s for s in of if not s.name.startswith("_")]
    subprocess.run(
        ["gcc", "-O1", "-g", "-std=c11", "-D_GNU_SOURCE", "-DREPLAY", "-DRMT_SLABS_MAX=8u",
         "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined",
         "-fno-sanitize-recover=all", "-I", sources[0].parent, HERE / f"fuzz_{name}.c", *sources,
         "-o", program],
        check=True,
    )  # fmt: skip
    files = sorted((CORPUS / name).iterdir())
    done = subprocess.run(
        [program, *files], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == f"{len(files)} inputs"


@pytest.fixture(scope="module", autouse=True)
def _store() -> Iterator[None]:
    yield
    close()


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_stands_every_input_of_its_corpus(name: str) -> None:
    target = TARGETS[name]
    files = sorted((CORPUS / name).iterdir())
    assert files
    target(b"")
    for file in files:
        data = file.read_bytes()
        for given in (data, data[: len(data) // 2], data + b"\xff" * 9, data[::-1]):
            target(given)  # once before it is measured: what is made once and kept
            tracemalloc.start()
            target(given)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak <= ALLOCATED_MIN + ALLOCATED_PER_BYTE * len(given), file.name


def test_the_corpus_stays_small() -> None:
    files = [f for f in CORPUS.rglob("*") if f.is_file()]
    assert len(files) <= FILES_MAX
    assert sum(f.stat().st_size for f in files) <= BYTES_MAX
    assert {d.name for d in CORPUS.iterdir()} == {*SOURCES, *TARGETS}
