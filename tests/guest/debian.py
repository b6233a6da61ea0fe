"""A real Debian with systemd, cloud-init, OpenSSH and the guest agent: ``python debian.py OUT``.

mmdebstrap makes its root, which takes a minute; the disk is kept in .cache/ under the hash of what
it is made from.  It boots like the small guest of ``build.py``, and like any golden image it has a
machine-id, a host name and host keys already.
"""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from bench.guest import build

PACKAGES = (
    "busybox-static", "cloud-guest-utils", "cloud-init", "dbus", "e2fsprogs", "fdisk", "iproute2",
    "linux-image-cloud-amd64", "openssh-server", "qemu-guest-agent", "systemd-sysv", "udev",
)  # fmt: skip
DISK_MIB = 1400
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
SLOW = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "systemd-networkd-wait-online.service",
)  # fmt: skip
MACHINE_ID = "0123456789abcdef0123456789abcdef"
FILES = {
    "etc/hostname": "golden\n",
    "etc/machine-id": f"{MACHINE_ID}\n",
    "etc/fstab": "LABEL=root / ext4 defaults 0 1\n",
    "etc/cloud/cloud.cfg.d/90_nocloud.cfg": "datasource_list: [NoCloud]\n",
}


def make_root(root: Path) -> str:
    """The root file system; returns the kernel's version."""
    build.run(
        "mmdebstrap", "--variant=apt", f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={path}" for path in EXCLUDED),
        "--customize-hook=chroot \"$1\" systemctl enable -q systemd-networkd",
        f"--customize-hook=chroot \"$1\" systemctl mask -q {' '.join(SLOW)}",
        "bookworm", root,
    )  # fmt: skip
    for name, text in FILES.items():
        (root / name).write_text(text)
    for initrd in (root / "boot").glob("initrd*"):  # it boots by our own
        initrd.unlink()
    shutil.rmtree(root / "var/cache/apt")
    return next((root / "lib/modules").iterdir()).name


def host_key(root: Path) -> str:
    key = "/etc/ssh/ssh_host_ed25519_key.pub"
    return build.run("chroot", root, "ssh-keygen", "-lf", key).split()[1]


def image(cache: Path) -> Path:
    """The golden disk, made when the cache does not have it; its host key lies beside it."""
    sources = [Path(__file__), Path(build.__file__), build.HERE / "initramfs.sh"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    made = cache / f"debian-{key}.raw"
    if made.exists():
        return made
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        work = Path(scratch)
        work.chmod(0o755)  # mmdebstrap's apt is not root
        version = make_root(work / "root")
        disk = build.assemble(work, work / "root", version, DISK_MIB)
        made.with_suffix(".key").write_text(host_key(work / "root"))
        return disk.rename(made)


if __name__ == "__main__":
    print(image(Path(sys.argv[1])))
