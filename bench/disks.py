"""File systems of their own for the peers: on a loop device, gone afterwards."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def file_system(folder: Path, kind: str, size_bytes: int, *options: str) -> Iterator[Path]:
    """``mkfs.KIND`` with its options on a sparse file, mounted in ``folder``.

    Direct I/O to that file, where the host can: it is not cached a second time.  Not by
    ``mount -o loop``, which looks at the files of all loop devices there are, and hangs when one of
    them is on somebody's file system that does not answer.
    """
    image, root = folder / f"{kind}.img", folder / kind
    with image.open("wb") as file:
        file.truncate(size_bytes)
    make = [f"mkfs.{kind}", "-q", *options, str(image)]
    subprocess.run(make, check=True, capture_output=True)
    root.mkdir()
    try:
        device = subprocess.run(["losetup", "--find", "--show", str(image)], check=True,
                                capture_output=True, text=True).stdout.strip()  # fmt: skip
        subprocess.run(["losetup", "--direct-io=on", device], check=False, capture_output=True)
        subprocess.run(["mount", device, str(root)], check=True, capture_output=True)
        yield root
    finally:  # an interrupt may have come anywhere
        if os.path.ismount(root):
            unmount(root)
        detach(image)


def unmount(root: Path) -> None:
    """At once if nobody uses it, else as soon as nobody does."""
    if subprocess.run(["umount", str(root)], check=False, capture_output=True).returncode:
        subprocess.run(["umount", "-l", str(root)], check=True)


def detach(image: Path) -> None:
    """The loop devices of this file; found without a look at those of others."""
    for told in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if told.read_text().strip() == str(image):
                device = Path("/dev") / told.parents[1].name
                subprocess.run(["losetup", "--detach", str(device)], check=True)
