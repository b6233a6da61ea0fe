"""A Linux kernel as a client: Debian's cloud kernel under QEMU, with what SMB, iSCSI or NFS take.

The guest reaches the host's 127.0.0.1 as 10.0.2.2.  A script of the test runs in it; what it
prints comes back.  The image is a kernel and an initramfs; the script is a second, small archive
behind it.
"""

import gzip
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.guest import build

HERE = Path(__file__).parent
PACKAGES = ("open-iscsi", "libopeniscsiusr", "libisns0")
NETWORK = ("virtio_pci", "virtio_net", "af_packet")
SHARES = (
    "ext4", "sd_mod", "iscsi_tcp", "cifs", "nls_utf8", "cmac", "ccm", "gcm", "ctr", "ecb",
    "des_generic", "md4", "sha512_generic", "ghash_generic", "crc32c_intel",
)  # fmt: skip
NFS = ("nfs", "nfsv3", "nfsv4")
TOOLS = ("iscsid", "iscsiadm", "iscsistart")
BOOT_S = 240  # emulated, on a busy host
HOST = "10.0.2.2"
WORD = "RAMET-CLIENT "


class ClientFailed(Exception):
    """The script ended with an error, or not at all; what the guest printed."""


@dataclass
class Client:
    """A kernel and its initramfs."""

    kernel: Path
    initramfs: bytes
    memory_mib: int = 320

    def start(self, script: str, log: Path) -> subprocess.Popen[bytes]:
        """Boot with a script; the console goes to ``log``."""
        extra = log.with_suffix(".initrd")
        extra.write_bytes(self.initramfs + archive({"script": script}))
        with log.open("wb") as console:
            return subprocess.Popen(
                [
                    "qemu-system-x86_64", "-accel", "tcg", "-m", str(self.memory_mib), "-nographic",
                    "-no-reboot", "-kernel", str(self.kernel), "-initrd", str(extra),
                    "-append", "console=ttyS0 quiet panic=-1 net.ifnames=0",
                    "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net",
                ],
                stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def run(self, script: str) -> str:
        """What the script printed; ClientFailed unless it ended well."""
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch) / "console"
            return finish(self.start(script, log), log)


def finish(process: subprocess.Popen[bytes], log: Path, deadline_s: int = BOOT_S) -> str:
    """Wait until the guest has powered off; what it printed, or ClientFailed."""
    try:
        process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    text = log.read_bytes().decode(errors="replace").replace("\r\n", "\n")
    if f"{WORD}0\n" not in text:
        raise ClientFailed(text[-5000:])
    return text


def make(out: Path, cache: Path) -> Client:
    """One for SMB and iSCSI, built in ``out``; packages come from ``cache`` or by apt-get."""
    packages = build.download(cache)
    missing = [name for name in PACKAGES if not list(cache.glob(f"{name}_*.deb"))]
    if missing:
        build.run("apt-get", "download", "-q", *missing, cwd=cache)
    packages += [sorted(cache.glob(f"{name}_*.deb"))[-1] for name in PACKAGES]
    root, tree = out / "root", out / "client"
    version = _unpacked(root, packages)
    _fill(tree, root, version, NETWORK + SHARES)
    _add_tools(tree, root)
    return Client(root / "boot" / f"vmlinuz-{version}", packed(tree))


def make_for_nfs(out: Path, cache: Path, program: Path) -> Client:
    """One that has the kernel's NFS and a static program in /bin."""
    packages = [
        each for each in build.download(cache) if each.name.startswith(("busybox", "linux-image"))
    ]
    root, tree = out / "root", out / "client"
    version = _unpacked(root, packages)
    _fill(tree, root, version, NETWORK + NFS)
    shutil.copy(program, tree / "bin" / program.name)
    return Client(root / "boot" / f"vmlinuz-{version}", packed(tree))


def _unpacked(root: Path, packages: list[Path]) -> str:
    """The packages' files in ``root``; returns the kernel's version."""
    root.mkdir(parents=True)
    for package in packages:
        build.run("dpkg", "-x", package, root)
    version = next((root / "lib/modules").iterdir()).name
    build.run("depmod", "-b", root, version)
    return version


def _fill(tree: Path, root: Path, version: str, names: tuple[str, ...]) -> None:
    for folder in ("bin", "sbin", "proc", "sys", "dev", "etc", "run", "lib64"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "bin/busybox")
    build.script(HERE / "client.sh", tree / "init")
    modules = tree / "lib/modules" / version
    for path in build.module_files(root, version, names):
        (modules / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "lib/modules" / version / path, modules / path)
    for name in ("modules.order", "modules.builtin"):
        shutil.copy(root / "lib/modules" / version / name, modules / name)
    build.run("depmod", "-b", tree, version)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")


def _add_tools(tree: Path, root: Path) -> None:
    """The programs of open-iscsi and what they are linked with."""
    for tool in TOOLS:
        shutil.copy(root / "sbin" / tool, tree / "sbin" / tool)
        for library in _libraries(root, root / "sbin" / tool):
            target = tree / "lib" / library.name
            if not target.exists():
                shutil.copy(library, target)
    shutil.copy(tree / "lib/ld-linux-x86-64.so.2", tree / "lib64/ld-linux-x86-64.so.2")
    (tree / "etc/iscsi").mkdir()
    (tree / "etc/iscsi/iscsid.conf").write_text("node.startup = manual\n")


def _libraries(root: Path, program: Path) -> list[Path]:
    """Those of the packages first, then those of this machine, which is the same Debian."""
    ours = root / "usr/lib/x86_64-linux-gnu"
    told = subprocess.run(
        ["ldd", str(program)], capture_output=True, text=True, check=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(ours)},
    ).stdout  # fmt: skip
    words = [word for line in told.splitlines() for word in line.split() if word.startswith("/")]
    return [Path(word) for word in words]


def archive(files: dict[str, str]) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in files.items():
            (Path(scratch) / name).write_text(text)
        return packed(Path(scratch))


def packed(tree: Path) -> bytes:
    """A tree as a compressed archive, which may be put behind an initramfs."""
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    data = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"],
        input=names.encode(), cwd=tree, check=True, capture_output=True,
    ).stdout  # fmt: skip
    return gzip.compress(data, 1)
