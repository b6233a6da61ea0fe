"""Image files of the world outside, brought to raw by qemu-img.

An image is hostile until read: a qcow2 header can name any file of this machine as its backing or
data file, and a raw image's first bytes, which a guest wrote, can look like such a header.  So an
image that refers to another file is refused, whatever it is.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from engine import errors

FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc", "qed")
MAGIC = {
    b"QFI\xfb": "qcow2", b"KDMV": "vmdk", b"COWD": "vmdk", b"vhdxfile": "vhdx",
    b"conectix": "vpc", b"QED\0": "qed", b"# Disk DescriptorFile": "vmdk",
}  # fmt: skip
VDI_MAGIC = (0x40, b"\x7f\x10\xda\xbe")


class RawImage:
    """An image opened for reading as raw bytes; a converted one is gone when it is closed.

    ``mode``: who may read and write what it was made from (0o777 at most).
    """

    def __init__(self, file: BinaryIO, form: str, mode: int) -> None:
        self._file = file
        self.form = form
        self.mode = mode

    def __enter__(self) -> BinaryIO:
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._file.close()


def detect(head: bytes) -> str:
    """The format that the first 512 bytes show; raw when they show none."""
    for magic, form in MAGIC.items():
        if head.startswith(magic):
            return form
    at, magic = VDI_MAGIC
    return "vdi" if head[at : at + 4] == magic else "raw"


def open_raw(path: Path, form: str | None, scratch: Path) -> RawImage:
    """Open an image; one that is not raw is converted into a nameless file under ``scratch``.

    InvalidArgument for a format we do not know, an image that refers to other files, or one that
    qemu-img cannot read.
    """
    if not path.is_file():
        what = errors.IsADirectory if path.is_dir() else errors.NotFound
        raise what(f"{path} is no image file; name a regular file")
    with path.open("rb") as file:
        form = form or detect(file.read(512))
        mode = _mode(file)
    if form not in FORMATS:
        raise errors.InvalidArgument(f"format {form!r} is not one of {', '.join(FORMATS)}")
    if form == "raw":
        image = path.open("rb")
        return RawImage(image, form, _mode(image))
    check_alone(_qemu_img("info", "-f", form, "--output=json", str(path)), path)
    scratch.mkdir(mode=0o700, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=scratch, prefix="import-") as target:
        _qemu_img("convert", "-f", form, "-O", "raw", str(path), target.name)
        return RawImage(Path(target.name).open("rb"), form, mode)


def _mode(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_mode & 0o777


def check_alone(info: str, path: Path) -> None:
    """Refuse an image that is not all in its own file."""
    told: dict[str, Any] = json.loads(info)
    data = told.get("format-specific", {}).get("data", {})
    if told.get("backing-filename") or data.get("data-file"):
        other = told.get("backing-filename") or data.get("data-file")
        raise errors.InvalidArgument(
            f"{path} refers to another file ({other}); flatten it with `qemu-img convert` first"
        )
    extents = data.get("extents", [])
    if len(extents) > 1 or any(e.get("filename") not in (None, str(path)) for e in extents):
        raise errors.InvalidArgument(f"{path} is split over files; `qemu-img convert` it first")


def check_head(head: bytes, path: str) -> None:
    """Refuse a qcow2 image whose header names a backing file or a data file.

    Source: QEMU docs/interop/qcow2.txt: backing file offset at 8, incompatible features at 72.
    """
    if head[:4] != b"QFI\xfb" or len(head) < 80:
        return
    version, backing = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:16], "big")
    external = version >= 3 and int.from_bytes(head[72:80], "big") & 4
    if backing or external:
        raise errors.InvalidArgument(
            f"{path} is not whole, it refers to another file; import it, which makes it raw"
        )


def _qemu_img(*arguments: str) -> str:
    done = subprocess.run(
        ["qemu-img", *arguments], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        if "No space left" in done.stderr:
            raise errors.NoSpace(f"{reason[-1]}; converting needs room for the image's data")
        raise errors.InvalidArgument(reason[-1].removeprefix("qemu-img: "))
    return done.stdout
