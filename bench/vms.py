"""VMs cloned, customized and registered: against bare virDomainDefineXML, and against virt-clone.

In turns: one `ramet vm clone --count 1000 --register` (the whole command, with the daemon's
commits), and as many bare defines of that very XML on an open connection.  Then one VM at
a time: `virt-clone` with a full copy, and with --reflink on an XFS of its own, against one
`ramet vm clone --register`.  Needs a libvirtd, and virtinst for
the second part; makes domains named ``ramet-bench-...`` and
undefines them.  ``BENCH_DIR`` says where.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt

from bench.disks import file_system
from bench.mounts import served
from bench.scenarios.vms import XML
from engine import Store

URI = "qemu:///system"
COUNT, ROUNDS, SINGLES = 1000, 3, 5
DISK_BYTES = 256 << 20
XFS_BYTES = 8 << 30
PREFIX = f"ramet-bench-{os.getpid()}"


class Bench:
    """A mounted store with a base VM, and a connection to libvirt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store, self.mount = folder / "store", folder / "mnt"
        self.libvirt = libvirt.open(URI)

    def ramet(self, *words: object) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "--json", *map(str, words)], check=True,
            capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]),
                 "RAMET_STORE": str(self.store)},
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])

    def make_base(self) -> None:
        disk = self.folder / "golden.raw"
        with disk.open("wb") as file:
            for _ in range(DISK_BYTES >> 20):
                file.write(os.urandom(1 << 20))
        xml = self.folder / "golden.xml"
        xml.write_text(XML.format(name=f"{PREFIX}-golden", uuid=uuid.uuid4(), disk="golden.raw"))
        self.ramet("volume", "create", PREFIX)
        self.ramet("import", "-p", disk, f"{PREFIX}:/golden/golden.raw")
        self.ramet("vm", "add", f"{PREFIX}:/golden", "--xml", xml)

    def clone(self, directory: str, name: str, count: int) -> None:
        (self.mount / PREFIX / directory).mkdir(exist_ok=True)
        self.ramet("vm", "clone", f"{PREFIX}:/golden", f"{PREFIX}:/{directory}/{PREFIX}-{name}",
                   "--count", count, "--register", "-c", URI)  # fmt: skip

    def undefine_all(self) -> None:
        for each in self.libvirt.listAllDomains():
            with contextlib.suppress(libvirt.libvirtError):
                if each.name().startswith(PREFIX):
                    each.undefine()
        for pool in self.libvirt.listAllStoragePools():
            with contextlib.suppress(libvirt.libvirtError):
                if PREFIX in pool.name():
                    pool.destroy()
                    pool.undefine()


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(
        prefix="ramet-bench-", dir=os.environ.get("BENCH_DIR")
    ) as name:
        made = Bench(Path(name))
        Path(name).chmod(0o711)
        Store.create(made.store)
        words = ["-m", "cli", "--store", str(made.store), "serve", "--mount", str(made.mount)]
        with served(words, made.mount):
            try:
                made.make_base()
                yield made
            finally:
                made.undefine_all()
                made.libvirt.close()


def batches(made: Bench) -> None:
    ours: list[float] = []
    bare: list[float] = []
    for n in range(ROUNDS):
        start = time.perf_counter()
        made.clone(f"r{n}", f"r{n}-{{n:04d}}", COUNT)
        ours.append(COUNT / (time.perf_counter() - start))
        made.undefine_all()
        files = sorted((made.mount / PREFIX / f"r{n}").glob("*/domain.xml"))
        texts = [file.read_text() for file in files]
        start = time.perf_counter()
        for text in texts:
            made.libvirt.defineXML(text)
        bare.append(len(texts) / (time.perf_counter() - start))
        made.undefine_all()
        print(f"{COUNT} VMs cloned, customized, registered in one command: "
              f"{COUNT / ours[-1]:.2f} s; {len(texts)} bare defines: {len(texts) / bare[-1]:.2f} s",
              flush=True)  # fmt: skip
    ratio = statistics.median(ours) / statistics.median(bare)
    print(f"VMs a second against bare defines: {ratio:.2f} x (budget 0.5)")


def virt_clone(made: Bench, name: str, folder: Path, *extra: str) -> float:
    """Seconds; the base is a domain of its own with its disk in ``folder``."""
    base = f"{PREFIX}-{folder.name}-golden"
    if not (folder / "golden.raw").exists():
        (folder / "golden.raw").write_bytes((made.folder / "golden.raw").read_bytes())
        disk = folder / "golden.raw"
        made.libvirt.defineXML(XML.format(name=base, uuid=uuid.uuid4(), disk=disk))
    start = time.perf_counter()
    subprocess.run(
        ["virt-clone", "-q", "--connect", URI, "--original", base, "--name", f"{PREFIX}-{name}",
         "--file", str(folder / f"{name}.raw"), *extra],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - start


def singles(made: Bench) -> None:
    times: dict[str, list[float]] = {"ramet": [], "copy": [], "reflink": []}
    plain = made.folder / "plain"
    plain.mkdir()
    with file_system(made.folder, "xfs", XFS_BYTES, "-m", "reflink=1") as root:
        for n in range(SINGLES):
            start = time.perf_counter()
            made.clone("one", f"one-{n}", 1)
            times["ramet"].append(time.perf_counter() - start)
            times["copy"].append(virt_clone(made, f"copy-{n}", plain))
            times["reflink"].append(virt_clone(made, f"reflink-{n}", root, "--reflink"))
        made.undefine_all()
        for pool in ("plain", "xfs"):  # virt-clone has made them
            with contextlib.suppress(libvirt.libvirtError):
                found = made.libvirt.storagePoolLookupByName(pool)
                if str(made.folder) in found.XMLDesc():
                    found.destroy()
                    found.undefine()
    ours = statistics.median(times["ramet"])
    print(f"one VM with a disk of {DISK_BYTES >> 20} MiB, whole commands:")
    print(f"  ramet vm clone --register          {ours * 1e3:8.0f} ms")
    for name, label in (("copy", "virt-clone"), ("reflink", "virt-clone --reflink on XFS")):
        theirs = statistics.median(times[name])
        print(f"  {label:<34} {theirs * 1e3:8.0f} ms ({theirs / ours:.1f} x)", flush=True)


def main() -> None:
    try:
        libvirt.open(URI).close()
    except libvirt.libvirtError:
        print(f"VMs: no libvirtd at {URI}; start it (`virtlogd -d; libvirtd -d`)")
        return
    with bench() as made:
        batches(made)
        if shutil.which("virt-clone") is None:
            print("virt-clone is not here to compare with: apt-get install virtinst")
        else:
            singles(made)


if __name__ == "__main__":
    main()
