"""A whole datastore with its VMs: cloned, customized, registered; by one command or by steps."""

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from guests import Guest

if TYPE_CHECKING:
    from conftest import Lab


class Datastore:
    """Names for one test: the volume ``lab`` with a registered VM, and clones of the volume."""

    def __init__(self, lab: "Lab") -> None:
        self.lab = lab
        tag = uuid4().hex[:6]
        self.vm, self.clone, self.again = f"ds{tag}", f"c{tag}", f"d{tag}"
        lab.ramet.run("vm", "clone", "lab:/golden", f"lab:/{self.vm}", "--register")

    def disk(self, volume: str) -> Path:
        return self.lab.mount / volume / self.vm / "golden.raw"

    def shown(self, volume: str) -> dict[str, Any]:
        told: dict[str, Any] = self.lab.ramet.json("vm", "show", f"{volume}:/{self.vm}")
        return told

    def vms(self, volume: str) -> dict[str, dict[str, Any]]:
        return {vm["address"]: vm for vm in self.lab.ramet.json("vm", "ls", volume)}

    def domain_disk(self, name: str) -> str:
        source = ET.fromstring(self.lab.libvirt.lookupByName(name).XMLDesc()).find(
            "devices/disk/source"
        )
        assert source is not None
        return source.attrib["file"]


@pytest.fixture
def store(lab: "Lab") -> Iterator[Datastore]:
    made = Datastore(lab)
    yield made
    for volume in lab.ramet.json("volume", "ls"):
        if volume["name"] != "lab":
            lab.ramet.run("volume", "rm", "--force", volume["name"])
    lab.ramet.run("vm", "rm", "--force", f"lab:/{made.vm}")
    assert lab.domains() == []


def test_one_command_makes_vms_of_their_own_of_all_in_it(store: Datastore) -> None:
    lab, before = store.lab, store.shown("lab")
    slots = lab.ramet.json("df")["physical_bytes"]
    made = lab.ramet.json("volume", "clone", "lab", store.clone, "--register")
    assert made["bytes_copied"] == 0
    names = [f"golden-{store.clone}", f"{store.vm}-{store.clone}"]
    assert sorted(vm["name"] for vm in made["vms"]) == sorted(names)
    assert set(names) <= set(lab.domains())
    clone = store.shown(store.clone)
    assert clone["state"] == "shut off"
    assert not clone["copy"]
    assert clone["uuid"] != before["uuid"]
    assert not set(clone["macs"]) & set(before["macs"])
    assert store.domain_disk(clone["name"]) == str(store.disk(store.clone))
    assert store.domain_disk(store.vm) == str(store.disk("lab"))  # the original's domain is its own
    assert store.disk(store.clone).read_bytes() == lab.disk
    pool = lab.libvirt.storagePoolLookupByName(f"ramet-{store.clone}")
    assert store.vm in pool.listVolumes()
    seeds = 2 * 60 * 4096
    assert lab.ramet.json("df")["physical_bytes"] - slots < seeds
    assert store.shown("lab") == before

    # a clone of the clone, from a snapshot; its VMs are others again
    lab.ramet.run("snapshot", "create", store.clone, "s")
    lab.ramet.run("volume", "clone", f"{store.clone}@s", store.again, "--register",
                  "--vm-name", "{volume}-{vm}")  # fmt: skip
    third = store.shown(store.again)
    assert third["name"] == f"{store.again}-{store.vm}-{store.clone}"
    assert len({before["uuid"], clone["uuid"], third["uuid"]}) == 3
    assert lab.ramet.json("fsck", "--data")["clean"]


def test_many_clones_take_the_number_into_their_names(store: Datastore) -> None:
    lab = store.lab
    made = lab.ramet.json("volume", "clone", "lab", store.clone + "-{n:02d}", "--count", 3,
                          "--start", 7, "--register", "--vm-name", "{vm}-{n:02d}-x")  # fmt: skip
    found = {vm["name"] for vm in made["vms"]}
    assert found == {f"{vm}-{n:02d}-x" for vm in ("golden", store.vm) for n in (7, 8, 9)}
    assert found <= set(lab.domains())
    clash = lab.ramet.run("volume", "clone", "lab", store.again + "-{n}", "--count", 2,
                          "--register", "--vm-name", "{vm}-same", code=1)  # fmt: skip
    assert "would have the same name" in clash.stderr
    assert not any(v["name"].startswith(store.again) for v in lab.ramet.json("volume", "ls"))


def test_a_plain_clone_has_copies_and_the_steps_follow(store: Datastore) -> None:
    lab = store.lab
    before, xml = store.shown("lab"), lab.libvirt.lookupByName(store.vm).XMLDesc()
    lab.ramet.run("volume", "clone", "lab", store.clone)
    copy = store.shown(store.clone)
    assert (copy["copy"], copy["registered"], copy["state"]) == (True, None, "not registered")
    address = f"{store.clone}:/{store.vm}"
    for words in (("register", address), ("register", f"{store.clone}:", "--all"),
                  ("unregister", address, "-c", lab.libvirt.getURI())):  # fmt: skip
        refused = lab.ramet.run("vm", *words, code=1)
        assert "identity of the VM it was cloned from" in refused.stderr
    lab.ramet.run("vm", "unregister", f"{store.clone}:", "--all")
    assert lab.libvirt.lookupByName(store.vm).XMLDesc() == xml

    told = lab.ramet.json("vm", "customize", f"{store.clone}:", "--all", "--vm-name",
                          "{vm}-" + store.clone)["vms"]  # fmt: skip
    assert [vm["copy"] for vm in told] == [False, False]
    again = lab.ramet.json("vm", "customize", f"{store.clone}:/", "--all")
    assert again["vms"] == []  # all have theirs
    told = lab.ramet.json("vm", "register", f"{store.clone}:", "--all")["vms"]
    assert {vm["name"] for vm in told} <= set(lab.domains())
    told = lab.ramet.json("vm", "unregister", f"{store.clone}:", "--all")["vms"]
    assert len(told) == 2
    assert lab.domains() == [store.vm]
    assert f"ramet-{store.clone}" not in lab.pools()
    assert store.shown("lab") == before


def test_removing_a_copy_leaves_the_original_alone(store: Datastore) -> None:
    lab = store.lab
    xml = lab.libvirt.lookupByName(store.vm).XMLDesc()
    lab.ramet.run("volume", "clone", "lab", store.clone)
    lab.ramet.run("vm", "rm", "--force", f"{store.clone}:/{store.vm}")
    lab.ramet.run("volume", "rm", store.clone)  # its other copy is no reason against it
    assert lab.libvirt.lookupByName(store.vm).XMLDesc() == xml
    assert store.disk("lab").read_bytes() == lab.disk


def test_a_volume_with_registered_vms_is_not_removed_unless_forced(store: Datastore) -> None:
    lab = store.lab
    lab.ramet.run("volume", "clone", "lab", store.clone, "--register")
    for more in ((), ("--dry-run",)):
        refused = lab.ramet.run("volume", "rm", store.clone, *more, code=1)
        assert "2 VMs" in refused.stderr
        assert "--force" in refused.stderr
    name = store.shown(store.clone)["name"]
    lab.libvirt.lookupByName(name).create()
    assert "running" in lab.ramet.run("vm", "unregister", f"{store.clone}:", "--all", code=1).stderr
    assert name in lab.domains()
    told = lab.ramet.json("volume", "rm", "--dry-run", "--force", store.clone)
    assert sorted(told["unregistered"]) == sorted([name, f"golden-{store.clone}"])
    lab.ramet.run("volume", "rm", "--force", store.clone)
    assert lab.domains() == [store.vm]
    assert f"ramet-{store.clone}" not in lab.pools()
    assert store.clone not in os.listdir(lab.mount)
    assert lab.ramet.json("fsck", "--data")["clean"]


def test_what_fails_half_way_is_undone(store: Datastore) -> None:
    """A domain of that name is there; a domain that libvirt refuses; a template that is none."""
    lab = store.lab
    before = [lab.domains(), lab.pools(), lab.ramet.json("volume", "ls")]
    taken = lab.ramet.run("volume", "clone", "lab", store.clone, "--register", "--vm-name",
                          "{vm}", code=13)  # fmt: skip
    assert f"has a domain '{store.vm}'" in taken.stderr
    xml = store.disk("lab").with_name("domain.xml")
    text = xml.read_text()
    xml.write_text(text.replace("MiB", "bogus").replace("KiB", "bogus"))
    refused = lab.ramet.run("volume", "clone", "lab", store.clone, "--register", code=1)
    assert "bogus" in refused.stderr
    xml.write_text(text)
    (lab.root / "ud").write_text("#cloud-config\nhostname: {{ nobody }}\n")
    wrong = lab.ramet.run("volume", "clone", "lab", store.clone, "--customize", "--user-data",
                          lab.root / "ud", code=1)  # fmt: skip
    assert "nobody" in wrong.stderr
    assert [lab.domains(), lab.pools(), lab.ramet.json("volume", "ls")] == before
    job = lab.ramet.json("job", "ls")[-1]
    assert (job["command"], job["state"]) == ("volume clone", "failed")
    assert lab.ramet.json("fsck", "--data")["clean"]


def test_customizing_all_is_all_or_none(store: Datastore) -> None:
    lab = store.lab
    lab.ramet.run("volume", "clone", "lab", store.clone)
    first, second = (lab.mount / store.clone / each for each in (store.vm, "golden"))  # by path
    (second / "domain.xml").write_text("<domain")
    before = store.vms(store.clone), (first / "domain.xml").read_bytes(), sorted(os.listdir(first))
    lab.ramet.run("vm", "customize", f"{store.clone}:", "--all", code=1)
    after = store.vms(store.clone), (first / "domain.xml").read_bytes(), sorted(os.listdir(first))
    assert after == before
    assert all(vm["copy"] for vm in after[0].values())


def test_an_empty_volume_needs_no_hypervisor(store: Datastore) -> None:
    lab = store.lab
    lab.ramet.run("volume", "create", store.clone)
    nowhere = "qemu+unix:///system?socket=/nonexistent/socket"
    made = lab.ramet.json("volume", "clone", store.clone, store.again, "--register", "-c", nowhere)
    assert made["vms"] == []


def test_a_guest_of_a_cloned_datastore_is_itself(store: Datastore, golden: Path) -> None:
    lab = store.lab
    lab.ramet.run("rm", "lab:/golden/golden.raw")
    lab.ramet.run("import", golden, "lab:/golden/golden.raw")
    made = lab.ramet.json("volume", "clone", "lab", store.clone, "--register")
    told = next(vm for vm in made["vms"] if vm["name"] == f"golden-{store.clone}")
    console = lab.mount / store.clone / "golden" / "console.log"
    guest = Guest(lab.libvirt, told["name"], console)
    guest.start()
    said = guest.identity()
    guest.shut_down()
    assert (said["uuid"], said["mac"]) == (told["uuid"], told["macs"][0])
    assert said["hostname"] == told["name"]
