"""A libvirtd to work with: the running one, or one of our own until the end."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt

libvirt.registerErrorHandler(lambda _context, _error: None, None)  # not on our stderr
URI = "qemu:///system"
DEADLINE_S = 30


@contextlib.contextmanager
def running() -> Iterator[str]:
    """The URI of a libvirtd that answers; what we start, we stop."""
    if _answers():
        yield URI
        return
    _device_as_udev_leaves_it()
    started = [
        subprocess.Popen([name], stderr=subprocess.DEVNULL) for name in ("virtlogd", "libvirtd")
    ]
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not _answers():
            if time.monotonic() > deadline:
                raise RuntimeError("libvirtd does not answer")
            time.sleep(0.1)
        yield URI
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(DEADLINE_S)


def _answers() -> bool:
    try:
        libvirt.open(URI).close()
    except libvirt.libvirtError:
        return False
    return True


def _device_as_udev_leaves_it() -> None:
    """Where no udev ran, libvirt probes QEMU anew on every define, a minute each."""
    kvm = Path("/dev/kvm")
    if kvm.exists() and kvm.group() != "kvm":
        shutil.chown(kvm, group="kvm")
        os.chmod(kvm, 0o660)
