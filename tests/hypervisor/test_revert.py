"""One VM put back as it was, by ``clone --replace``: off, in one step, and still itself."""

import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import pytest

from engine import Store
from hypervisor.machines import MARK, Machine, read_mark

if TYPE_CHECKING:
    from conftest import Lab

NOWHERE = "qemu+unix:///system?socket=/nonexistent/socket"
OLD = b"what the disk had at the snapshot"
NEW = b"what the guest has written since!"


@pytest.fixture
def name() -> str:
    """A domain's name that nobody else has on this libvirtd."""
    return f"revert-{uuid4().hex[:8]}"


def disk(lab: "Lab", name: str) -> Path:
    return lab.mount / "lab" / name / "golden.raw"


def write(lab: "Lab", name: str, text: bytes) -> None:
    with disk(lab, name).open("r+b") as file:
        file.write(text)
        os.fsync(file.fileno())


def vm_and_snapshot(lab: "Lab", name: str) -> None:
    """A registered VM, its neighbour, and a snapshot; both have changed since."""
    lab.ramet.run("vm", "clone", "lab:/golden", f"lab:/{name}", "--register")
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/other")
    for each in (name, "other"):
        write(lab, each, OLD)
    lab.ramet.run("snapshot", "create", "lab", "s")
    for each in (name, "other"):
        write(lab, each, NEW)
    (lab.mount / "lab" / name / "notes.txt").write_text("since the snapshot")


def shown(lab: "Lab", name: str) -> dict[str, object]:
    told = lab.ramet.json("vm", "show", f"lab:/{name}")
    return {key: told[key] for key in ("name", "uuid", "macs", "registered", "state")}


def revert(lab: "Lab", name: str, *more: str, code: int = 0) -> str:
    done = lab.ramet.run("clone", f"lab@s:/{name}", f"lab:/{name}", "--replace", *more, code=code)
    return done.stderr


def test_one_vm_goes_back_and_stays_itself(lab: "Lab", name: str) -> None:
    vm_and_snapshot(lab, name)
    before, xml = shown(lab, name), lab.libvirt.lookupByName(name).XMLDesc()
    disk(lab, name).read_bytes()  # and the kernel keeps it
    revert(lab, name)
    assert disk(lab, name).read_bytes() == OLD + lab.disk[len(OLD) :]
    assert sorted(os.listdir(lab.mount / "lab" / name)) == ["domain.xml", "golden.raw", "seed.iso"]
    assert shown(lab, name) == before
    assert lab.libvirt.lookupByName(name).XMLDesc() == xml
    assert disk(lab, "other").read_bytes()[: len(NEW)] == NEW
    domain = lab.libvirt.lookupByName(name)
    domain.create()  # libvirt takes it as it took the old one
    domain.destroy()
    assert lab.ramet.json("fsck", "--data")["clean"]


def test_a_vm_that_runs_is_not_touched(lab: "Lab", name: str) -> None:
    vm_and_snapshot(lab, name)
    domain = lab.libvirt.lookupByName(name)
    domain.create()
    for more in ((), ("--force",)):
        assert f"{name} is running; shut it down first" in revert(lab, name, *more, code=1)
    assert disk(lab, name).read_bytes()[: len(NEW)] == NEW
    domain.destroy()
    revert(lab, name)
    assert disk(lab, name).read_bytes()[: len(OLD)] == OLD


def test_a_snapshot_of_a_running_vm_leaves_no_host_labels(lab: "Lab", name: str) -> None:
    lab.ramet.run("vm", "clone", "lab:/golden", f"lab:/{name}", "--register")
    domain = lab.libvirt.lookupByName(name)
    domain.create()
    assert os.listxattr(disk(lab, name))
    lab.ramet.run("snapshot", "create", "lab", "s")
    domain.destroy()
    revert(lab, name)
    assert os.listxattr(disk(lab, name)) == []


def test_an_open_file_stops_it_unless_forced(lab: "Lab", name: str) -> None:
    vm_and_snapshot(lab, name)
    with disk(lab, name).open("rb") as file:
        assert "golden.raw is open" in revert(lab, name, code=1)
        revert(lab, name, "--force")
        assert file.read(len(NEW)) == NEW  # it has what it had opened
        assert disk(lab, name).read_bytes()[: len(OLD)] == OLD


def test_older_hardware_is_defined_again(lab: "Lab", name: str) -> None:
    vm_and_snapshot(lab, name)
    path = lab.mount / "lab" / name / "domain.xml"
    root = ET.fromstring(path.read_text())
    memory = root.find("memory")
    assert memory is not None
    old = int(memory.text or "0") << {"MiB": 20, "KiB": 10}[memory.get("unit", "KiB")]
    memory.text, memory.attrib["unit"] = str(old // 1024 * 2), "KiB"
    for current in root.findall("currentMemory"):
        root.remove(current)
    path.write_bytes(ET.tostring(root))
    lab.ramet.run("vm", "register", f"lab:/{name}")
    assert lab.libvirt.lookupByName(name).maxMemory() == old // 1024 * 2
    revert(lab, name)
    assert lab.libvirt.lookupByName(name).maxMemory() == old // 1024


def test_another_vm_cannot_take_the_place(lab: "Lab", name: str) -> None:
    vm_and_snapshot(lab, name)
    for source in ("lab:/other", "lab@s:/golden"):
        failed = lab.ramet.run("clone", source, f"lab:/{name}", "--replace", code=1)
        assert f"no earlier state of VM {name}" in failed.stderr
    assert disk(lab, name).read_bytes()[: len(NEW)] == NEW
    lab.ramet.run("vm", "unregister", f"lab:/{name}")
    lab.ramet.run("vm", "customize", f"lab:/{name}", "--name", f"{name}-b")
    assert "no earlier state" in revert(lab, name, code=1)


def test_a_state_with_another_vms_xml_is_refused_before_anything_changes(
    lab: "Lab", name: str
) -> None:
    vm_and_snapshot(lab, name)
    path = lab.mount / "lab" / name / "domain.xml"
    own = path.read_text()
    uuid = lab.ramet.json("vm", "show", f"lab:/{name}")["uuid"]
    other = lab.ramet.json("vm", "show", "lab:/golden")["uuid"]
    path.write_text(own.replace(uuid, other))
    lab.ramet.run("snapshot", "create", "lab", "mixed")
    path.write_text(own)
    failed = lab.ramet.run("clone", f"lab@mixed:/{name}", f"lab:/{name}", "--replace", code=1)
    assert other in failed.stderr
    assert path.read_text() == own


def test_without_an_answer_nobody_knows_that_it_is_off(lab: "Lab", name: str) -> None:
    vm_and_snapshot(lab, name)
    domain = lab.libvirt.lookupByName(name)
    xml = domain.XMLDesc()
    lost_its_host(lab, name)
    assert f"nobody knows whether {name} is off" in revert(lab, name, code=1)
    assert disk(lab, name).read_bytes()[: len(NEW)] == NEW
    revert(lab, name, "--force")
    assert disk(lab, name).read_bytes()[: len(OLD)] == OLD
    lab.ramet.run("vm", "unregister", f"lab:/{name}", "-c", lab.libvirt.getURI())
    lab.libvirt.defineXML(xml).undefine()


def lost_its_host(lab: "Lab", name: str) -> None:
    """The VM is registered at a hypervisor that does not answer."""
    lab.ramet.run("umount")
    with Store.open(lab.ramet.store) as store:
        volume = store.volume("lab")
        ino = volume.resolve(f"/{name}").ino
        payload = volume.get_mark(ino, MARK)
        assert payload is not None
        old = read_mark(payload)
        made = Machine(old.name, old.uuid, old.macs, NOWHERE)
        volume.set_mark(ino, MARK, msgspec.msgpack.encode(made))
    lab.ramet.run("mount", lab.mount)


def test_a_plain_directory_needs_no_hypervisor(lab: "Lab") -> None:
    plain = lab.mount / "lab" / "plain"
    (plain / "sub").mkdir(parents=True)
    (plain / "sub" / "a").write_bytes(b"old")
    lab.ramet.run("snapshot", "create", "lab", "s")
    (plain / "sub" / "a").write_bytes(b"newer")
    (plain / "b").touch()
    lab.ramet.run("clone", "lab@s:/plain", "lab:/plain", "--replace")
    assert (plain / "sub" / "a").read_bytes() == b"old"
    assert os.listdir(plain) == ["sub"]
    assert (
        "one target"
        in lab.ramet.run(
            "clone", "lab@s:/plain", "lab:/p-{n}", "--replace", "--count", 2, code=1
        ).stderr
    )
