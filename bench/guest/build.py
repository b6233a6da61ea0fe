"""A small real guest made of Debian packages: ``python -m bench.guest.build OUTDIR``.

The disk (MBR) has a FAT partition with syslinux, Debian's cloud kernel and an initramfs, and an
ext4 root file system with libc, busybox, the kernel's modules and dropbear's key generator.  Its
init reads a NoCloud seed as cloud-init would and prints who it is on the serial console.  All is
made with plain tools on plain files: nothing is mounted, nothing of this machine is changed.
Needs: busybox's, dropbear's and the kernel's packages by ``apt-get download``; installed cpio,
dosfstools, e2fsprogs, fdisk, kmod, mtools, syslinux.
"""

import gzip
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = (
    "busybox-static", "dropbear-bin", "libc6", "libcrypt1", "libgmp10", "libtomcrypt1",
    "libtommath1", "zlib1g",
)  # fmt: skip
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")
HERE = Path(__file__).parent
MIB = 1 << 20
BOOT_MIB, DISK_MIB = 63, 300
MBR_CODE = Path("/usr/lib/syslinux/mbr/mbr.bin")
SYSLINUX_CFG = """\
default linux
label linux
  kernel vmlinuz
  initrd initrd.gz
  append console=ttyS0 net.ifnames=0 quiet panic=10
"""


def run(*command: object, data: bytes | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], input=data, cwd=cwd, check=False, capture_output=True
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode()


def download(cache: Path) -> list[Path]:
    """The packages' files; what is in the cache is not asked for again."""
    cache.mkdir(parents=True, exist_ok=True)
    kernel = re.search(r"Depends: (\S+)", run("apt-cache", "depends", "linux-image-cloud-amd64"))
    if kernel is None:
        raise SystemExit("apt knows no linux-image-cloud-amd64; run apt-get update")
    wanted = (*PACKAGES, kernel[1])
    missing = [name for name in wanted if not list(cache.glob(f"{name}_*.deb"))]
    if missing:
        run("apt-get", "download", "-q", *missing, cwd=cache)
    return [sorted(cache.glob(f"{name}_*.deb"))[-1] for name in wanted]


def make_root(root: Path, packages: list[Path]) -> str:
    """Fill the root file system; returns the kernel's version."""
    for package in packages:
        run("dpkg", "-x", package, root)
    version = next((root / "lib/modules").iterdir()).name
    run("depmod", "-b", root, version)
    for folder in ("proc", "sys", "dev", "run", "tmp", "mnt", "sbin", "var/lib/guest", "etc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    script(HERE / "init.sh", root / "sbin/init")
    (root / "etc/hostname").write_text("golden\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "var/lib/guest/instance-id").write_text("golden\n")
    return version


def script(source: Path, target: Path) -> None:
    shutil.copy(source, target)
    target.chmod(0o755)


def module_files(root: Path, version: str, names: tuple[str, ...]) -> list[str]:
    """The modules and all they need, relative to the module directory; built-in ones have none."""
    needs: dict[str, list[str]] = {}
    for line in (root / "lib/modules" / version / "modules.dep").read_text().splitlines():
        head, _, tail = line.partition(":")
        needs[head] = tail.split()
    found: list[str] = []
    for path, others in needs.items():
        if Path(path).name.partition(".")[0].replace("-", "_") in names:
            found += [path, *others]
    return sorted(set(found))


def make_initramfs(work: Path, root: Path, version: str) -> bytes:
    """busybox and the modules for the root disk, as a compressed cpio archive."""
    tree = work / "initramfs"
    modules = tree / "lib/modules" / version
    for folder in ("bin", "proc", "sys", "dev", "root"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "bin/busybox")
    script(HERE / "initramfs.sh", tree / "init")
    for path in module_files(root, version, BOOT_MODULES):
        (modules / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "lib/modules" / version / path, modules / path)
    for name in ("modules.order", "modules.builtin"):
        shutil.copy(root / "lib/modules" / version / name, modules / name)
    run("depmod", "-b", tree, version)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"],
        input=names.encode(), cwd=tree, check=True, capture_output=True,
    ).stdout  # fmt: skip
    return gzip.compress(archive, 6)


def make_boot(work: Path, root: Path, version: str) -> Path:
    """The FAT partition, bootable by syslinux."""
    boot = work / "boot.fat"
    with boot.open("wb") as file:
        file.truncate(BOOT_MIB * MIB)
    run("mkfs.fat", "-F", "16", "-h", MIB // 512, "-n", "BOOT", boot)
    (work / "initrd.gz").write_bytes(make_initramfs(work, root, version))
    (work / "syslinux.cfg").write_text(SYSLINUX_CFG)
    run("mcopy", "-i", boot, root / "boot" / f"vmlinuz-{version}", "::vmlinuz")
    run("mcopy", "-i", boot, work / "initrd.gz", work / "syslinux.cfg", "::")
    run("syslinux", "--install", boot)
    return boot


def build(out: Path, cache: Path) -> Path:
    """Make OUT/golden.raw; returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    packages = download(cache)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        work = Path(scratch)
        root = work / "root"
        root.mkdir()
        version = make_root(root, packages)
        return assemble(work, root, version, DISK_MIB).rename(out / "golden.raw")


def assemble(work: Path, root: Path, version: str, disk_mib: int) -> Path:
    """The disk: boot partition, root file system."""
    boot = make_boot(work, root, version)
    ext4 = work / "root.ext4"
    size = disk_mib - BOOT_MIB - 1
    run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, ext4, f"{size}M")
    disk = work / "golden.raw"
    with disk.open("wb") as file:
        file.truncate(disk_mib * MIB)
    table = f"label: dos\n1MiB,{BOOT_MIB}MiB,6,*\n{BOOT_MIB + 1}MiB,,L\n"
    run("sfdisk", "-q", disk, data=table.encode())
    copy_into(disk, MBR_CODE, 0)
    copy_into(disk, boot, MIB)
    copy_into(disk, ext4, (BOOT_MIB + 1) * MIB)
    return disk


def copy_into(disk: Path, part: Path, at: int) -> None:
    run("dd", f"if={part}", f"of={disk}", "bs=64K", f"seek={at}", "oflag=seek_bytes",
        "conv=notrunc,sparse", "status=none")  # fmt: skip


if __name__ == "__main__":
    target = Path(sys.argv[1])
    print(build(target, Path(".venv/guest-cache")))
