"""A thousand clones share nothing, ten thousand hostile names harm nothing.  Without libvirt."""

import os
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pytest
from rich_domain import OLD_UUID, RICH

from engine import ROOT_INO, Store, Volume, errors
from hypervisor import adopting, domain, individuals
from hypervisor.customize import customize
from hypervisor.identity import Identity
from hypervisor.machine_index import index_of
from hypervisor.machines import Directory
from hypervisor.wishes import Wishes, user_data_template
from service.clone_plan import plan_of
from service.clone_spec import CloneSpec

MOUNT = PurePosixPath("/mnt/ramet/lab")
COUNT = 1000
NAMES = 10_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    Store.create(tmp_path / "store")
    with Store.open(tmp_path / "store") as opened:
        yield opened


def base_vm(store: Store) -> Directory:
    lab = store.create_volume("lab")
    golden = lab.mkdir(ROOT_INO, b"golden", 0o755, 0, 0)
    for name in (b"disk.raw", b"golden_VARS.fd", b"console.log"):
        made = lab.create(golden.ino, name, 0o644, 0, 0)
        lab.write(made.ino, 0, os.urandom(5000))
    base = Directory(lab, "/golden", MOUNT / "golden")
    text = RICH.replace("/isos/tools.iso", "/nonexistent/tools.iso")
    adopting.add(store, base, text.encode(), None)
    return base


def test_domain_xml_is_its_owners_alone(store: Store) -> None:
    """Consoles have their passwords in it."""
    base = base_vm(store)
    made = individuals.clone(
        store, base, base.volume, "/web", MOUNT / "web", Identity.new("web"), set()
    )
    for directory in (base, made):
        inode = directory.child("domain.xml")
        assert inode is not None
        assert inode.mode & 0o777 == 0o600


# What must differ, and where a clone has it: one value or more from the XML.
IDENTITIES: dict[str, list[str]] = {
    "name": ["name"],
    "uuid": ["uuid"],
    "genid": ["genid"],
    "title": ["title"],
    "SMBIOS system serial": ["sysinfo/system/entry[@name='serial']"],
    "SMBIOS system uuid": ["sysinfo/system/entry[@name='uuid']"],
    "SMBIOS base board serial": ["sysinfo/baseBoard/entry[@name='serial']"],
    "SMBIOS chassis asset": ["sysinfo/chassis/entry[@name='asset']"],
    "NVRAM": ["os/nvram"],
    "disk": ["devices/disk[@device='disk']/source:file"],
    "disk serial": ["devices/disk/serial"],
    "disk wwn": ["devices/disk/wwn"],
    "MAC": ["devices/interface/mac:address"],
    "virtual port": ["devices/interface/virtualport/parameters:interfaceid"],
    "serial output": ["devices/serial/source:path"],
    "serial log": ["devices/serial/log:file"],
    "channel": ["devices/channel/source:path"],
    "graphics socket": ["devices/graphics/listen:socket"],
}
TIMES = {"MAC": 2, "channel": 2}


def values(root: ET.Element, path: str) -> list[str]:
    where, _, attribute = path.partition(":")
    found = [e.get(attribute) if attribute else e.text for e in root.iterfind(where)]
    return [each for each in found if each]


def seed_values(directory: Directory) -> dict[str, str]:
    inode = directory.child("seed.iso")
    assert inode is not None
    text = directory.volume.read(inode.ino, 0, inode.size).decode("latin-1")
    keys = ("instance-id", "local-hostname", "machine-id")
    found = {key: re.findall(rf'[\0\n]{key}: "(.*)"\n', text) for key in keys}
    assert all(len(each) == 1 for each in found.values())
    assert found["machine-id"][0] in re.findall(r"printf '%s\\\\n' (\w{32})", text)
    assert 'ssh_deletekeys": true' in text
    return {key: each[0] for key, each in found.items()}


def test_a_thousand_clones_are_a_thousand_individuals(store: Store) -> None:
    base = base_vm(store)
    lab, taken = base.volume, index_of(store).macs
    seen: dict[str, list[str]] = {name: [] for name in IDENTITIES}
    roots = [base.xml()]
    for item in plan_of(CloneSpec(count=COUNT), "lab:/web-{n:04d}").items:
        path = item.address.partition(":")[2]
        made = individuals.clone(
            store, base, lab, path, MOUNT / item.name, Identity.new(item.name), taken
        )
        for key, value in seed_values(made).items():
            seen.setdefault(key, []).append(value)
        roots.append(made.xml())
        assert made.child("console.log") is None  # the base's output is not the clone's
    for root in roots:
        for name, where in IDENTITIES.items():
            seen[name] += [value for path in where for value in values(root, path)]
    for name, found in seen.items():
        of_base = sum(len(values(roots[0], path)) for path in IDENTITIES.get(name, []))
        assert len(found) == COUNT * TIMES.get(name, 1) + of_base, name
        assert len(set(found)) == len(found), name
    for root in roots[1:]:
        assert all(mac.startswith("52:54:00:") for mac in domain.macs(root))
        ports = [g.get(p, "-1") for g in root.iter("graphics") for p in ("port", "tlsPort")]
        assert set(ports) == {"-1"}
        assert [g.get("autoport") for g in root.iter("graphics")] == ["yes", "yes"]
        cid = root.find("devices/vsock/cid")
        assert cid is not None
        assert cid.attrib == {"auto": "yes"}
        assert OLD_UUID not in ET.tostring(root.find("devices") or root).decode()
        assert root.find("devices/tpm/backend/source") is None  # TPM state is kept by UUID


def test_names_that_would_be_one_host_name_are_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="host name"):
        plan_of(CloneSpec(rows=[{"x": "a_1"}, {"x": "A-1"}]), "lab:/{x}")
    long = "x" * 100
    plan = plan_of(CloneSpec(count=20), f"lab:/{long}{{n}}")
    names = {Identity.new(item.name).hostname for item in plan.items}
    assert len(names) == 20
    assert max(map(len, names)) <= 63


PIECES = (
    "..", "/", "../", "/etc/passwd", "'", '"', "`id`", "$(id)", "\n",
    "\r\n", "\t", " ", "\0", "\x7f",
    "\ufeff", "\u202e", "\u2028", "é", "日本", "😀", "<", ">", "&amp;", "&", "]]>", "<!--", "<x/>",
    "</name>", "%s", "{n}", "{", "}", "{{ x }}", "\\", ";", "|", "-", ".", "~", "*", "?", "#", ":",
    "lab:", "@", "lab@s:", ".snapshots", "domain.xml", "seed.iso", "golden", "web", "x" * 300, "0",
    "con", "=", ",", "\ud800",
)  # fmt: skip


def hostile(rng: random.Random) -> str:
    pieces = rng.choices(PIECES, k=rng.randint(1, 5))
    return "".join(pieces)[: rng.choice((5, 50, 300, 301))]


def shape(element: ET.Element) -> tuple[str, tuple[str, ...], list[object]]:
    return element.tag, tuple(sorted(element.attrib)), [shape(child) for child in element]


def strange(name: str) -> ET.Element:
    """A domain whose every free text is the name; the disks are files of the VM."""
    root = ET.fromstring(RICH)
    for path in ("name", "title", "sysinfo/system/entry[@name='serial']", "devices/disk/serial"):
        found = root.find(path)
        assert found is not None
        found.text = name
    for path, attribute in (
        ("devices/channel/source", "path"), ("devices/graphics/listen", "socket"),
        ("devices/interface/target", "dev"), ("devices/interface/source", "network"),
    ):  # fmt: skip
        element = root.find(path)
        assert element is not None
        element.set(attribute, f"/run/{name}/x" if attribute in ("path", "socket") else name)
    return root


def here(path: str) -> str | None:
    name = path.rpartition("/")[2]
    return f"/new/{name}" if name in ("disk.raw", "golden_VARS.fd", "console.log") else None


def test_hostile_names_change_no_structure() -> None:
    rng = random.Random(4)
    plain = strange("golden")
    customize(plain, Identity.new("web"), here, "/new/seed.iso", set())
    expected, refused = shape(plain), 0
    for _ in range(NAMES):
        name = hostile(rng)
        try:
            root = domain.parse(domain.serialize(strange(name)))
            customize(root, Identity.new("web"), here, "/new/seed.iso", set())
            assert shape(domain.parse(domain.serialize(root))) == expected, name
        except (errors.InvalidArgument, UnicodeEncodeError):
            refused += 1
            continue
        mine = [s.get("file", "") for _, s in domain.disks(root)]
        assert [each for each in mine if each.startswith("/new/")] == ["/new/disk.raw",
                                                                       "/new/seed.iso"]  # fmt: skip
    assert refused < NAMES * 3 / 4


def test_hostile_names_never_leave_their_place(store: Store, tmp_path: Path) -> None:
    base = base_vm(store)
    lab, rng, good = base.volume, random.Random(5), 0
    template = user_data_template("#cloud-config\nx: {{ x | tojson }}\n")
    for n in range(NAMES):
        name = hostile(rng)
        with suppress(errors.RametError):
            for spec, target in ((CloneSpec(), f"lab:/{name}"),
                                 (CloneSpec(rows=[{"x": name}]), "lab:/d/{x}")):  # fmt: skip
                item = plan_of(spec, target).items[0]
                assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", item.name)
        with suppress(errors.RametError, UnicodeEncodeError):
            template.render({"x": name})
        if n % 10 == 0:  # past every check of names, straight into the engine
            good += clones_stay_inside(store, base, lab, name)
    assert good > NAMES / 100
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert [entry.name for entry in lab.readdir(ROOT_INO)] == [b"golden"]
    assert Directory(lab, "/golden", None).machine.uuid == OLD_UUID


def clones_stay_inside(store: Store, base: Directory, lab: Volume, name: str) -> bool:
    before = lab.files
    values = {"x": name}
    wishes = Wishes(user_data=user_data_template("#!/bin/sh\n: {{ x | quote }}\n"), values=values)
    try:
        identity = Identity.new("web")
        made = individuals.clone(store, base, lab, f"/{name}", None, identity, set(), wishes)
    except (errors.RametError, UnicodeEncodeError, ValueError):
        assert lab.files == before
        return False
    parent, entry = lab.resolve_parent(made.path)
    assert lab.lookup(parent.ino, entry).ino == made.inode.ino
    assert parent.ino in (ROOT_INO, base.inode.ino)
    store.remove_tree(lab, parent.ino, entry)
    assert lab.files == before
    return True
