"""Storage pools on a real libvirt: ours are ours, others' are left alone, LUNs come and go."""

import os
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import libvirt
import pytest
import tgtd
from hypothesis import given
from hypothesis import strategies as st

from engine import errors
from hypervisor.connection import connected
from hypervisor.pools import NAME_BYTES_MAX, Pool, Pools, Target, pool_name

HOSTILE = ["a b", "x'\"<&>\n", "%2F", "é" * 60, "a" * 255, "-rf", "a:b", "\\n\t ", "]]>", "%s%n"]
NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: not {0, 47} & set(name))
PARTS = st.lists(NAMES.map(os.fsdecode), min_size=1, max_size=4)
INITIATOR = "iqn.2025-01.dev.ramet:test"


@pytest.fixture
def connection(uri: str) -> Iterator["libvirt.virConnect"]:
    with connected(uri) as made:
        yield made


@pytest.fixture
def pools(connection: "libvirt.virConnect") -> Iterator[Pools]:
    made = Pools(connection, uuid.uuid4())
    yield made
    for name in made.ours():
        made.drop(name)


def others(connection: "libvirt.virConnect", name: str, path: Path) -> "libvirt.virStoragePool":
    """A pool that an administrator made."""
    text = f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
    pool = connection.storagePoolDefineXML(text)
    pool.create()
    return pool


@given(PARTS, PARTS)
def test_different_directories_have_different_pools(one: list[str], two: list[str]) -> None:
    names = {pool_name(*one), pool_name(*two)}
    assert len(names) == 1 + (one != two)
    assert all(len(name) <= NAME_BYTES_MAX and "/" not in name for name in names)


def test_hostile_directories_have_pools_of_their_own(pools: Pools, tmp_path: Path) -> None:
    made = set()
    tag = uuid.uuid4().hex[:8]
    for part in HOSTILE:
        (tmp_path / part).mkdir()
        (tmp_path / part / "disk.raw").write_bytes(b"x" * 5000)
        shown = pools.present(Pool(pool_name(tag, part), PurePosixPath(tmp_path / part)))
        assert (shown.new, shown.others) == (True, None)
        assert shown.volumes["disk.raw"].capacity_bytes == 5000
        assert not pools.present(Pool(pool_name(tag, part), PurePosixPath(tmp_path / part))).new
        made.add(shown.name)
    assert pools.ours().keys() == made
    assert len(made) == len(HOSTILE)
    assert all(pools.drop(name) for name in made)
    assert pools.ours() == {}
    assert all((tmp_path / part / "disk.raw").exists() for part in HOSTILE)


@pytest.mark.parametrize("part", ["\udcff", "\x01", "\x7f\ufffe"])
def test_a_directory_that_xml_cannot_name_is_refused(pools: Pools, part: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="rename"):
        pools.present(Pool(pool_name("v", part), PurePosixPath("/var/tmp") / part))


def test_a_pool_of_others_is_never_touched(
    pools: Pools, connection: "libvirt.virConnect", tmp_path: Path
) -> None:
    tag = uuid.uuid4().hex[:8]
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    held = others(connection, f"ramet-{tag}", theirs)
    before = held.XMLDesc()
    try:
        wanted = Pool(pool_name(tag), PurePosixPath(mine))
        shown = pools.present(wanted)
        assert shown.name.startswith(f"ramet-{tag}-")
        assert pools.present(wanted) == shown._replace(new=False)
        assert pools.ours() == {shown.name: "dir"}
        assert pools.stale([wanted]) == {}
        assert pools.drop(wanted.name)
        assert not pools.drop(wanted.name)

        same_place = pools.present(Pool(pool_name(tag, "x"), PurePosixPath(theirs)))
        assert same_place.others == f"ramet-{tag}"
        assert pools.ours() == {}
        assert (held.XMLDesc(), held.isActive()) == (before, 1)
    finally:
        held.destroy()
        held.undefine()


def test_another_store_is_another_owner(pools: Pools, connection: "libvirt.virConnect",
                                        tmp_path: Path) -> None:  # fmt: skip
    other = Pools(connection, uuid.uuid4())
    name = pool_name(uuid.uuid4().hex[:8])
    for n in ("one", "two"):
        (tmp_path / n).mkdir()
    first = pools.present(Pool(name, PurePosixPath(tmp_path / "one")))
    second = other.present(Pool(name, PurePosixPath(tmp_path / "two")))
    assert first.name == name != second.name
    assert other.drop(name)
    assert pools.ours() == {name: "dir"}


def test_a_pool_follows_its_place_and_comes_back_when_it_was_stopped(
    pools: Pools, connection: "libvirt.virConnect", tmp_path: Path
) -> None:
    name = pool_name(uuid.uuid4().hex[:8])
    for n in ("one", "two"):
        (tmp_path / n).mkdir()
        (tmp_path / n / n).touch()
    assert "one" in pools.present(Pool(name, PurePosixPath(tmp_path / "one"))).volumes
    moved = pools.present(Pool(name, PurePosixPath(tmp_path / "two")))
    assert (moved.new, list(moved.volumes)) == (True, ["two"])
    connection.storagePoolLookupByName(name).destroy()
    assert list(pools.present(Pool(name, PurePosixPath(tmp_path / "two"))).volumes) == ["two"]

    (tmp_path / "two" / "two").unlink()
    (tmp_path / "two").rmdir()
    with pytest.raises(errors.RametError, match=name):
        pools.present(Pool(name, PurePosixPath(tmp_path / "two")))
    with pytest.raises(errors.RametError, match="nowhere"):
        pools.present(Pool(pool_name(name, "nowhere"), PurePosixPath(tmp_path / "nowhere")))
    assert pools.ours() == {name: "dir"}  # what never worked is not left behind


def test_the_luns_of_a_target_are_volumes_and_a_new_one_appears(
    pools: Pools, connection: "libvirt.virConnect", tmp_path: Path
) -> None:
    iqn = f"iqn.2025-01.dev.ramet:{uuid.uuid4()}"
    with tgtd.running() as server:
        server.add_target(iqn)
        for n in (1, 2):
            (tmp_path / f"{n}.raw").write_bytes(b"\0" * (n << 20))
        server.add_lun(1, tmp_path / "1.raw")
        place = Target(iqn, "127.0.0.1", server.port, INITIATOR)
        wanted = Pool(pool_name(iqn, "", "lun"), place)
        shown = pools.present(wanted)
        assert shown.new
        assert {n: v.capacity_bytes >> 10 for n, v in shown.volumes.items()} == {
            "unit:0:0:1": 1023  # libvirt's count is a block short
        }
        server.add_lun(2, tmp_path / "2.raw")
        again = pools.present(wanted)
        assert not again.new
        (new,) = again.volumes.keys() - shown.volumes.keys()
        assert (new, again.volumes[new].capacity_bytes >> 10) == ("unit:0:0:2", 2047)
        server.remove_lun(1)
        assert list(pools.present(wanted).volumes) == ["unit:0:0:2"]
        assert pools.ours() == {shown.name: "iscsi-direct"}
    with pytest.raises(errors.RametError):
        pools.present(wanted)  # nobody serves it now
    assert pools.drop(wanted.name)


def test_chap_secrets_come_and_go_with_the_pool(
    pools: Pools, connection: "libvirt.virConnect", tmp_path: Path
) -> None:
    iqn = f"iqn.2025-01.dev.ramet:{uuid.uuid4()}"
    password = "x" * 12 + uuid.uuid4().hex[:4]
    with tgtd.running() as server:
        server.add_target(iqn)
        server.add_user("web", password)
        (tmp_path / "1.raw").write_bytes(b"\0" * (1 << 20))
        server.add_lun(1, tmp_path / "1.raw")
        name = pool_name(iqn, "", "lun")
        right = Target(iqn, "127.0.0.1", server.port, INITIATOR, "web", password)
        with pytest.raises(errors.RametError):
            pools.present(Pool(name, right._replace(password="y" * 16)))
        shown = pools.present(Pool(name, right))
        assert list(shown.volumes) == ["unit:0:0:1"]
        root = ET.fromstring(connection.storagePoolLookupByName(shown.name).XMLDesc())
        secret = root.find("source/auth/secret").attrib["uuid"]
        assert password not in connection.storagePoolLookupByName(shown.name).XMLDesc()
        with pytest.raises(libvirt.libvirtError, match="private"):
            connection.secretLookupByUUIDString(secret).value()
        pools.drop(name)
        assert secret not in connection.listSecrets()


def test_sources_are_read_from_libvirts_answer() -> None:
    with connected("test:///default") as connection:  # a driver that finds an export everywhere
        pools = Pools(connection, uuid.uuid4())
        assert pools.sources("netfs", "nfs.example.org") == ["/testshare"]
        with pytest.raises(errors.RametError, match="cannot look for"):
            pools.sources("rbd", "nfs.example.org")


def test_no_server_has_no_sources(pools: Pools) -> None:
    assert pools.sources("netfs", "127.71.8.9") == []
