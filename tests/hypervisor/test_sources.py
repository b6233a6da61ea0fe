"""What an image's first bytes and a domain's XML say, also when a stranger wrote them."""

import struct
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.sources import (
    HEADER_BYTES,
    Backing,
    Exported,
    Place,
    backing,
    based_on,
    device,
    images_of,
    is_local,
)


def made(path: Path, *more: str, compat: str = "1.1") -> bytes:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"compat={compat}", *more[:-1], path,
         more[-1]], check=True,
    )  # fmt: skip
    return path.read_bytes()[:HEADER_BYTES]


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_qemus_own_images_name_what_they_are_based_on(tmp_path: Path, compat: str) -> None:
    (tmp_path / "base.raw").write_bytes(b"x" * 65536)
    based = made(tmp_path / "a", "-b", str(tmp_path / "base.raw"), "-F", "raw", "64K",
                 compat=compat)  # fmt: skip
    assert backing(based) == Backing(str(tmp_path / "base.raw"), "raw")
    again = made(tmp_path / "b", "-b", "a", "-F", "qcow2", "64K", compat=compat)
    assert backing(again) == Backing("a", "qcow2")
    assert backing(made(tmp_path / "c", "64K", compat=compat)) is None


def test_a_data_file_is_named(tmp_path: Path) -> None:
    head = made(tmp_path / "a", "-o", f"data_file={tmp_path / 'data.raw'}", "64K")
    assert backing(head) == Backing("", "raw", str(tmp_path / "data.raw"))


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 2000), st.integers(2, 4))
def test_hostile_headers_name_something_or_nothing(
    tail: bytes, at: int, size: int, version: int
) -> None:
    head = b"QFI\xfb" + struct.pack(">IQI", version, at, size) + tail
    found = backing(head)
    if found is not None and found.name:
        assert len(found.name.encode(errors="surrogateescape")) == size <= 1023


@given(st.binary(max_size=200))
def test_other_bytes_are_no_image(head: bytes) -> None:
    assert backing(head) is None or head.startswith(b"QFI\xfb")


def test_names_are_taken_from_where_the_image_is() -> None:
    top = Place("", "file", "/a/b/top.qcow2")
    assert based_on(top, "../base.raw").path == "/a/base.raw"
    assert based_on(top, "/c/base.raw").path == "/c/base.raw"
    exported = Place("", "nfs", nfs=Exported("10.0.0.1", "/lab/b/top.qcow2"))
    assert based_on(exported, "../base.raw").nfs == Exported("10.0.0.1", "/lab/base.raw")
    assert based_on(exported, "/c/base.raw").path == "/c/base.raw"
    assert based_on(top, "nfs://10.0.0.2/lab/x").nfs == Exported("10.0.0.2", "/lab/x")
    for odd in ("json:{}", "nbd://h/x", "nfs:x", "nfs://[", "fat:rw:/etc"):
        place = based_on(top, odd)
        assert place.path is None
        assert place.note


def test_a_lun_of_the_kernels_is_known_by_udevs_name() -> None:
    place = device("/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-iqn.2026-01.io.ramet:a-lun-b-lun-12")
    assert place.lun == ("iqn.2026-01.io.ramet:a-lun-b", 12)
    assert device("/dev/sda").lun is None


@pytest.mark.parametrize(
    ("name", "lun"), [("iqn.x/4", ("iqn.x", 4)), ("iqn.x", ("iqn.x", 0)), ("iqn.x/y", None),
                      ("iqn.x/\u0664", None)],
)  # fmt: skip
def test_iscsi_disks_name_a_lun(name: str, lun: tuple[str, int] | None) -> None:
    root = ET.Element("domain")
    disk = ET.SubElement(ET.SubElement(root, "devices"), "disk", {"type": "network"})
    ET.SubElement(disk, "source", {"protocol": "iscsi", "name": name})
    (image,) = images_of(root, lambda pool, volume: Place(volume, pool))
    assert image.place.lun == lun
    assert (image.place.note is None) == (lun is not None)


@pytest.mark.parametrize(
    ("uri", "local"),
    [("qemu:///system", True), ("test:///default", True), ("qemu+ssh://root@kvm2/system", False),
     ("qemu+unix:///system?socket=/x", True), ("qemu+tcp://127.0.0.1/system", False)],
)  # fmt: skip
def test_whose_files_a_host_has(uri: str, local: bool) -> None:
    assert is_local(uri) == local
