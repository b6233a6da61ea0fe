"""LUNs as a host sees them: a pool for each target, a volume for each LUN, and back to the file."""

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from command import Ramet

from service.target_pools import initiator_of

BLOCK = 4096


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Site:
    """A mounted store with a volume whose name nobody else has, known to one host."""

    def __init__(self, root: Path, uri: str) -> None:
        self.ramet = Ramet(root / "store")
        self.root = root
        self.mount = root / "mnt"
        self.volume = "l" + uuid.uuid4().hex[:10]
        self.listen = f"127.0.0.1:{free_port()}"
        self.libvirt = libvirt.open(uri)
        self.uri = uri
        self.mount.mkdir()
        self.ramet.run("init", self.ramet.store)
        self.ramet.run("mount", self.mount)
        self.ramet.run("volume", "create", self.volume)
        self.ramet.run("host", "add", uri, "--name", "here")

    def add_lun(self, name: str, *more: str, blocks: int = 256) -> dict[str, Any]:
        (self.mount / self.volume / name).write_bytes(os.urandom(blocks * BLOCK))
        return self.ramet.json(
            "share", "lun", "add", f"{self.volume}:/{name}", "--listen", self.listen, *more
        )

    def lun_pools(self) -> dict[str, dict[str, Any]]:
        (host,) = self.ramet.json("host", "rescan")["hosts"]
        return {row["pool"]: row for row in host["pools"] if row["kind"] == "iscsi-direct"}

    def close(self) -> None:
        self.ramet.run("host", "rm", "--force", "here")
        self.ramet.run("umount")
        names = [each.name() for each in self.libvirt.listAllStoragePools()]
        assert not [name for name in names if self.volume in name]
        self.libvirt.close()


@pytest.fixture
def site(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("luns"), uri)
    try:
        yield made
    finally:
        made.close()


def test_a_new_lun_is_a_volume_of_the_pool_after_a_rescan(site: Site) -> None:
    v = site.volume
    assert site.lun_pools() == {}
    site.add_lun("one.raw")
    pools = site.lun_pools()
    assert pools.keys() == {f"ramet-{v}::lun"}
    (row,) = pools.values()
    assert row["state"] == "new"
    assert [each["name"] for each in row["new"]] == ["unit:0:0:1"]

    site.add_lun("two.raw", blocks=512)
    (row,) = site.lun_pools().values()
    assert (row["state"], row["volumes"], row["gone"]) == ("same", 2, [])
    (new,) = row["new"]
    assert new["name"] == "unit:0:0:2"
    assert new["capacity_bytes"] == 512 * BLOCK - 512  # libvirt's count is a block short
    pool = site.libvirt.storagePoolLookupByName(f"ramet-{v}::lun")
    assert {"unit:0:0:1", "unit:0:0:2"} <= set(pool.listVolumes())

    site.ramet.run("share", "lun", "rm", f"{v}:/one.raw")
    (row,) = site.lun_pools().values()
    assert (row["gone"], row["new"]) == (["unit:0:0:1"], [])
    site.ramet.run("share", "lun", "rm", f"{v}:/two.raw")
    (row,) = site.lun_pools().values()
    assert (row["state"], row["gone"]) == ("gone", ["unit:0:0:2"])
    assert site.lun_pools() == {}


def test_a_disk_that_is_a_lun_is_followed_to_its_file(site: Site) -> None:
    v = site.volume
    lun = site.add_lun("disk.raw")
    site.lun_pools()
    host, _, port = site.listen.partition(":")
    name = f"{v}-d"
    domain = site.libvirt.defineXML(f"""
        <domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>
          <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
            <disk type='network' device='disk'>
              <source protocol='iscsi' name='{lun["iqn"]}/{lun["lun"]}'>
                <host name='{host}' port='{port}'/></source>
              <target dev='vda' bus='virtio'/></disk>
            <disk type='volume' device='disk'>
              <source pool='ramet-{v}::lun' volume='unit:0:0:{lun["lun"]}'/>
              <target dev='vdb' bus='virtio'/></disk>
            <disk type='block' device='disk'>
              <source dev='/dev/disk/by-path/ip-{host}:{port}-iscsi-{lun["iqn"]}-lun-1'/>
              <target dev='vdc' bus='virtio'/></disk>
            <disk type='network' device='disk'>
              <source protocol='iscsi' name='{lun["iqn"]}/9'><host name='{host}'/></source>
              <target dev='vdd' bus='virtio'/></disk>
          </devices></domain>""")
    try:
        told = site.ramet.json("vm", "map", "--domain", name, "-c", site.uri)
    finally:
        domain.undefine()
    rows = told["images"]
    assert [row["file"] for row in rows] == [f"{v}:/disk.raw"] * 3 + [None]
    assert [row["via"] for row in rows] == ["iscsi", f"pool ramet-{v}::lun", "block", "iscsi"]
    assert "LUN 9" in rows[3]["note"]
    content = b""
    for each in rows[0]["extents"]:
        slab = Path(told["slab_files"] % each["slab"]).read_bytes()
        content += slab[each["slot"] * BLOCK :][: each["length_bytes"]]
    assert content == (site.mount / v / "disk.raw").read_bytes()
    (file,) = site.ramet.json("volume", "map", v)["files"]
    assert file["shares"] == [f"iscsi://{site.listen}/{lun['iqn']}/1"]


def test_a_host_has_the_targets_that_it_may_use(site: Site) -> None:
    v = site.volume
    site.add_lun("mine.raw", "--initiator", initiator_of("here"), "--target", "mine")
    site.add_lun("theirs.raw", "--initiator", "iqn.2004-10.com.example:b", "--target", "theirs")
    pools = site.lun_pools()
    assert pools.keys() == {f"ramet-{v}::lun:mine"}
    assert len(pools[f"ramet-{v}::lun:mine"]["new"]) == 1


def test_a_target_with_a_secret_is_a_pool_like_others(site: Site) -> None:
    secret = site.root / "secret"
    secret.write_text(uuid.uuid4().hex)
    site.add_lun("a.raw", "--chap-user", "host", "--chap-secret-file", str(secret))
    (row,) = site.lun_pools().values()
    assert [each["name"] for each in row["new"]] == ["unit:0:0:1"]
    assert secret.read_text() not in site.ramet.run("host", "rescan").stdout
