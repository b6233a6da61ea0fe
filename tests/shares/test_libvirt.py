"""LUNs as libvirt sees them: a pool of them, and a guest that boots from one."""

import uuid
from pathlib import Path
from typing import Any

import libvirt
import pytest
from guests import Guest, network_domain
from presented import Presented

from bench.guest import build

POOL = """
<pool type='iscsi-direct'><name>{name}</name><source>
  <host name='{host}' port='{port}'/><device path='{iqn}'/>
  <initiator><iqn name='iqn.2026-01.test:pool'/></initiator>
</source></pool>"""


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(tmp_path_factory.mktemp("guest"), Path(".venv/guest-cache"))


def test_a_pool_lists_luns_and_sees_a_new_one(shared: Presented, uri: str) -> None:
    first = shared.lun("lab:/a", "--size", "1M", "--initiator", "iqn.2026-01.test:pool")
    host, _, port = shared.iscsi.partition(":")
    name = f"ramet-shares-{uuid.uuid4().hex[:8]}"
    connection = libvirt.open(uri)
    try:
        pool = connection.storagePoolDefineXML(
            POOL.format(name=name, host=host, port=port, iqn=first["iqn"])
        )
        try:
            pool.create()
            assert _sizes(pool) == [1 << 20]
            shared.json("share", "lun", "add", "lab:/b", "--size", "2M")
            pool.refresh()
            assert _sizes(pool) == [1 << 20, 2 << 20]
            shared.run("share", "lun", "rm", "lab:/a", "--force")
            pool.refresh()
            assert _sizes(pool) == [2 << 20]
        finally:
            if pool.isActive():
                pool.destroy()
            pool.undefine()
    finally:
        connection.close()


def test_a_rescan_shows_a_new_lun(shared: Presented, uri: str) -> None:
    """Row F1: the host sees the target, then what is new in it, with CHAP; and that it has gone."""
    name = f"here-{uuid.uuid4().hex[:8]}"
    shared.run("host", "add", uri, "--name", name)
    chap = ["--chap-user", "eve", "--chap-secret-file", shared.secret_file]
    me = ["--initiator", f"iqn.2026-01.io.ramet:{name}"]
    shared.lun("lab:/a", "--size", "1M", *me, *chap)
    shared.lun("lab:/x", "--size", "1M", "--target", "other", "--initiator", "iqn.2026-01.test:no")
    try:
        (pool,) = _pools(shared, name)
        assert (pool["state"], len(pool["new"])) == ("new", 1)
        shared.json("share", "lun", "add", "lab:/b", "--size", "2M")
        (pool,) = _pools(shared, name)
        assert (pool["state"], [row["capacity_bytes"] for row in pool["new"]]) == (
            "same", [(2 << 20) - 512],
        )  # fmt: skip
        shared.run("share", "lun", "resize", "lab:/b", "4M")
        (pool,) = _pools(shared, name)
        assert len(pool["changed"]) == 1
        shared.run("share", "lun", "rm", "lab:/a", "--force")
        (pool,) = _pools(shared, name)
        assert (len(pool["gone"]), pool["volumes"]) == (1, 1)
        rows = {r["file"]: r for r in shared.json("volume", "map", "lab")["files"]}
        assert rows["lab:/b"]["shares"] == [shared.json("share", "lun", "show", "lab:/b")["url"]]
    finally:
        shared.run("host", "rm", name, "--force")


def _pools(shared: Presented, name: str) -> list[dict[str, Any]]:
    """Of targets, as a rescan shows them."""
    (row,) = shared.json("host", "rescan", name)["hosts"]
    return [pool for pool in row["pools"] if pool["kind"] == "iscsi-direct"]


def _sizes(pool: libvirt.virStoragePool) -> list[int]:
    """LUN 0 is tgt's controller, of no size; libvirt 9.0 takes the last block for their number."""
    found = [vol.info()[1] for vol in pool.listAllVolumes()]
    return sorted(size + 512 for size in found if size)


def test_a_guest_boots_from_the_lun_of_a_clone(
    shared: Presented, uri: str, golden: Path
) -> None:  # fmt: skip
    """Twice: what it wrote in its first life is there in its second, and in a clone of it."""
    shared.run("import", golden, "lab:/golden.raw")
    shared.run("clone", "lab:/golden.raw", "lab:/web.raw")
    lun = shared.lun("lab:/web.raw")
    assert _boots(shared, uri, lun) == "1"
    assert _boots(shared, uri, lun) == "2"
    shared.run("clone", "lab:/web.raw", "lab:/twin.raw")
    assert _boots(shared, uri, shared.lun("lab:/twin.raw")) == "3"
    first = shared.json("du", "lab:/")
    golden_row = next(row for row in first if row["name"] == "golden.raw")
    assert golden_row["logical_bytes"] == golden.stat().st_size


def _boots(shared: Presented, uri: str, lun: dict[str, str]) -> str:
    """Boot it, and how often it says that it has been."""
    host, _, port = shared.iscsi.partition(":")
    name = f"ramet-shares-{uuid.uuid4().hex[:8]}"
    console = shared.root / f"{name}.log"
    connection = libvirt.open(uri)
    try:
        source = (
            f"<source protocol='iscsi' name='{lun['iqn']}/{lun['lun']}'>"
            f"<host name='{host}' port='{port}'/></source>"
        )
        connection.defineXML(network_domain(name, source, console))
        guest = Guest(connection, name, console)
        try:
            guest.start()
            told = guest.identity()
            images = shared.json("vm", "map", "--domain", name, "-c", uri)["images"]
            assert [image["file"] for image in images] == [lun["address"]]
            guest.shut_down()
        finally:
            if guest.domain.isActive():
                guest.domain.destroy()
            guest.domain.undefine()
    finally:
        connection.close()
    return told["boots"]
