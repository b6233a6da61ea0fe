"""The bytes at the slots that a map reports are the guest's, whoever made the domain."""

import json
import os
import random
import subprocess
import tempfile
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
import writer
from command import Ramet

BLOCK = 4096
BOOT_S = 240
Slots = dict[int, tuple[int, int]]


class Place:
    """A mounted store with one volume of a name that nobody else has, and domains of our own."""

    def __init__(self, root: Path, uri: str) -> None:
        self.ramet = Ramet(root / "store")
        self.root, self.uri = root, uri
        self.mount = root / "mnt"
        self.volume = "m" + uuid.uuid4().hex[:10]
        self.libvirt = libvirt.open(uri)
        self._domains: list[libvirt.virDomain] = []
        self._pools: list[libvirt.virStoragePool] = []
        self.mount.mkdir()
        self.ramet.run("init", self.ramet.store)
        self.ramet.run("mount", self.mount)
        self.ramet.run("volume", "create", self.volume)

    @property
    def lab(self) -> Path:
        return self.mount / self.volume

    def domain(self, disks: str, more: str = "", os_xml: str = "") -> "libvirt.virDomain":
        """A domain that Ramet has nothing to do with."""
        name = f"{self.volume}-{len(self._domains)}"
        made = self.libvirt.defineXML(f"""
            <domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory>
              <os><type arch='x86_64' machine='pc'>hvm</type>{os_xml}</os>
              <features><acpi/></features>
              <devices>{disks}{more}</devices></domain>""")
        self._domains.append(made)
        return made

    def pool(self, path: Path) -> str:
        name = f"{self.volume}-pool"
        made = self.libvirt.storagePoolDefineXML(
            f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
        )
        made.create()
        self._pools.append(made)
        return name

    def map(self, domain: "libvirt.virDomain", *more: str) -> dict[str, Any]:
        return self.ramet.json("vm", "map", "--domain", domain.name(), "-c", self.uri, *more)

    def close(self) -> None:
        for domain in self._domains:
            if domain.isActive():
                domain.destroy()
            domain.undefine()
        for pool in self._pools:
            pool.destroy()
            pool.undefine()
        for vm in self.ramet.json("vm", "ls"):
            self.ramet.run("vm", "rm", "--force", vm["address"])
        self.ramet.run("umount")
        self.libvirt.close()


@pytest.fixture
def place(uri: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="ramet-map-", dir="/var/tmp") as name:
        Path(name).chmod(0o711)  # QEMU runs as a user of its own
        made = Place(Path(name), uri)
        try:
            yield made
        finally:
            made.close()


def disk(path: object, target: str = "vda", form: str = "raw") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{form}'/>"
        f"<source file='{path}'/><target dev='{target}' bus='virtio'/></disk>"
    )


def bytes_at(told: dict[str, Any], row: dict[str, Any], block: int) -> bytes:
    """A block as it lies in a slab, by what the map says; straight from the slab's file."""
    for each in row["extents"]:
        inside = block * BLOCK - each["offset_bytes"]
        if 0 <= inside < each["length_bytes"]:
            if each["hole"]:
                return bytes(BLOCK)
            with open(told["slab_files"] % each["slab"], "rb") as slab:
                slab.seek(each["slot"] * told["slot_bytes"] + inside)
                return slab.read(BLOCK)
    raise AssertionError(f"block {block} is in no extent")


def check_sums(row: dict[str, Any]) -> None:
    """The extents cover the file, in order, and add up to the sums."""
    at = 0
    for each in row["extents"]:
        assert each["offset_bytes"] == at
        at += each["length_bytes"]
    assert row["size_bytes"] <= at < row["size_bytes"] + BLOCK
    mapped = [each for each in row["extents"] if not each["hole"]]
    assert row["extent_count"] == len(mapped)
    assert row["mapped_bytes"] == sum(each["length_bytes"] for each in mapped)
    assert row["shared_bytes"] == sum(each["length_bytes"] for each in mapped if each["shared"])


def wait_for(what: Callable[[], bool], deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_the_slots_hold_what_a_guest_wrote(place: Place) -> None:
    golden = os.urandom(4 << 20)
    (place.root / "golden.raw").write_bytes(golden)
    place.ramet.run("import", place.root / "golden.raw", f"{place.volume}:/golden.raw")
    place.ramet.run("clone", f"{place.volume}:/golden.raw", f"{place.volume}:/disk.raw")
    chosen = random.Random(place.volume).sample(range(1024), 40)
    pattern = os.urandom(BLOCK * len(chosen))
    kernel, initrd = writer.make(place.root, Path(".venv/guest-cache"), pattern, chosen)
    console = place.root / "console.log"
    guest = place.domain(
        disk(place.lab / "disk.raw"),
        f"<serial type='file'><source path='{console}'/><target port='0'/></serial>",
        f"<kernel>{kernel}</kernel><initrd>{initrd}</initrd>"
        "<cmdline>console=ttyS0 quiet panic=10</cmdline>",
    )
    guest.create()
    said = f"{writer.WORD} {len(chosen)}".encode()
    wait_for(lambda: console.exists() and said in console.read_bytes(), BOOT_S)

    told = place.map(guest)
    assert (told["state"], told["name"]) == ("running", guest.name())
    (row,) = told["images"]
    assert (row["target"], row["via"]) == ("vda", "mount")
    assert row["file"] == f"{place.volume}:/disk.raw"
    check_sums(row)
    for n, block in enumerate(chosen):
        assert bytes_at(told, row, block) == pattern[n * BLOCK : (n + 1) * BLOCK]
    for block in range(1024):
        if block not in chosen:
            assert bytes_at(told, row, block) == golden[block * BLOCK : (block + 1) * BLOCK]
    assert row["mapped_bytes"] - row["shared_bytes"] == BLOCK * len(chosen)
    assert place.map(guest, "--exact")["images"][0]["unique_bytes"] == BLOCK * len(chosen)


def test_a_vm_of_ours_is_followed_registered_or_not(place: Place) -> None:
    (place.root / "golden.raw").write_bytes(os.urandom(1 << 20))
    where = f"{place.volume}:/{place.volume}-vm"
    place.ramet.run("import", "-p", place.root / "golden.raw", f"{where}/golden.raw")
    xml = place.root / "golden.xml"
    base = Path(__file__).parents[1] / "guest" / "golden.xml"
    xml.write_text(base.read_text().replace(">golden<", f">{place.volume}-vm<"))
    place.ramet.run("vm", "add", where, "--xml", xml)
    unknown = place.ramet.json("vm", "map", where)
    place.ramet.run("vm", "register", where, "-c", place.uri)
    known = place.ramet.json("vm", "map", where)
    assert (unknown["state"], known["state"]) == ("not registered", "shut off")
    assert (unknown["images"][0]["via"], known["images"][0]["via"]) == ("volume", "mount")
    for told in (unknown, known):
        assert told["address"] == where
        assert [row["file"] for row in told["images"]] == [f"{where}/golden.raw"]
        check_sums(told["images"][0])
    assert unknown["images"][0]["extents"] == known["images"][0]["extents"]
    place.ramet.run("umount")
    away = place.ramet.json("vm", "map", where)
    assert away["images"][0]["file"] is None
    assert "not mounted" in away["images"][0]["note"]
    place.ramet.run("mount", place.mount)


def test_every_kind_of_disk_is_followed_or_told_why_not(place: Place) -> None:
    for name in ("a.raw", "b.raw"):
        (place.lab / name).write_bytes(os.urandom(3 * BLOCK))
    (place.lab / "vms").mkdir()
    (place.lab / "vms" / "c.raw").write_bytes(os.urandom(2 * BLOCK))
    place.ramet.run("snapshot", "create", place.volume, "monday")
    outside = place.root / "outside.raw"
    outside.write_bytes(b"x" * BLOCK)
    (place.root / "link.raw").symlink_to(place.lab / "a.raw")
    pool = place.pool(place.lab / "vms")
    iqn = "iqn.2025-01.org.example:elsewhere"
    told = place.map(place.domain("".join([
        disk(place.lab / "a.raw", "vda"), disk(place.root / "link.raw", "vdb"),
        disk(f"{place.mount}/{place.volume}/.snapshots/monday/b.raw", "vdc"),
        f"<disk type='volume' device='disk'><source pool='{pool}' volume='c.raw'/>"
        "<target dev='vdd' bus='virtio'/></disk>",
        disk(outside, "vde"), disk(place.lab / "missing.raw", "vdf"),
        "<disk type='block' device='disk'><source dev='/dev/zero'/>"
        "<target dev='vdg' bus='virtio'/></disk>",
        f"<disk type='network' device='disk'><source protocol='iscsi' name='{iqn}/3'>"
        "<host name='127.0.0.1'/></source><target dev='vdh' bus='virtio'/></disk>",
        "<disk type='network' device='disk'><source protocol='nfs' name='/export/d.raw'>"
        "<host name='10.0.0.9'/></source><target dev='vdi' bus='virtio'/></disk>",
        "<disk type='network' device='disk'><source protocol='rbd' name='pool/image'>"
        "<host name='10.0.0.9'/></source><target dev='vdj' bus='virtio'/></disk>",
        f"<disk type='block' device='disk'><source dev='/dev/disk/by-path/ip-10.0.0.9:3260-iscsi-"
        f"{iqn}-lun-7'/><target dev='vdk' bus='virtio'/></disk>",
        "<disk type='volume' device='disk'><source pool='nowhere' volume='x'/>"
        "<target dev='vdl' bus='virtio'/></disk>",
        "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>",
    ])))  # fmt: skip
    rows = {row["target"]: row for row in told["images"]}
    v = place.volume
    assert {name: row["file"] for name, row in rows.items() if row["file"]} == {
        "vda": f"{v}:/a.raw", "vdb": f"{v}:/a.raw", "vdc": f"{v}@monday:/b.raw",
        "vdd": f"{v}:/vms/c.raw",
    }  # fmt: skip
    for name, row in rows.items():
        assert (row["note"] is None) == (row["file"] is not None), name
        assert (row["extents"] == []) == (row["file"] is None), name
        if row["file"]:
            check_sums(row)
    assert rows["vdd"]["via"] == f"pool {pool}"
    assert "not in the store" in rows["vde"]["note"]
    assert "not there" in rows["vdf"]["note"]
    assert "device of the host" in rows["vdg"]["note"]
    assert "LUN 3" in rows["vdh"]["note"]
    assert "NFS export" in rows["vdi"]["note"]
    assert rows["vdi"]["source"] == "nfs://10.0.0.9/export/d.raw"
    assert "rbd" in rows["vdj"]["note"]
    assert "LUN 7" in rows["vdk"]["note"]
    assert "nowhere" in rows["vdl"]["source"]
    assert "empty" in rows["hdc"]["note"]


def qcow2(path: Path, *more: object) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *map(str, more[:-1]), path,
                    str(more[-1])], check=True)  # fmt: skip


def test_backing_chains_are_followed_down_and_out_of_the_store(place: Place) -> None:
    outside = place.root / "outside.raw"
    outside.write_bytes(os.urandom(16 * BLOCK))
    (place.lab / "sub").mkdir()
    bottom, middle, top = (
        place.lab / "bottom.qcow2",
        place.lab / "middle.qcow2",
        (place.lab / "sub" / "top.qcow2"),
    )
    qcow2(bottom, "-b", outside, "-F", "raw", 64 << 10)
    qcow2(middle, "-b", "bottom.qcow2", "-F", "qcow2", 64 << 10)
    qcow2(top, "-b", "../middle.qcow2", "-F", "qcow2", 64 << 10)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 8k 4k", "-c", "flush", top],
        check=True, capture_output=True,
    )  # fmt: skip
    domain = place.domain(disk(top, "vda", "qcow2"))
    told = place.map(domain)
    v = place.volume
    assert [(row["target"], row["level"], row["file"]) for row in told["images"]] == [
        ("vda", 0, f"{v}:/sub/top.qcow2"), ("vda", 1, f"{v}:/middle.qcow2"),
        ("vda", 2, f"{v}:/bottom.qcow2"), ("vda", 3, None),
    ]  # fmt: skip
    assert told["images"][3]["source"] == str(outside)
    row = told["images"][0]
    there = [bytes_at(told, row, block) for block in range(row["size_bytes"] // BLOCK)]
    assert b"\x5a" * BLOCK in there

    as_raw = place.map(place.domain(disk(top, "vda", "raw")))
    assert len(as_raw["images"]) == 1  # what a raw image's first bytes say is its guest's business

    guest = ET.fromstring(domain.XMLDesc())
    assert guest.find("devices/disk/backingStore") is None
    domain.create()  # now libvirt tells the chain
    live = ET.fromstring(domain.XMLDesc())
    assert live.find("devices/disk/backingStore/backingStore") is not None
    running = place.map(domain)
    assert [row["file"] for row in running["images"] if row["target"] == "vda"] == [
        row["file"] for row in told["images"] if row["target"] == "vda"
    ]


def test_a_chain_that_turns_round_ends(place: Place) -> None:
    one = place.lab / "one.qcow2"
    qcow2(one, 64 << 10)
    subprocess.run(["qemu-img", "rebase", "-u", "-b", "one.qcow2", "-F", "qcow2", one], check=True)
    told = place.map(place.domain(disk(one, "vda", "qcow2")))
    assert [row["level"] for row in told["images"]] == list(range(65))


def test_a_volume_tells_its_files_and_who_uses_them(place: Place) -> None:
    (place.lab / "vms").mkdir()
    (place.lab / "vms" / "disk.raw").write_bytes(os.urandom(5 * BLOCK))
    domain = place.domain(disk(place.lab / "vms" / "disk.raw"))
    place.ramet.run("host", "add", place.uri, "--name", "here")
    told = place.ramet.json("volume", "map", place.volume, "--hosts", "--extents")
    assert told["mounted"] == str(place.lab)
    (row,) = told["files"]
    assert (row["file"], row["vm"]) == (f"{place.volume}:/vms/disk.raw", None)
    check_sums(row)
    assert told["domains"] == [{
        "host": "here", "domain": domain.name(), "state": "shut off", "target": "vda",
        "file": f"{place.volume}:/vms/disk.raw",
    }]  # fmt: skip
    assert told["not_answered"] == []
    place.ramet.run("host", "rm", "here")


def test_who_cannot_be_asked_is_said(place: Place) -> None:
    missing = place.ramet.run("vm", "map", "--domain", "nobody", "-c", place.uri, code=12)
    assert "nobody" in missing.stderr
    nowhere = "qemu+unix:///system?socket=/nonexistent/socket"
    lost = place.ramet.run("vm", "map", "--domain", "x", "-c", nowhere, code=1)
    assert "cannot reach" in lost.stderr
    place.ramet.run("vm", "map", code=2)
    place.ramet.run("vm", "map", f"{place.volume}:/", "--domain", "x", code=2)
    place.ramet.run("volume", "map", place.volume, f"--connect={place.uri}", code=2)
    assert json.loads(place.ramet.run("volume", "map", place.volume).stdout)["files"] == []
