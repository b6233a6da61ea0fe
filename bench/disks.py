"""File systems of their own for the peers: on a loop device, gone afterwards."""

import contextlib
import os
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
    subprocess.run(make, check=True, capture_output=True)
    root.mkdir()
    try:
        mount = ["mount", "-o", "loop", str(image), str(root)]
        subprocess.run(mount, check=True, capture_output=True)
        yield root
    finally:
        if os.path.ismount(root):  # an interrupt may have come before it was, or just after
            unmount(root)


def unmount(root: Path) -> None:
    """At once if nobody uses it, else as soon as nobody does."""
    if subprocess.run(["umount", str(root)], check=False, capture_output=True).returncode:
        subprocess.run(["umount", "-l", str(root)], check=True)
