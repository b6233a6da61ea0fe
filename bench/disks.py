"""File systems of their own for the peers: on a loop device, gone afterwards."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def file_system(folder: Path, kind: str, size_bytes: int, *options: str) -> Iterator[Path]:
    """``mkfs.KIND`` with its options on a sparse file, mounted in ``folder``."""
    image, root = folder / f"{kind}.img", folder / kind
    with image.open("wb") as file:
        file.truncate(size_bytes)
    make = [f"mkfs.{kind}", "-q", *options, str(image)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    root.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(root)], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)
