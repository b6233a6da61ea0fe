"""``make demo``: a golden image in, twenty registered thin clones out, three of them booted.

Everything is done with the public ``ramet`` command, and virsh's library to start guests.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "guest")]

import libvirtd  # noqa: E402
from guests import DidNotBoot, Guest  # noqa: E402

from bench.guest import build  # noqa: E402

RAMET = str(ROOT / ".venv" / "bin" / "ramet")
CLONES = 20
PROBE_S = 20
GOLDEN_XML = ROOT / "tests" / "guest" / "golden.xml"


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


class Demo:
    """A store in a folder of its own, which is gone at the end."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.store, self.mount = folder / "store", folder / "mnt"
        self.mount.mkdir()
        self.images = folder / "images"
        self.uri = uri
        self.libvirt = libvirt.open(uri)
        self.environment = {**os.environ, "RAMET_STORE": str(self.store)}

    def ramet(self, *words: object) -> None:
        """Run a command as a user would, and show it."""
        command = [str(word) for word in words]
        print(f"$ ramet {shlex.join(command)}", flush=True)
        subprocess.run([RAMET, *command], check=True, env=self.environment)

    def ask(self, *words: object) -> Any:
        """A command's JSON."""
        done = subprocess.run(
            [RAMET, "--json", *map(str, words)], check=True, env=self.environment,
            capture_output=True,
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])

    def guest(self, name: str) -> Guest:
        return Guest(self.libvirt, name, self.mount / "lab" / name / "console.log")

    def boot(self, *names: str) -> list[dict[str, str]]:
        return self.boot_all([self.guest(name) for name in names])

    @staticmethod
    def boot_all(guests: list[Guest]) -> list[dict[str, str]]:
        for guest in guests:
            guest.start()
        told = [guest.identity() for guest in guests]
        for guest in guests:
            guest.shut_down()
        return told

    def import_golden(self) -> None:
        say("A golden image goes in, as qcow2 and as raw: equal blocks are stored once")
        raw = build.build(self.images, ROOT / ".venv" / "guest-cache")
        qcow2 = self.images / "golden.qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(qcow2)], check=True)
        self.ramet("import", "--parents", qcow2, "lab:/golden/golden.raw")
        once = self.ask("df")["physical_bytes"]
        self.ramet("import", raw, "lab:/again.raw")
        print(f"second import: {self.ask('df')['physical_bytes'] - once} bytes more")

    def virt_type(self) -> str:
        """KVM if libvirt has it and a guest really runs with it, else TCG."""
        try:
            self.libvirt.getDomainCapabilities(None, None, None, "kvm")
        except libvirt.libvirtError:
            print("libvirt offers no KVM: the guests run under TCG")
            return "qemu"
        subprocess.run(
            [RAMET, "-q", "vm", "clone", "lab:/golden", "lab:/probe", "--register",
             "--virt-type", "kvm"],
            check=True, env=self.environment,
        )  # fmt: skip
        try:
            guest = self.guest("probe")
            guest.start()
            guest.identity(PROBE_S)
        except (DidNotBoot, libvirt.libvirtError) as error:
            print(f"KVM does not run a guest here ({error}): the guests run under TCG")
            return "qemu"
        finally:
            subprocess.run(
                [RAMET, "-q", "vm", "rm", "--force", "lab:/probe"], check=True,
                env=self.environment,
            )  # fmt: skip
        print("the guests run under KVM")
        return "kvm"

    def clone(self, virt_type: str) -> None:
        say(f"{CLONES} clones, each with its own identity, registered with libvirt")
        before = self.ask("df")
        self.ramet("vm", "ls")
        words = ["vm", "clone", "lab:/golden", "lab:/web-{n:03d}", "--count", CLONES, "--register"]
        print(f"$ ramet {shlex.join(map(str, words))}")
        start = time.monotonic()
        made = self.ask(*words, "--virt-type", virt_type)
        seconds = time.monotonic() - start
        after = self.ask("df")
        disk = self.ask("ls", "lab:/golden")[-1]
        print(
            f"clone, customize, register:    {seconds:.2f} s, {seconds / CLONES:.3f} s a VM\n"
            f"disk bytes copied:             {made['bytes_copied']}\n"
            f"logical size of the clones:    {mib(CLONES * disk['size_bytes'])}\n"
            f"data stored before and after:  {mib(before['physical_bytes'])}, "
            f"{mib(after['physical_bytes'])} (a seed image and a domain.xml each)\n"
            f"metadata before and after:     {mib(before['metadata_bytes'])}, "
            f"{mib(after['metadata_bytes'])}"
        )
        pool = self.libvirt.storagePoolLookupByName(made["pool"])
        print(f"libvirt knows {len(self.libvirt.listAllDomains())} domains; its pool "
              f"{pool.name()} shows {pool.numOfVolumes()} directories")  # fmt: skip

    def compare(self) -> None:
        golden = self.mount / "lab" / "golden" / "golden.raw"
        for n in range(1, CLONES + 1):
            clone = self.mount / "lab" / f"web-{n:03d}" / "golden.raw"
            subprocess.run(["cmp", str(golden), str(clone)], check=True)
        print(f"cmp: all {CLONES} disks equal the golden one")

    def show_identities(self) -> dict[str, str]:
        """That of the first."""
        say("Three of them boot and say who they are")
        told = self.boot("web-001", "web-002", "web-003")
        for guest in told:
            self.print_identity(guest)
        for key in told[0].keys() - {"boots"}:
            assert len({guest[key] for guest in told}) == len(told), key
        print("no two share a host name, machine-id, MAC, UUID, SSH host key or instance-id")
        return told[0]

    @staticmethod
    def print_identity(guest: dict[str, str]) -> None:
        print("  ".join(f"{key}={value}" for key, value in guest.items()))

    def clone_datastore(self, original: dict[str, str]) -> None:
        say("The whole datastore is cloned, and its VMs are others; one of them boots")
        before = self.ask("df")
        words = ["volume", "clone", "lab", "test", "--register", "--vm-name", "{vm}-{volume}"]
        print(f"$ ramet {shlex.join(words)}")
        start = time.monotonic()
        made = self.ask(*words)
        seconds = time.monotonic() - start
        after = self.ask("df")
        print(
            f"clone, customize, register:    {seconds:.2f} s, {len(made['vms'])} VMs\n"
            f"bytes copied:                  {made['bytes_copied']}\n"
            f"data stored before and after:  {mib(before['physical_bytes'])}, "
            f"{mib(after['physical_bytes'])}"
        )
        console = self.mount / "test" / "web-001" / "console.log"
        (told,) = self.boot_all([Guest(self.libvirt, "web-001-test", console)])
        self.print_identity(told)
        for key in told.keys() - {"boots"}:
            assert told[key] != original[key], key
        print("it has booted before, as web-001, and shares no identity with it")
        self.ramet("-q", "volume", "rm", "--force", "test")

    def delete_golden(self) -> None:
        say("The golden image goes; a clone still boots")
        self.ramet("vm", "rm", "lab:/golden")
        self.ramet("rm", "lab:/again.raw")
        self.ramet("gc")
        self.print_identity(self.boot("web-004")[0])

    def tear_down(self) -> None:
        for volume in self.ask("volume", "ls"):
            self.ask("volume", "rm", "--force", volume["name"])

    def run(self) -> None:
        say("A store, mounted, with a volume")
        self.ramet("init", self.store)
        self.ramet("mount", self.mount)
        try:
            self.ramet("volume", "create", "lab")
            self.import_golden()
            self.ramet("vm", "add", "lab:/golden", "--xml", GOLDEN_XML)
            self.clone(self.virt_type())
            self.compare()
            first = self.show_identities()
            self.clone_datastore(first)
            self.ramet("df")
            self.ramet("tree")
            self.delete_golden()
            say("Everything goes")
            self.ramet("fsck", "--data")
        finally:
            self.tear_down()
            self.ramet("umount")
            self.libvirt.close()


def mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new folder that QEMU's user may pass through."""
    with tempfile.TemporaryDirectory(prefix="ramet-demo-", dir="/var/tmp") as made:
        Path(made).chmod(0o711)
        yield Path(made)


if __name__ == "__main__":
    began = time.monotonic()
    with libvirtd.running() as found, folder() as place:
        Demo(place, found).run()
    print(f"\ndone in {time.monotonic() - began:.0f} s")
