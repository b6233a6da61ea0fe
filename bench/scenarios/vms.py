"""How many VMs a second: cloned, given an identity, known to libvirt."""

import contextlib
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import cast

import libvirt

from bench.harness.peer import Peer, VmPeer
from bench.harness.results import Chart
from bench.harness.runner import unheard
from bench.harness.scenario import Lab, Scenario
from bench.peers.virt import URI
from bench.scenarios.images import MIB

START_S = 4.0
SIZE_BYTES = 16 * MIB  # small, because virt-clone copies it in full for each

ONE = (
    "For one VM it is one small command; `ramet vm clone` asks a daemon, writes a seed image and "
    "waits until all is durable."
)
XML = """
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>
      <target dev='vda' bus='virtio'/><serial>golden</serial></disk>
    <interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>
    <serial type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  </devices>
</domain>"""


libvirt.registerErrorHandler(lambda _context, _error: None, None)  # not on our stderr


class Vms(Scenario):
    """Domains are named ``ramet-bench-PID-...`` and undefined afterwards; none is started."""

    name = "vms"
    title = "VMs a second"
    question = "How many VMs a second are cloned, customized, registered? (disk of 16 MiB)"
    roles = ("images", "vms")
    reasons = {  # noqa: RUF012
        "define": "It is libvirt's part alone: no disk is cloned, no identity made.",
        "virt-clone": ONE + " Its disk here is small enough to be copied meanwhile.",
        "virt-clone-reflink": ONE,
    }

    def detect(self) -> str | None:
        try:
            libvirt.open(URI).close()
        except libvirt.libvirtError:
            return f"no libvirtd at {URI}; start it (virtlogd -d; libvirtd -d)"
        return None

    def accepts(self, peer: Peer) -> str | None:
        usable = isinstance(peer, VmPeer) and not peer.data_path_of
        return None if usable else "it makes no VMs"

    def charts(self) -> list[Chart]:
        return [Chart("rate", "VMs a second", "VMs/s", "higher", "VMs", "VMs")]

    def run(self, lab: Lab) -> None:
        prefix = f"ramet-bench-{os.getpid()}"
        folder = lab.peers[0].folder.parent if lab.peers else None
        disks = {peer.name: peer.folder / "golden.raw" for peer in lab.peers}
        content = os.urandom(SIZE_BYTES)

        def put(peer: Peer) -> None:
            peer.folder.chmod(0o711)
            disks[peer.name].write_bytes(content)
            cast(VmPeer, peer).add_base(disks[peer.name], XML, prefix)

        patience_s = lab.patience_s
        counts = lab.pick(tiny=(1, 2), quick=(1, 10, 30), full=(1, 10, 100, 1000))
        try:
            lab.prepare("base VM", put)
            for count, more in pairwise((*counts, counts[-1])):
                lab.patience_s = max(START_S, 3 * patience_s * count / more)  # as in Batch

                def make(peer: Peer, n: int, count: int = count) -> dict[str, float]:
                    start = time.perf_counter()
                    cast(VmPeer, peer).clone_vms(f"n{count}-{n}", count)
                    took = time.perf_counter() - start
                    forget(prefix, f"-n{count}-{n}-")
                    return {"rate": count / took}

                lab.turns(count, lab.pick(tiny=1, quick=2, full=3), make, f"{count} VMs")
        finally:
            with unheard():
                forget(prefix, folder=folder)


def forget(prefix: str, part: str = "", folder: Path | None = None) -> None:
    """Undefine what this run has defined and that has ``part`` in its name; with a
    folder, the pools that were made below it too."""
    connection = libvirt.open(URI)
    for domain in connection.listAllDomains():
        if domain.name().startswith(prefix) and part in domain.name():
            with contextlib.suppress(libvirt.libvirtError):
                domain.undefine()
    for pool in connection.listAllStoragePools() if folder else ():
        with contextlib.suppress(libvirt.libvirtError):
            if f">{folder}/" in pool.XMLDesc():
                pool.destroy()
                pool.undefine()
    connection.close()
