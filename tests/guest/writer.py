"""A guest that writes blocks it was given to its disk, syncs, says so, and waits.

Debian's cloud kernel and an initramfs of busybox, the modules for the disk, and the blocks; the
disk needs nothing on it.
"""

import gzip
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.guest import build

WORD = "RAMET-WROTE"
MODULES = ("virtio_pci", "virtio_blk")
BLOCK = 4096
INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk; do modprobe $module; done
until [ -b /dev/vda ]; do usleep 10000; done
n=0
for block in $(cat /places); do
    dd if=/pattern of=/dev/vda bs=4096 skip=$n seek=$block count=1 conv=notrunc 2>/dev/null
    n=$((n + 1))
done
sync
echo RAMET-WROTE $n > /dev/ttyS0
while :; do sleep 60; done
"""


def make(out: Path, cache: Path, pattern: bytes, places: list[int]) -> tuple[Path, Path]:
    """(kernel, initrd): block n of the pattern goes to block ``places[n]`` of /dev/vda."""
    assert len(pattern) == BLOCK * len(places)
    files = {"pattern": pattern, "places": " ".join(map(str, places)).encode()}
    return image(out, cache, INIT, MODULES, files)


def image(
    out: Path, cache: Path, init: str, modules: tuple[str, ...], files: dict[str, bytes]
) -> tuple[Path, Path]:
    """(kernel, initrd) in ``out``: busybox, modules with what they need, files, and the script."""
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        root, tree = Path(scratch, "root"), Path(scratch, "tree")
        root.mkdir()
        version = build.make_root(root, build.download(cache))
        into = tree / "lib/modules" / version
        for folder in ("bin", "proc", "sys", "dev", "mnt"):
            (tree / folder).mkdir(parents=True)
        shutil.copy(root / "bin/busybox", tree / "bin/busybox")
        for path in build.module_files(root, version, modules):
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / "lib/modules" / version / path, into / path)
        build.run("depmod", "-b", tree, version)
        (tree / "init").write_text(init)
        (tree / "init").chmod(0o755)
        for name, data in files.items():
            (tree / name).write_bytes(data)
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        archive = subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"],
            input=names.encode(), cwd=tree, check=True, capture_output=True,
        ).stdout  # fmt: skip
        (out / "initrd.gz").write_bytes(gzip.compress(archive, 1))
        shutil.copy(root / "boot" / f"vmlinuz-{version}", out / "vmlinuz")
    for name in ("vmlinuz", "initrd.gz"):
        (out / name).chmod(0o644)
    return out / "vmlinuz", out / "initrd.gz"
