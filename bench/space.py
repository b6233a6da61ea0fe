"""What 20 clones of a 300 MB image take, and that each of them is the image, by ``cmp``."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.mounts import served

IMAGE_BYTES = 300_000_000
CLONES = 20
ROOT = Path(__file__).parents[1]


def ramet(store: Path, *words: object) -> Any:
    """A command's JSON."""
    command = [sys.executable, "-m", "cli", "--store", str(store), "--json", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def on_disk(folder: Path) -> int:
    """Bytes that the host file system has given to the store."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def main() -> None:
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="ramet-bench-", dir=where) as name:
        folder = Path(name)
        store, image, mount = folder / "store", folder / "golden.raw", folder / "mnt"
        with image.open("wb") as file:
            for _ in range(IMAGE_BYTES // 1_000_000):
                file.write(os.urandom(1_000_000))
        ramet(store, "init", store)
        ramet(store, "volume", "create", "lab")
        with contextlib.ExitStack() as stack:
            command = ["-m", "cli", "--store", str(store), "serve", "--mount", str(mount)]
            stack.enter_context(served(command, mount))
            ramet(store, "import", image, "lab:/golden.raw")
            before, files = ramet(store, "df"), on_disk(store)
            ramet(store, "clone", "lab:/golden.raw", "lab:/web-{n:03d}.raw", "--count", CLONES)
            after = ramet(store, "df")
            for n in range(1, CLONES + 1):
                clone = mount / "lab" / f"web-{n:03d}.raw"
                subprocess.run(["cmp", str(image), str(clone)], check=True)
            told = ("logical_bytes", "physical_bytes", "metadata_bytes")
            grown = {key: after[key] - before[key] for key in told}
            print(f"{CLONES} clones of {IMAGE_BYTES:,} bytes, each equal to the image (cmp):")
            print(f"  logical {grown['logical_bytes']:,}, blocks {grown['physical_bytes']:,}, "
                  f"metadata {grown['metadata_bytes']:,} bytes more; files of the store "
                  f"{on_disk(store) - files:,} bytes more")  # fmt: skip


if __name__ == "__main__":
    main()
