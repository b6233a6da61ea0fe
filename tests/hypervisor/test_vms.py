"""Clones as libvirt sees them: registered, distinct, independent; and undone when it fails."""

import email
import io
import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pycdlib
import pytest

from engine import errors
from hypervisor.driver import LibvirtDriver

if TYPE_CHECKING:
    from conftest import Lab

NOWHERE = "qemu+unix:///system?socket=/nonexistent/socket"


def test_clones_are_registered_distinct_and_outlive_their_base(lab: "Lab") -> None:
    before = lab.ramet.json("df")["physical_bytes"]
    made = lab.ramet.json("vm", "clone", "lab:/golden", "lab:/web-{n:03d}", "--count", 5,
                          "--register")  # fmt: skip
    assert made["bytes_copied"] == 0
    assert lab.domains() == [f"web-00{n}" for n in range(1, 6)]
    assert len({vm["uuid"] for vm in made["vms"]} | {vm["macs"][0] for vm in made["vms"]}) == 10
    seeds = 5 * 40 * 4096
    assert lab.ramet.json("df")["physical_bytes"] - before < seeds  # seed images, no disk data
    (shown,) = lab.pools()  # ramet-lab, or a longer name where that is somebody else's
    assert "web-005" in lab.libvirt.storagePoolLookupByName(shown).listVolumes()

    lab.ramet.run("vm", "rm", "lab:/golden")
    lab.ramet.run("gc")
    first = lab.libvirt.lookupByName("web-001")
    source = ET.fromstring(first.XMLDesc()).find("devices/disk/source")
    assert source is not None
    assert Path(source.attrib["file"]).read_bytes() == lab.disk
    first.create()
    assert lab.ramet.json("vm", "show", "lab:/web-001")["state"] == "running"
    assert "is running" in lab.ramet.run("vm", "rm", "lab:/web-001", code=1).stderr

    # a clone of a VM that runs does not inherit what libvirt noted on its disk
    assert any("libvirt" in x for x in os.listxattr(lab.mount / "lab/web-001/golden.raw"))
    lab.ramet.run("vm", "clone", "lab:/web-001", "lab:/again", "--register")
    assert os.listxattr(lab.mount / "lab/again/golden.raw") == []
    assert not (lab.mount / "lab/again/console.log").exists()

    lab.ramet.run("vm", "rm", "--force", "lab:/web-001")
    assert "web-001" not in lab.domains()
    assert "web-001" not in lab.names()
    assert lab.ramet.json("fsck", "--data")["clean"]


def test_what_a_vm_has_for_itself_is_counted(lab: "Lab") -> None:
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/web")
    with (lab.mount / "lab/web/golden.raw").open("r+b") as disk:
        disk.write(os.urandom(256 << 10))
    rows = {row["name"]: row["unique_bytes"] for row in lab.ramet.json("vm", "ls", "--exact")}
    assert rows["golden"] >= 256 << 10  # what the clone has overwritten is the golden image's alone
    seed = sum(path.stat().st_size for path in (lab.mount / "lab/web").glob("[!g]*"))
    assert 256 << 10 <= rows["web"] <= (256 << 10) + seed + 2 * 4096


def test_a_taken_name_undoes_all(lab: "Lab") -> None:
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/web-3", "--register")
    names, domains = lab.names(), lab.domains()
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/web-{n}", "--count", 5, "--register", code=13)
    (lab.mount / "lab" / "sub").mkdir()
    failed = lab.ramet.run(
        "vm", "clone", "lab:/golden", "lab:/sub/web-{n}", "--count", 5, "--register", code=13
    )
    assert "has a domain 'web-3'" in failed.stderr
    assert lab.names() == sorted([*names, "sub"])
    assert os.listdir(lab.mount / "lab" / "sub") == []
    assert lab.domains() == domains


def test_what_libvirt_refuses_is_undone(lab: "Lab") -> None:
    xml = lab.mount / "lab/golden/domain.xml"
    xml.write_text(xml.read_text().replace("MiB", "bogus"))
    names = lab.names()
    failed = lab.ramet.run("vm", "clone", "lab:/golden", "lab:/web-{n}", "--count", 3,
                           "--register", code=1)  # fmt: skip
    assert "bogus" in failed.stderr
    assert (lab.names(), lab.domains()) == (names, [])
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/a", "--register", "-c", NOWHERE, code=1)
    assert lab.names() == names


def test_defining_is_all_or_none(lab: "Lab", uri: str) -> None:
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/web-{n}", "--count", 3)
    texts = [lab.ramet.json("vm", "show", f"lab:/web-{n}")["xml"] for n in (1, 2, 3)]
    driver = LibvirtDriver(uri)
    with pytest.raises(errors.RametError):
        driver.define_all([*texts[:2], texts[2].replace("MiB", "bogus")])
    assert lab.domains() == []
    with pytest.raises(errors.InvalidArgument, match="virt-type"):
        driver.check_runs(texts[0].replace('type="qemu"', 'type="xen"', 1))
    driver.close()


def test_register_follows_the_mount(lab: "Lab", tmp_path: Path) -> None:
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/web", "--register")
    lab.ramet.run("umount")
    lab.ramet.run("vm", "register", "lab:/web", code=1)
    lab.ramet.run("mount", tmp_path)
    lab.ramet.run("vm", "register", "lab:/web")
    xml = lab.libvirt.lookupByName("web").XMLDesc()
    assert str(tmp_path / "lab/web/golden.raw") in xml
    assert [f"{tmp_path}/lab" in each.XMLDesc() for each in lab.libvirt.listAllStoragePools()
            if each.name().startswith("ramet-lab")].count(True) == 1  # fmt: skip
    lab.ramet.run("vm", "unregister", "lab:/web")
    assert (lab.domains(), lab.pools()) == ([], [])
    assert lab.ramet.json("vm", "show", "lab:/web")["state"] == "not registered"


@pytest.mark.parametrize("of", ["both", "name", "uuid"])
def test_registering_never_defines_another_vms_domain(lab: "Lab", of: str) -> None:
    """A domain.xml that was copied from another VM would be that VM's, with these disks."""
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/web", "--register")
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/db")
    before = lab.libvirt.lookupByName("web").XMLDesc()
    web, db = (lab.mount / "lab" / name / "domain.xml" for name in ("web", "db"))
    good, other = ET.fromstring(db.read_text()), ET.fromstring(web.read_text())
    for tag in ("name", "uuid") if of == "both" else (of,):
        found, theirs = good.find(tag), other.find(tag)
        assert found is not None
        assert theirs is not None
        found.text = theirs.text
    own = db.read_text()
    db.write_text(ET.tostring(good, encoding="unicode"))
    for words in (["lab:/db"], ["lab:", "--all"]):
        said = lab.ramet.run("vm", "register", *words, code=1).stderr
        assert "ramet vm add lab:/db" in said
    assert lab.domains() == ["web"]
    assert lab.libvirt.lookupByName("web").XMLDesc() == before
    db.write_text(own)
    lab.ramet.run("vm", "register", "lab:/db")
    assert lab.domains() == ["db", "web"]


def test_a_uuid_written_in_another_way_is_the_same(lab: "Lab") -> None:
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/web")
    uuid = lab.ramet.json("vm", "show", "lab:/web")["uuid"]
    xml = lab.mount / "lab/web/domain.xml"
    xml.write_text(xml.read_text().replace(uuid, uuid.upper()))
    lab.ramet.run("vm", "register", "lab:/web")
    assert lab.domains() == ["web"]


def test_a_plain_copy_needs_an_identity_first(lab: "Lab") -> None:
    golden = lab.mount / "lab/golden"
    subprocess.run(["cp", "-r", golden, lab.mount / "lab/copy"], check=True)
    assert "same UUID" in lab.ramet.run("vm", "add", "lab:/copy", code=13).stderr
    old = lab.ramet.json("vm", "show", "lab:/golden")
    new = lab.ramet.json("vm", "customize", "lab:/copy", "--name", "other")
    assert new["name"] == "other"
    assert (new["uuid"], new["macs"]) != (old["uuid"], old["macs"])
    lab.ramet.run("vm", "register", "lab:/copy")
    assert lab.domains() == ["other"]
    assert "unregister" in lab.ramet.run("vm", "customize", "lab:/copy", "--name", "x",
                                         code=1).stderr  # fmt: skip


def test_a_vm_can_come_from_libvirt(lab: "Lab") -> None:
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/web", "--register")
    (lab.mount / "lab/imported").mkdir()
    os.rename(lab.mount / "lab/web/golden.raw", lab.mount / "lab/imported/golden.raw")
    os.rename(lab.mount / "lab/web/seed.iso", lab.mount / "lab/imported/seed.iso")
    lab.ramet.run("vm", "add", "lab:/imported", "--domain", "web", code=13)  # its twin is here
    lab.ramet.run("vm", "add", "lab:/imported", "--domain", "missing", code=12)
    lab.ramet.run("vm", "rm", "lab:/web", "--dry-run")
    assert "web" in lab.names()


def test_bad_vms_are_refused_in_words(lab: "Lab", tmp_path: Path) -> None:
    (lab.mount / "lab/empty").mkdir()
    assert "--xml" in lab.ramet.run("vm", "add", "lab:/empty", code=12).stderr
    base = Path(__file__).parents[1] / "guest" / "golden.xml"
    failed = lab.ramet.run("vm", "add", "lab:/empty", "--xml", base, code=12)
    assert "import" in failed.stderr
    hostile = tmp_path / "hostile.xml"
    hostile.write_text("<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain/>")
    assert "DTD" in lab.ramet.run("vm", "add", "lab:/empty", "--xml", hostile, code=1).stderr
    lab.ramet.run("vm", "clone", "lab:/empty", "lab:/b", code=12)
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/a b", code=1)
    lab.ramet.run("vm", "clone", "lab:/golden", "lab:/golden/inside", code=1)
    qcow2 = lab.mount / "lab/empty/golden.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", tmp_path / "back", "1M"], check=True)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", tmp_path / "back", "-F", "raw", qcow2],
        check=True,
    )
    other = tmp_path / "other.xml"
    other.write_text(base.read_text().replace("type='raw'", "type='qcow2'"))
    assert "whole" in lab.ramet.run("vm", "add", "lab:/empty", "--xml", other, code=1).stderr
    assert lab.names() == ["empty", "golden"]


def file_of(image: bytes, name: str) -> bytes:
    iso, out = pycdlib.PyCdlib(), io.BytesIO()
    iso.open_fp(io.BytesIO(image))
    iso.get_file_from_iso_fp(out, rr_path=f"/{name}")
    iso.close()
    return out.getvalue()


def test_each_clone_of_a_batch_is_as_its_row_says(lab: "Lab", tmp_path: Path) -> None:
    for name, text in (
        ("v.csv", "site,address\nfra,10.0.1.5/24\nams,10.0.2.5/24\n"),
        ("net.yaml", "version: 2\nethernets:\n  lan: {addresses: [{{ address | tojson }}]}\n"),
        ("user.sh", "#!/bin/sh\necho {{ name }} {{ mac | quote }} {{ n }} $HOME\n"),
        ("bad.yaml", "version: 2\nx: {{ adress }}\n"),
        ("bad.csv", "site\nfra\nams,x\n"),
    ):
        (tmp_path / name).write_text(text)
    words = ("vm", "clone", "lab:/golden", "lab:/{site}-{n:02d}", "--start", 5, "--step", 10,
             "--memory", "256M", "--vcpus", 3, "--disk-size", "3M")  # fmt: skip
    var = ("--var", tmp_path / "v.csv")
    for more, said in (
        ((*var, "--network", tmp_path / "bad.yaml"), "needs adress"),
        (("--var", tmp_path / "bad.csv"), "row 2 (line 3)"),
        ((*var, "--count", 3), "2 rows"),
        ((*var, "--disk-size", "512K"), "only grow"),
        ((*var, "--vcpus", 0), "virtual CPUs"),
    ):
        assert said in lab.ramet.run(*words, *more, code=1).stderr
    assert lab.names() == ["golden"]

    made = lab.ramet.json(*words, *var, "--network", tmp_path / "net.yaml",
                          "--user-data", tmp_path / "user.sh")  # fmt: skip
    assert [vm["name"] for vm in made["vms"]] == ["fra-05", "ams-15"]
    for vm, address, n in zip(made["vms"], ("10.0.1.5/24", "10.0.2.5/24"), (5, 15), strict=True):
        place = lab.mount / "lab" / vm["name"]
        seed = (place / "seed.iso").read_bytes()
        assert f'addresses: ["{address}"]' in file_of(seed, "network-config").decode()
        parts = email.message_from_bytes(file_of(seed, "user-data")).get_payload()
        script = parts[0].get_payload(decode=True).decode()
        assert script == f"#!/bin/sh\necho {vm['name']} {vm['macs'][0]} {n} $HOME\n"
        assert (place / "golden.raw").stat().st_size == 3 << 20
        root = ET.fromstring((place / "domain.xml").read_bytes())
        sizes = [root.findtext(tag) for tag in ("memory", "vcpu")]
        assert sizes == ["262144", "3"]
