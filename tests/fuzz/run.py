"""All fuzzers for so many seconds: ``make fuzz SECONDS=600``.

libFuzzer on the C core all the time, beside it libFuzzer on nfsgw/again.c, atheris on each Python
decoder and the hostile stores, one after the other. What they learn is kept in
``.cache/fuzz/corpus`` and used again. What they find goes to ``.cache/fuzz/findings``, is named at
the end, and makes the exit code 1: fix it, and put the input, under a name that tells what it was,
into ``tests/fuzz/corpus/TARGET``.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from targets import TARGETS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORK = ROOT / ".cache" / "fuzz"
FINDINGS = WORK / "findings"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
INPUT_BYTES_MAX = 768
HANG_SECONDS = 10
MEMORY_MIB_MAX = 2048


def build(name: str, sources: Iterable[Path], *flags: str | Path) -> Path:
    """C sources and their harness, fuzz_NAME.c, under libFuzzer.

    Compared values are not traced: inputs are made of small numbers, and what must fit together is
    made right by the harness, so that would cost half the speed and give nothing.
    """
    objects = WORK / "objects" / name
    objects.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["clang", "-c", "-O2", "-g", "-std=c11", "-D_GNU_SOURCE", *SANITIZE, *flags,
         "-fsanitize-coverage=inline-8bit-counters,pc-table", HERE / f"fuzz_{name}.c", *sources],
        check=True, cwd=objects,
    )  # fmt: skip
    program = WORK / f"fuzz_{name}"
    built = [*objects.glob("*.o")]
    subprocess.run(["clang", "-fsanitize=fuzzer", *SANITIZE, *built, "-o", program], check=True)
    return program


def build_core() -> Path:
    native = ROOT / "native"
    sources = [s for s in native.glob("*.c") if not s.name.startswith("_")]
    return build("core", sources, "-DRMT_SLABS_MAX=8u", f"-I{native}")


def build_again() -> Path:
    nfsgw = ROOT / "nfsgw"
    return build("again", [nfsgw / "again.c"], f"-I{nfsgw}")


def options(name: str, seconds: float) -> list[str]:
    learned = WORK / "corpus" / name
    learned.mkdir(parents=True, exist_ok=True)
    return [
        f"-max_total_time={max(1, int(seconds))}", f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-artifact_prefix={FINDINGS}/{name}-",
        "-print_final_stats=1", str(learned), str(HERE / "corpus" / name),
    ]  # fmt: skip


def start(name: str, command: list[str | Path]) -> "subprocess.Popen[bytes]":
    with (WORK / f"{name}.log").open("wb") as log:
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment)


def told(name: str, code: int) -> str:
    log = (WORK / f"{name}.log").read_text(errors="replace")
    done = re.findall(r"number_of_executed_units: (\d+)|Done (\d+) runs|: (\d+) cases", log)
    count = int(next(filter(None, done[-1]))) if done else 0
    result = "nothing found" if code == 0 else f"FAILED, see {WORK / name}.log"
    return f"{name:16} {count:>12,} executions  {result}"


def main() -> None:
    seconds = float(sys.argv[1])
    FINDINGS.mkdir(parents=True, exist_ok=True)
    before = set(FINDINGS.iterdir())
    core = start("core", [build_core(), f"-max_len={INPUT_BYTES_MAX}", *options("core", seconds)])
    share = seconds / (len(TARGETS) + 2)
    codes = {}
    command: list[str | Path]
    for name in ("again", *TARGETS):
        if name == "again":
            command = [build_again(), f"-max_len={INPUT_BYTES_MAX}", *options(name, share)]
        else:
            command = [sys.executable, HERE / "fuzz_python.py", name, *options(name, share)]
        codes[name] = start(name, command).wait()
        print(told(name, codes[name]), flush=True)
    command = [sys.executable, HERE / "hostile.py", str(share)]
    codes["hostile"] = start("hostile", command).wait()
    print(told("hostile", codes["hostile"]), flush=True)
    codes["core"] = core.wait()
    print(told("core", codes["core"]))
    for finding in sorted(set(FINDINGS.iterdir()) - before):
        print(f"found: {finding}")
    sys.exit(any(codes.values()))


if __name__ == "__main__":
    main()
