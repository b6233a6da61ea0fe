"""Customizing by file and by the hypervisor's interface: the same VM comes out of both."""

import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from libvirt_door import Door

from engine import errors
from hypervisor import domain
from hypervisor.capabilities import read_domain
from hypervisor.driver import MockDriver, QemuDriver, connect

if TYPE_CHECKING:
    from conftest import Lab

HARDWARE = ("--memory", "256M", "--vcpus", "2", "--disk-size", "2M")
SIZES = ("memory", "currentMemory", "vcpu")


def defined(lab: "Lab", name: str) -> ET.Element:
    return domain.parse(lab.libvirt.lookupByName(name).XMLDesc(2).encode())


def canonical(root: ET.Element, name: str) -> str:
    """Without what is random, or libvirt's to fill in: device addresses, and the controllers and
    ports that they need (an XML that comes from libvirt has them, one from a file gets them anew).
    """
    for path in ("uuid", "genid", "sysinfo/system/entry[@name='uuid']", "devices/disk/serial"):
        for element in root.iterfind(path):
            assert element.text
            element.text = "random"
    for mac in root.iterfind("devices/interface/mac"):
        mac.set("address", "random")
    devices = root.find("devices")
    assert devices is not None
    for controller in devices.findall("controller"):
        devices.remove(controller)
    for parent in root.iter():
        for address in parent.findall("address"):
            parent.remove(address)
    text = ET.canonicalize(domain.serialize(root).decode(), strip_text=True)
    return text.replace(f"vms-{name}", "NAME").replace(f"copy-{name}", "DIRECTORY")


def test_file_and_api_give_the_same_vm(lab: "Lab") -> None:
    copies = ("copy-file", "copy-api", "copy-own")
    for name in copies:
        lab.ramet.run("clone", "lab:/golden", f"lab:/{name}")
    lab.ramet.run("vm", "register", "lab:/golden")
    base = defined(lab, "golden")
    lab.ramet.run("vm", "customize", "lab:/copy-file", "--name", "vms-file", *HARDWARE)
    lab.ramet.run("vm", "register", "lab:/copy-file")
    api = lab.ramet.json("vm", "customize", "lab:/copy-api", "--name", "vms-api", "--via", "api",
                         *HARDWARE)  # fmt: skip
    assert api["registered"] == lab.uri

    # a VM that is registered is asked for, and becomes another domain
    first = lab.ramet.json("vm", "customize", "lab:/copy-own", "--name", "vms-first")
    lab.ramet.run("vm", "register", "lab:/copy-own")
    lab.ramet.run("vm", "customize", "lab:/copy-own", "--name", "no", code=1)
    own = lab.ramet.json("vm", "customize", "lab:/copy-own", "--name", "vms-own", "--via", "api",
                         *HARDWARE)  # fmt: skip
    assert own["uuid"] != first["uuid"]
    assert lab.domains() == ["golden", "vms-api", "vms-file", "vms-own"]

    by_file = canonical(defined(lab, "vms-file"), "file")
    assert by_file == canonical(defined(lab, "vms-api"), "api")
    assert by_file == canonical(defined(lab, "vms-own"), "own").replace(
        f'of="vms-first" of-uuid="{first["uuid"]}"',
        f'of="golden" of-uuid="{base.findtext("uuid")}"',
    )
    assert [defined(lab, "vms-own").findtext(tag) for tag in SIZES] == ["262144", "262144", "2"]
    for name in copies:
        assert (lab.mount / "lab" / name / "golden.raw").stat().st_size == 2 << 20
        stored = lab.ramet.json("vm", "show", f"lab:/{name}")
        assert stored["uuid"] == defined(lab, stored["name"]).findtext("uuid")
        assert stored["uuid"] in stored["xml"]
    assert ET.canonicalize(ET.tostring(base)) == ET.canonicalize(
        ET.tostring(defined(lab, "golden"))
    )


def test_a_clone_can_start_from_what_the_hypervisor_has(lab: "Lab") -> None:
    lab.ramet.run("vm", "register", "lab:/golden")
    changed = lab.libvirt.lookupByName("golden").XMLDesc().replace("'network'", "'none'")
    changed = changed.replace("</name>", "</name><description>by virsh edit</description>")
    lab.libvirt.defineXML(changed)
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/vms-a", "--register")
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/vms-b", "--register", "--via", "api")
    assert defined(lab, "vms-a").findtext("description") is None
    assert defined(lab, "vms-b").findtext("description") == "by virsh edit"
    lab.ramet.run("vm", "unregister", "lab:/golden")
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/vms-c", "--via", "api", code=12)
    assert lab.names() == ["golden", "vms-a", "vms-b"]


def test_what_the_hypervisor_refuses_leaves_the_vm_as_it_was(lab: "Lab") -> None:
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/vms-a", "--register")
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/vms-b", "--register")
    before = lab.ramet.json("vm", "show", "lab:/vms-a")
    files = {p.name: p.read_bytes() for p in (lab.mount / "lab/vms-a").iterdir()}
    domains = lab.domains()
    for name in ("vms-b", "bad name"):  # taken; none
        lab.ramet.run("vm", "customize", "lab:/vms-a", "--name", name, "--via", "api", code=1)
    assert lab.ramet.json("vm", "show", "lab:/vms-a") == before
    assert {p.name: p.read_bytes() for p in (lab.mount / "lab/vms-a").iterdir()} == files
    assert lab.domains() == domains

    (lab.mount / "lab/vms-c").mkdir()
    lab.ramet.run("clone", "lab:/vms-a/golden.raw", "lab:/vms-c/golden.raw")
    lab.libvirt.lookupByName("vms-a").create()
    failed = lab.ramet.run("vm", "customize", "lab:/vms-a", "--name", "x", "--via", "api", code=1)
    assert "running" in failed.stderr


def test_vms_are_powered_on_or_told(lab: "Lab") -> None:
    made = lab.ramet.json("vm", "clone", "lab:/golden", "lab:/vms-{n}", "--count", 2, "--power-on")
    for vm in made["vms"]:
        assert vm["registered"] == lab.uri
        assert lab.ramet.json("vm", "show", vm["address"])["state"] == "running"

    xml = lab.mount / "lab/golden/domain.xml"  # libvirt defines it, and cannot start it
    kernel = "<kernel>/nonexistent</kernel></os>"
    xml.write_text(xml.read_text().replace("</os>", kernel))
    failed = lab.ramet.run("vm", "clone", "lab:/golden", "lab:/vms-bad", "--power-on", code=3)
    assert "vms-bad" in failed.stderr
    assert lab.ramet.json("vm", "show", "lab:/vms-bad")["state"] == "shut off"


def test_a_running_base_is_cloned_at_one_instant(lab: "Lab") -> None:
    lab.ramet.run("vm", "register", "lab:/golden")
    assert clone(lab, "vms-off")["consistency"] == "off"
    lab.libvirt.lookupByName("golden").create()
    assert clone(lab, "vms-on")["consistency"] == "crash"
    assert (lab.mount / "lab/vms-on/golden.raw").read_bytes() == lab.disk
    failed = lab.ramet.run("vm", "clone", "lab:/golden", "lab:/vms-no", "--quiesce", code=1)
    assert "qemu-guest-agent" in failed.stderr
    lab.ramet.run("vm", "clone", "lab:/vms-on", "lab:/vms-no", "--quiesce", code=1)
    assert "vms-no" not in lab.names()
    assert lab.ramet.json("snapshot", "ls", "lab") == []


def clone(lab: "Lab", name: str) -> dict[str, object]:
    return lab.ramet.json("vm", "clone", "lab:/golden", f"lab:/{name}")


def test_removing_a_vm_removes_its_managed_save(lab: "Lab") -> None:
    vm = lab.ramet.json("vm", "clone", "lab:/golden", "lab:/vms-saved", "--power-on")["vms"][0]
    domain_ = lab.libvirt.lookupByUUIDString(vm["uuid"])
    domain_.managedSave()
    save = Path("/var/lib/libvirt/qemu/save/vms-saved.save")
    assert save.exists()
    assert lab.ramet.json("vm", "rm", vm["address"], "--dry-run")["dry_run"]
    assert save.exists()
    lab.ramet.run("vm", "rm", vm["address"])
    assert (lab.domains(), lab.names(), save.exists()) == ([], ["golden"], False)


def test_removing_a_vm_removes_all_of_it(lab: "Lab", tmp_path: Path) -> None:
    xml = lab.mount / "lab/golden/domain.xml"
    nvram = "<loader readonly='yes' type='pflash'>{0}</loader><nvram template='{0}'/></os>"
    firmware = tmp_path.parent / "code.fd"
    firmware.write_bytes(b"\0" * 4096)
    xml.write_text(xml.read_text().replace("</os>", nvram.format(firmware)))
    files = sum(len(names) for _, _, names in os.walk(lab.mount))
    made = lab.ramet.json("vm", "clone", "lab:/golden", "lab:/vms-{n}", "--count", 3, "--register")
    kept = [Path(defined(lab, vm["name"]).findtext("os/nvram") or "") for vm in made["vms"]]
    assert len(set(kept)) == 3
    for each in kept:
        each.write_bytes(b"x")  # as the first start does
    assert len(lab.domains()) == 3
    assert len(lab.pools()) == 1
    for vm in made["vms"]:
        lab.ramet.run("vm", "rm", vm["address"])
        assert (lab.pools() == []) == (vm is made["vms"][-1])
    assert (lab.domains(), lab.names()) == ([], ["golden"])
    assert sum(len(names) for _, _, names in os.walk(lab.mount)) == files
    assert not [path for path in kept if path.exists()]


def test_any_hypervisor_of_libvirt_answers_the_same_questions(uri: str) -> None:
    qemu, mock = connect(uri), connect("test:///default")
    assert (type(qemu), type(mock)) == (QemuDriver, MockDriver)
    told = qemu.capabilities()
    assert "qemu" in told.domain_types["x86_64"]
    assert {"dir", "netfs"} <= (told.pool_types or set())
    assert told.iscsi == ("iscsi-direct" in subprocess.run(
        ["virsh", "-c", uri, "pool-capabilities"], capture_output=True, text=True, check=True,
    ).stdout.replace("type='iscsi-direct' supported='no'", ""))  # fmt: skip
    assert mock.capabilities().domain_types["i686"] == {"test"}
    assert mock.capabilities().pool_types is None
    for each in (qemu, mock):
        each.close()


def test_the_mock_hypervisor_does_all_of_it() -> None:
    mock = connect("test:///default")
    text = (
        "<domain type='test'><name>vms-{0}</name><uuid>"
        "6ba7b810-9dad-11d1-80b4-00c04fd4301{0}</uuid>"
        "<memory unit='MiB'>64</memory><os><type arch='i686'>hvm</type></os></domain>"
    )
    first, second = text.format(1), text.format(2)
    uuids = [domain.text_of(domain.parse(each.encode()), "uuid") for each in (first, second)]
    mock.check_runs(first)
    with pytest.raises(errors.InvalidArgument, match="--virt-type test"):
        mock.check_runs(first.replace("'test'", "'qemu'"))
    mock.define_all([first])
    assert "vms-1" in mock.names_and_macs()[0]
    mock.replace(uuids[0], second)
    assert [mock.state(each) for each in uuids] == ["not registered", "shut off"]
    assert mock.agent(uuids[1]) == "none"
    mock.start(uuids[1])
    mock.start(uuids[1])
    assert (mock.state(uuids[1]), mock.agent(uuids[1])) == ("running", "connected")
    with pytest.raises(errors.Busy):
        mock.replace(uuids[1], first)
    with pytest.raises(errors.Busy):
        mock.undefine_all(uuids)
    mock.undefine_all(uuids, stop=True)
    assert mock.state(uuids[1]) == "not registered"
    with pytest.raises(errors.NotFound):
        mock.start(uuids[1])
    mock.close()


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ("<os firmware='efi'/>", "UEFI"),
        ("<os><loader secure='yes'>x</loader></os>", "secure boot"),
        ("<devices><tpm><backend type='emulator'/></tpm></devices>", "TPM"),
    ],
)
def test_what_a_host_does_not_have_is_named(needs: str, said: str) -> None:
    told = read_domain(
        "<domainCapabilities><os><enum name='firmware'/><loader><enum name='secure'><value>no"
        "</value></enum></loader></os><devices><tpm><enum name='backendModel'><value>passthrough"
        "</value></enum></tpm></devices></domainCapabilities>"
    )
    root = ET.fromstring(f"<domain>{needs}</domain>")
    assert said in told.missing(root)[0]
    assert read_domain("<domainCapabilities/>").missing(root) == []


def test_a_hypervisor_lost_on_the_way_leaves_nothing_unknown(lab: "Lab", tmp_path: Path) -> None:
    lost = f"qemu+unix:///system?socket={tmp_path / 'door'}"
    door = Door(tmp_path / "door", b"<domain", 100)
    old = lab.ramet.json("vm", "clone", "lab:/golden", "lab:/vms-a", "--register", "-c", lost)
    door.close()
    (tmp_path / "door").unlink()
    door = Door(tmp_path / "door", b"<domain", 1)  # it is done, and nobody hears of it
    failed = lab.ramet.run("vm", "customize", "lab:/vms-a", "--name", "vms-b", "--via", "api",
                           code=3)  # fmt: skip
    assert "ramet vm register" in failed.stderr
    assert lab.domains() == ["vms-b"]
    told = lab.ramet.json("vm", "ls")
    assert [vm["registered"] for vm in told if vm["name"] == "vms-b"] == [lost]
    assert lab.ramet.run("vm", "rm", "lab:/vms-a", code=1)  # not while nobody answers
    (tmp_path / "door").unlink()
    door = Door(tmp_path / "door", b"<domain", 100)
    lab.libvirt.defineXML(
        f"<domain type='qemu'><name>vms-a</name><uuid>{old['vms'][0]['uuid']}</uuid>"
        f"<memory>4096</memory><os><type>hvm</type></os><metadata><x:x xmlns:x='urn:x'>"
        f"{lab.root}/</x:x></metadata></domain>"
    )  # as if the old one had been kept
    assert lab.domains() == ["vms-a", "vms-b"]
    lab.ramet.run("vm", "rm", "lab:/vms-a")
    door.close()
    assert (lab.domains(), lab.names()) == ([], ["golden"])
