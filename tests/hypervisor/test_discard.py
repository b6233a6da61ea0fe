"""A guest gives space back: it writes, deletes, trims, and the store's physical bytes fall.

The guest is Debian's cloud kernel and an initramfs; its disk, an ext4 file system, is a file of the
mount, with ``discard='unmap'``. A second disk is how the host tells it to go on.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import writer

if TYPE_CHECKING:
    from conftest import Lab

BOOT_S = 240  # emulated, on a busy host
MIB = 1 << 20
WRITTEN = 24 * MIB
MODULES = ("virtio_pci", "virtio_blk", "ext4")
INIT = f"""\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in {" ".join(MODULES)}; do modprobe $module; done
until [ -b /dev/vdb ]; do usleep 10000; done
mount -t ext4 /dev/vda /mnt
dd if=/dev/urandom of=/mnt/file bs=64k count={WRITTEN >> 16} 2>/dev/null
sync
echo RAMET-WROTE > /dev/ttyS0
until [ "$(head -c 2 /dev/vdb)" = go ]; do usleep 100000; blockdev --flushbufs /dev/vdb; done
rm /mnt/file
sync
fstrim /mnt && sync && echo RAMET-TRIMMED > /dev/ttyS0
while :; do sleep 60; done
"""
DOMAIN = """
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=10</cmdline></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
      <source file='{sign}'/><target dev='vdb' bus='virtio'/></disk>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
  </devices>
</domain>"""


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + BOOT_S
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_what_a_guest_deletes_and_trims_comes_back(lab: "Lab") -> None:
    disk, sign = lab.mount / "lab" / "disk.raw", lab.mount / "lab" / "sign.raw"
    console = lab.root / "console.log"
    for path, size in ((disk, 128 * MIB), (sign, MIB)):
        with path.open("wb") as file:
            file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    kernel, initrd = writer.image(lab.root, Path(".venv/guest-cache"), INIT, MODULES, {})
    name = f"discard-{lab.root.name}"
    domain = lab.libvirt.defineXML(
        DOMAIN.format(
            name=name, kernel=kernel, initrd=initrd, disk=disk, sign=sign, console=console
        )
    )

    def said(word: str) -> bool:
        return console.exists() and word in console.read_text(errors="replace")

    def physical() -> int:
        return int(lab.ramet.json("df")["physical_bytes"])

    def on_disk() -> int:
        return sum(each.stat().st_blocks for each in (lab.ramet.store / "slabs").iterdir()) * 512

    before = physical()
    domain.create()
    try:
        wait_for(lambda: said("RAMET-WROTE"))
        assert physical() >= before + WRITTEN
        full = on_disk()
        with sign.open("r+b") as file:
            file.write(b"go")
        wait_for(lambda: said("RAMET-TRIMMED"))
        wait_for(lambda: physical() < before + WRITTEN // 8)
        lab.ramet.run("gc")
        assert on_disk() <= full - WRITTEN // 2  # and the host has it
    finally:
        domain.destroy()
        domain.undefine()
    subprocess.run(["e2fsck", "-fn", disk], check=True, capture_output=True)
