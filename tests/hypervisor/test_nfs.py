"""A hypervisor finds an export, runs a guest on it, and the way leads back to the file (MISSION.md
A2, E1, F2)."""

import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from guests import Guest, network_domain
from loopback import own_address
from served import Served, serving


class Site(Served):
    """``lab`` is exported at ``address``."""

    address: str


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="ramet-nfs-", dir="/var/tmp") as name:
        Path(name).chmod(0o711)  # QEMU runs as a user of its own
        with serving(Path(name)) as served:
            made = Site(served.store, served.root)
            made.address = own_address()
            made.run("share", "nfs", "add", "lab", "--listen", made.address)
            yield made


def test_exports_are_sources_of_pools(site: Site, uri: str) -> None:
    listed = subprocess.run(
        ["virsh", "-c", uri, "find-storage-pool-sources-as", "netfs", site.address],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert "<dir path='/lab'/>" in listed
    assert f"<host name='{site.address}'/>" in listed
    host = f"here-{uuid.uuid4().hex[:8]}"
    site.run("host", "add", uri, "--name", host, "--nfs-server", site.address)
    try:
        assert _netfs(site, host) == {
            "server": site.address, "sources": ["/lab"], "new": ["/lab"], "gone": [],
        }  # fmt: skip
        site.run("snapshot", "create", "lab", "monday")
        site.run("share", "nfs", "add", "lab@monday", "--listen", site.address)
        assert _netfs(site, host)["new"] == ["/lab@monday"]
        site.run("share", "nfs", "rm", "lab@monday")
        assert _netfs(site, host)["gone"] == ["/lab@monday"]
    finally:
        site.run("host", "rm", "--force", host)


def _netfs(site: Site, host: str) -> dict[str, Any]:
    (row,) = site.json("host", "rescan", host)["hosts"]
    found: dict[str, Any] = row["netfs"]
    return found


def test_a_guest_boots_from_the_export_of_a_clone(site: Site, uri: str, golden: Path) -> None:
    """What it writes, as QEMU's own user, the mount has; and ``vm map`` follows it to its file."""
    site.run("import", "-p", golden, "lab:/vms/golden.raw")
    site.run("clone", "lab:/vms/golden.raw", "lab:/vms/web.raw")
    (site.lab / "vms" / "web.raw").chmod(0o666)
    name = f"ramet-nfs-{uuid.uuid4().hex[:8]}"
    console = site.root.parent / f"{name}.log"
    connection = libvirt.open(uri)
    try:
        source = (
            f"<source protocol='nfs' name='/lab/vms/web.raw'><host name='{site.address}'/></source>"
        )
        connection.defineXML(network_domain(name, source, console))
        guest = Guest(connection, name, console)
        try:
            guest.start()
            assert guest.identity()["boots"] == "1"
            (image,) = site.json("vm", "map", "--domain", name, "-c", uri)["images"]
            assert (image["file"], image["via"]) == ("lab:/vms/web.raw", "nfs")
            assert image["source"] == f"nfs://{site.address}/lab/vms/web.raw"
            guest.shut_down()
        finally:
            if guest.domain.isActive():
                guest.domain.destroy()
            guest.domain.undefine()
    finally:
        connection.close()
    same = ["qemu-img", "compare", "-f", "raw", "-F", "raw"]
    url, mounted = f"nfs://{site.address}/lab/vms/web.raw", site.lab / "vms" / "web.raw"
    subprocess.run([*same, url, mounted], check=True, capture_output=True, timeout=120)
    assert subprocess.run([*same, url, golden], check=False, capture_output=True).returncode == 1
