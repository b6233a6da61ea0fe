"""A boot storm: N guests from N new clones, until each has printed who it is."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.guest import build
from bench.harness.peer import Peer, numbered
from bench.harness.results import Chart, LeftOut
from bench.harness.runner import unheard
from bench.harness.scenario import Lab, Scenario
from bench.peers.commands import missing
from bench.scenarios.images import MIB

WORD = b"RAMET-GUEST "
BOOT_S, PROBE_S = 600, 20
POLL_S = 0.02
MOSTLY_CPU = {"kvm": "", "tcg": ": instructions are emulated, which is most of the time of a boot"}
CACHE = Path("~/.cache/ramet-bench").expanduser()
TOOLS = (
    "qemu-system-x86_64",
    "mke2fs",
    "mcopy",
    "mkfs.fat",
    "syslinux",
    "sfdisk",
    "cpio",
    "depmod",
)
PACKAGES = "qemu-system-x86 e2fsprogs mtools dosfstools syslinux fdisk cpio kmod"


class Boot(Scenario):
    """The guest is Debian's cloud kernel with busybox, built from packages that apt downloads."""

    name = "boot"
    title = "Boot storm"
    question = "How long until N guests have booted from N new clones, cloning included?"
    cache = "warm: the image was written just before; guests run with QEMU's default cache mode"
    long = True
    reasons = {  # noqa: RUF012
        "xfs": "Its reads are the host kernel's; Ramet's pass through FUSE.",
        "btrfs": "Its reads are the host kernel's; Ramet's pass through FUSE.",
        "btrfs-snapshot": "Its reads are the host kernel's; Ramet's pass through FUSE.",
        "qcow2": "QEMU reads the base itself; Ramet's reads pass through FUSE.",
        "lvm-thin": "Its reads are the host kernel's; Ramet's pass through FUSE.",
        "zfs": "Its reads are the host kernel's; Ramet's pass through FUSE.",
        "juicefs": "It answers reads from its own cache, without a checksum of each block.",
        "copy": "The image is small, and its reads are the host kernel's.",
    }

    def detect(self) -> str | None:
        return missing(*TOOLS, package=PACKAGES) or missing("apt-get", package="a Debian host")

    def accepts(self, peer: Peer) -> str | None:
        return None if peer.mounted else "its images have no path"

    def charts(self) -> list[Chart]:
        return [Chart("booted", "clones made and all guests up", "ms", "lower", "guests", "guests",
                      log_x=False)]  # fmt: skip

    def run(self, lab: Lab) -> None:
        if not lab.peers:
            return
        folder = lab.peers[0].folder.parent
        lab.say("building the guest")
        try:
            image = build.build(folder / "guest", CACHE)
        except SystemExit as error:  # it is a program as well
            lab.left_out.append(LeftOut(f"no guest: {error}"))
            return
        accelerator = accelerator_that_boots(image, folder)
        lab.notes.append(f"guests are run by {accelerator}{MOSTLY_CPU[accelerator]}")
        size = image.stat().st_size
        with image.open("rb") as file:
            pieces = [(at, file.read(MIB)) for at in range(0, size, MIB)]

        def put(peer: Peer) -> None:
            peer.make("golden", size)
            peer.write("golden", [(at, data) for at, data in pieces if any(data)])

        def storm(peer: Peer, n: int, count: int) -> dict[str, float]:
            names = numbered(f"g{count}-{n}-", count)
            start = time.perf_counter()
            for name in names:
                peer.clone("golden", name)
            peer.sync(names)
            with booted([peer.disk(name) for name in names], peer.folder, accelerator, BOOT_S):
                took = time.perf_counter() - start
            peer.delete(names)
            return {"booted": took * 1e3}

        lab.patience_s = BOOT_S
        lab.prepare("guest's image", put)
        for count in lab.parts(lab.pick(tiny=(1,), quick=(2,), full=(1, 4, 16))):
            lab.turns(
                count, lab.pick(tiny=1, quick=2, full=3),
                lambda peer, n, count=count: storm(peer, n, count),  # type: ignore[misc]
                f"{count} guests",
            )  # fmt: skip


def accelerator_that_boots(image: Path, folder: Path) -> str:
    """kvm where it runs this very guest, else tcg: a /dev/kvm that is there may not work."""
    if os.access("/dev/kvm", os.W_OK):
        try:
            with booted([(image, "raw")], folder, "kvm", PROBE_S):
                return "kvm"
        except (TimeoutError, OSError):
            pass
    return "tcg"


@contextlib.contextmanager
def booted(
    disks: list[tuple[Path, str]], folder: Path, accelerator: str, limit_s: float
) -> Iterator[None]:
    """Guests on these disks, all of which have printed who they are.  TimeoutError, OSError."""
    guests: list[subprocess.Popen[bytes]] = []
    consoles = [folder / f"console-{n}" for n in range(len(disks))]
    try:
        for (path, form), console in zip(disks, consoles, strict=True):
            console.unlink(missing_ok=True)
            guests.append(start(path, form, console, accelerator))
        deadline = time.monotonic() + limit_s
        for guest, console in zip(guests, consoles, strict=True):
            while not (console.exists() and WORD in console.read_bytes()):
                if guest.poll() is not None:
                    raise OSError(f"a guest ended with code {guest.returncode}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"a guest printed nothing in {limit_s} s")
                time.sleep(POLL_S)
        yield
    finally:
        with unheard():
            for guest in guests:
                guest.kill()
                guest.wait()


def start(path: Path, form: str, console: Path, accelerator: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["qemu-system-x86_64", "-machine", "pc", "-accel", accelerator, "-m", "192", "-display",
         "none", "-monitor", "none", "-serial", f"file:{console}", "-no-reboot",
         "-nic", "user,model=virtio-net-pci",
         "-drive", f"file={path},format={form},if=virtio"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
