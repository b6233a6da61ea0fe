"""``ramet host``: what a real libvirt sees of a real mount, told as new, changed and gone."""

import os
import socket
import subprocess
import sys
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from command import Ramet

BASE_XML = Path(__file__).parents[1] / "guest" / "golden.xml"
NOWHERE = "qemu+unix:///system?socket=/nonexistent/socket"


class Site:
    """A mounted store whose names nobody else has, and one host."""

    def __init__(self, root: Path, uri: str) -> None:
        self.ramet = Ramet(root / "store")
        self.root = root
        self.mount = root / "mnt"
        self.tag = "h" + uuid.uuid4().hex[:10]
        self.uri = uri
        self.libvirt = libvirt.open(uri)
        self.mount.mkdir()
        self.ramet.run("init", self.ramet.store)
        self.ramet.run("mount", self.mount)
        self.ramet.run("volume", "create", self.tag)
        (root / "golden.raw").write_bytes(os.urandom(1 << 20))
        self.ramet.run("import", "-p", root / "golden.raw", f"{self.tag}:/vms/golden/golden.raw")
        xml = root / "golden.xml"
        xml.write_text(BASE_XML.read_text().replace(">golden<", f">{self.tag}<"))
        self.ramet.run("vm", "add", f"{self.tag}:/vms/golden", "--xml", xml)

    def pools(self) -> set[str]:
        """The pools that have our names."""
        names = {each.name() for each in self.libvirt.listAllStoragePools()}
        return {name for name in names if self.tag in name}

    def rescan(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """The pools of the first host, by name."""
        (host,) = self.ramet.json("host", "rescan", *arguments)["hosts"]
        assert host["error"] is None
        return {pool["pool"]: pool for pool in host["pools"]}

    def close(self) -> None:
        for vm in self.ramet.json("vm", "ls"):
            self.ramet.run("vm", "rm", "--force", vm["address"])
        for host in self.ramet.json("host", "ls"):
            self.ramet.run("host", "rm", "--force", host["name"])
        self.ramet.run("umount")
        assert self.pools() == set()
        self.libvirt.close()


@pytest.fixture
def site(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"), uri)
    yield made
    made.close()


def names(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(row["name"] for row in rows)


def test_a_rescan_tells_what_is_new_changed_and_gone(site: Site) -> None:
    tag, ramet = site.tag, site.ramet
    added = ramet.json("host", "add", site.uri, "--name", "here")
    assert (added["name"], added["rescanned"]) == ("here", None)
    first = site.rescan()
    assert first.keys() == {f"ramet-{tag}", f"ramet-{tag}:vms"} == site.pools()
    assert all(pool["state"] == "new" for pool in first.values())
    assert names(first[f"ramet-{tag}"]["new"]) == ["vms"]
    assert names(first[f"ramet-{tag}:vms"]["new"]) == ["golden"]

    ramet.run("vm", "clone", f"{tag}:/vms/golden", f"{tag}:/vms/web-{{n}}", "--count", 2)
    ramet.run("clone", f"{tag}:/vms/golden/golden.raw", f"{tag}:/disk.raw")
    second = site.rescan()
    assert all(pool["state"] == "same" for pool in second.values())
    assert names(second[f"ramet-{tag}:vms"]["new"]) == ["web-1", "web-2"]
    assert names(second[f"ramet-{tag}"]["new"]) == ["disk.raw"]
    (disk,) = second[f"ramet-{tag}"]["new"]
    assert disk["capacity_bytes"] == 1 << 20
    pool = site.libvirt.storagePoolLookupByName(f"ramet-{tag}:vms")
    assert sorted(pool.listVolumes()) == ["golden", "web-1", "web-2"]

    os.truncate(site.mount / tag / "disk.raw", 3 << 20)
    ramet.run("vm", "rm", f"{tag}:/vms/web-1")
    third = site.rescan("here")
    (changed,) = third[f"ramet-{tag}"]["changed"]
    assert changed["name"] == "disk.raw"
    assert (changed["old_capacity_bytes"], changed["capacity_bytes"]) == (1 << 20, 3 << 20)
    assert third[f"ramet-{tag}:vms"]["gone"] == ["web-1"]
    quiet = site.rescan()
    assert not any(pool[key] for pool in quiet.values() for key in ("new", "changed", "gone"))

    (row,) = ramet.json("host", "ls")
    assert (row["pools"], row["volumes"], row["error"]) == (2, 4, None)
    ramet.run("clone", f"{tag}:/disk.raw", f"{tag}:/second.raw")
    told = as_people_see_it(site, "host", "rescan").splitlines()
    assert told[0].split() == ["host", "pool", "kind", "state", "volumes", "new", "changed",
                               "gone", "source"]  # fmt: skip
    assert told[-1].split()[:5] == ["new", f"ramet-{tag}", "second.raw", "3.0", "MiB"]


def as_people_see_it(site: Site, *words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "cli", "--store", site.ramet.store, *words],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "RAMET_CONFIG": "/dev/null"},
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def test_what_is_remembered_outlives_the_daemon_and_pools_stay_while_unmounted(
    site: Site,
) -> None:
    site.ramet.run("host", "add", site.uri, "--name", "here")
    site.rescan()
    site.ramet.run("umount")
    (away,) = site.ramet.json("host", "rescan")["hosts"]
    assert (away["mounted"], away["pools"], away["error"]) == (False, [], None)
    assert len(site.pools()) == 2
    site.ramet.run("mount", site.mount)
    again = site.rescan()
    assert not any(pool[key] for pool in again.values() for key in ("new", "changed", "gone"))
    assert all(site.libvirt.storagePoolLookupByName(name).isActive() for name in site.pools())


def test_a_pool_goes_with_its_volume_and_all_go_with_the_host(site: Site) -> None:
    tag = site.tag
    site.ramet.run("volume", "create", f"{tag}-b")
    site.ramet.run("host", "add", site.uri, "--name", "here")
    assert len(site.rescan()) == 3
    site.ramet.run("volume", "rm", f"{tag}-b")
    rows = site.rescan()
    assert rows[f"ramet-{tag}-b"]["state"] == "gone"
    assert site.pools() == {f"ramet-{tag}", f"ramet-{tag}:vms"}
    dry = site.ramet.json("host", "rm", "here", "--dry-run")
    assert (dry["dry_run"], len(dry["pools"])) == (True, 2)
    assert len(site.pools()) == 2
    assert set(site.ramet.json("host", "rm", "here")["pools"]) == {f"ramet-{tag}",
                                                                  f"ramet-{tag}:vms"}  # fmt: skip
    assert site.pools() == set()
    assert site.ramet.json("host", "ls") == []
    site.ramet.run("host", "rm", "here", code=12)
    site.ramet.run("host", "rescan", code=12)
    assert (site.mount / tag / "vms" / "golden" / "golden.raw").exists()


def test_a_registered_vm_is_in_the_same_pool(site: Site) -> None:
    tag, ramet = site.tag, site.ramet
    made = ramet.json("vm", "clone", f"{tag}:/vms/golden", f"{tag}:/vms/{tag}-r", "--register")
    assert made["pool"] == f"ramet-{tag}:vms"
    assert site.pools() == {f"ramet-{tag}:vms"}
    ramet.run("host", "add", site.uri, "--name", "here")
    rows = site.rescan()
    assert {name: pool["state"] for name, pool in rows.items()} == {
        f"ramet-{tag}": "new", f"ramet-{tag}:vms": "same",
    }  # fmt: skip
    ramet.run("vm", "unregister", f"{tag}:/vms/{tag}-r")
    assert len(site.pools()) == 2  # the host's now, not the registration's


def test_a_clone_says_which_pool_shows_it_where_another_has_the_name(site: Site) -> None:
    tag, ramet = site.tag, site.ramet
    theirs = ET.Element("pool", {"type": "dir"})
    ET.SubElement(theirs, "name").text = f"ramet-{tag}:vms"
    ET.SubElement(ET.SubElement(theirs, "target"), "path").text = str(site.root / "theirs")
    other = site.libvirt.storagePoolDefineXML(ET.tostring(theirs, encoding="unicode"))
    try:
        made = ramet.json("vm", "clone", f"{tag}:/vms/golden", f"{tag}:/vms/{tag}-r", "--register")
        assert made["pool"] != other.name()
        assert made["pool"].startswith(other.name())
        shown = site.libvirt.storagePoolLookupByName(made["pool"])
        assert f"{tag}-r" in shown.listVolumes()
        ramet.run("vm", "unregister", f"{tag}:/vms/{tag}-r")
        assert site.pools() == {other.name()}
    finally:
        other.undefine()
    unregistered = ramet.json("vm", "clone", f"{tag}:/vms/golden", f"{tag}:/vms/{tag}-s")
    assert unregistered["pool"] is None


def test_hosts_that_do_not_answer_are_named(site: Site) -> None:
    ramet = site.ramet
    assert "is not added" in ramet.run("host", "add", NOWHERE, "--name", "x", code=1).stderr
    ramet.run("host", "add", site.uri, "--name", "here")
    assert "is host here" in ramet.run("host", "add", site.uri, "--name", "b", code=13).stderr
    ramet.run("host", "add", site.uri + "?x", "--name", "here", code=13)
    ramet.run("host", "add", site.uri + "?x", "--name", "a/b", code=1)
    ramet.run("host", "add", site.uri + "?x", "--mount-path", "mnt", code=1)

    door = site.root / "door"
    with socket.socket(socket.AF_UNIX) as silent:  # it takes calls, and never answers
        os.symlink("/run/libvirt/libvirt-sock", door)
        ramet.run("host", "add", f"qemu+unix:///system?socket={door}", "--name", "lost")
        door.unlink()
        gone = ramet.run("host", "rescan", code=3)
        assert "host lost was not rescanned" in gone.stderr
        silent.bind(str(door))
        silent.listen()
        hung = ramet.run("host", "rescan", "--timeout", "1.5", code=3)
        assert "host lost was not rescanned: no answer in 1.5 s" in hung.stderr
        only = ramet.run("host", "rescan", "lost", "--timeout", "0.5", code=1)
        assert "no answer in 0.5 s" in only.stderr
    door.unlink()
    rows = {row["name"]: row for row in ramet.json("host", "ls")}
    assert rows["here"]["error"] is None
    assert "no answer" in rows["lost"]["error"]
    assert rows["here"]["pools"] == 2
    assert "--force" in ramet.run("host", "rm", "lost", code=1).stderr
    assert ramet.json("host", "rm", "lost", "--force")["answered"] is False


def test_a_host_may_have_the_mount_elsewhere(site: Site) -> None:
    tag, ramet = site.tag, site.ramet
    elsewhere = site.root / "elsewhere"
    elsewhere.symlink_to(site.mount)
    ramet.run("host", "add", site.uri, "--name", "here", "--mount-path", elsewhere)
    rows = site.rescan()
    assert rows[f"ramet-{tag}:vms"]["source"] == str(elsewhere / tag / "vms")
    assert names(rows[f"ramet-{tag}:vms"]["new"]) == ["golden"]
    ramet.run("vm", "clone", f"{tag}:/vms/golden", f"{tag}:/vms/{tag}-r", "--register")
    xml = site.libvirt.lookupByName(f"{tag}-r").XMLDesc()
    assert f"{elsewhere}/{tag}/vms/{tag}-r/golden.raw" in xml
    assert str(site.mount) not in xml


def test_what_others_removed_is_told_once(site: Site) -> None:
    site.ramet.run("volume", "create", f"{site.tag}-b")
    site.ramet.run("host", "add", site.uri, "--name", "here")
    site.rescan()
    pool = site.libvirt.storagePoolLookupByName(f"ramet-{site.tag}-b")
    pool.destroy()
    pool.undefine()
    site.ramet.run("volume", "rm", f"{site.tag}-b")
    assert site.rescan()[f"ramet-{site.tag}-b"]["state"] == "gone"
    assert f"ramet-{site.tag}-b" not in site.rescan()
    assert site.ramet.json("host", "ls")[0]["pools"] == 2


def test_one_pool_that_cannot_be_is_told_and_the_others_are_made(site: Site) -> None:
    tag = site.tag
    (site.mount / tag / "bad\x01dir").mkdir()
    subdirectory = f"{tag}:/bad\x01dir"
    site.ramet.run("vm", "clone", f"{tag}:/vms/golden", f"{subdirectory}/web")
    site.ramet.run("host", "add", site.uri, "--name", "here")
    done = site.ramet.run("host", "rescan", code=3)
    assert "rename" in done.stderr
    assert len(site.pools()) == 2


def test_exports_are_looked_up_where_the_host_was_told_to(site: Site) -> None:
    site.ramet.run("host", "add", site.uri, "--name", "here", "--nfs-server", "127.71.8.9")
    (host,) = site.ramet.json("host", "rescan")["hosts"]
    assert host["netfs"] == {"server": "127.71.8.9", "sources": [], "new": [], "gone": []}
