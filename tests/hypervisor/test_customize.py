"""Every identity that DESIGN.md lists differs, and hostile XML changes nothing."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich_domain import OLD_UUID, RICH

from engine import errors
from hypervisor import domain, seed
from hypervisor.customize import customize
from hypervisor.identity import Identity, check_name, hostname_of, new_mac
from hypervisor.placing import localize

HERE = {"golden_VARS.fd", "disk.raw", "console.log"}


def place(path: str) -> str | None:
    name = path.rpartition("/")[2]
    return f"/new/web-001/{name}" if name in HERE else None


def made(text: str = RICH, name: str = "web-001") -> ET.Element:
    root = domain.parse(text.encode())
    customize(root, Identity.new(name), place, f"/new/{name}/seed.iso", set())
    return domain.parse(domain.serialize(root))


def test_nothing_of_the_old_identity_is_left() -> None:
    root = made()
    metadata = root.find("metadata")
    assert metadata is not None
    lineage = metadata.find(f"{{{domain.NAMESPACE}}}clone")
    assert lineage is not None
    assert lineage.attrib == {"of": "golden", "of-uuid": OLD_UUID}
    assert metadata.findtext("{urn:app}x") == "kept"
    root.remove(metadata)
    text = domain.serialize(root).decode()
    for old in (
        "golden/", ">golden<", "golden.", OLD_UUID, "12:34:56", "vnet7", '"5907"', '"5908"',
        ">S1<", ">S2<", ">S3<", ">D1<", "5000c50015ea71aa", "/old/", "/run/agent.sock",
        "/var/log/boot.log", "net0", "+0:+0", 'address="7"', "portid", "backingStore", "index=",
    ):  # fmt: skip
        assert old not in text, old
    assert root.get("id") is None
    assert root.findtext("name") == "web-001"
    assert root.findtext("title") == "the web-001 one"
    assert root.findtext("genid") != root.findtext("uuid")
    assert root.findtext("sysinfo/system/entry[@name='uuid']") == root.findtext("uuid")
    assert root.findtext("sysinfo/system/entry[@name='manufacturer']") == "Lab"
    assert root.findtext("os/kernel") == "/boot/vmlinuz"
    assert root.findtext("os/loader") == "/usr/share/OVMF/OVMF_CODE.fd"
    assert root.findtext("os/nvram") == "/new/web-001/golden_VARS.fd"
    assert root.find("devices/disk/source[@file='/isos/tools.iso']") is not None
    assert root.find("devices/disk/source[@file='/new/web-001/seed.iso']") is not None
    assert len(set(domain.macs(root))) == 2
    assert root.find("seclabel[@type='none']") is not None


def test_what_else_is_a_vms_own_is_made_anew() -> None:
    more = """
    <memory model='nvdimm'><source><path>/old/golden/disk.raw</path></source></memory>
    <filesystem type='mount'><source dir='/old/golden/disk.raw'/><target dir='own'/></filesystem>
    <filesystem type='mount'><source dir='/srv/shared'/><target dir='shared'/></filesystem>
    <console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/></console>
    <audio id='1' type='file' path='/run/golden.wav'/>
    <interface type='network'><source network='default'/>
      <virtualport type='802.1Qbg'><parameters instanceid='OLD'/></virtualport>
      <filterref filter='clean-traffic'><parameter name='IP' value='10.0.0.7'/>
        <parameter name='DHCPSERVER' value='10.0.0.1'/></filterref></interface>
    <vsock>""".replace("OLD", OLD_UUID)
    root = made(RICH.replace("<vsock>", more))
    assert root.findtext("devices/memory/source/path") == "/new/web-001/disk.raw"
    directories = [source.get("dir") for source in root.iterfind("devices/filesystem/source")]
    assert directories == ["/new/web-001/disk.raw", "/srv/shared"]
    assert "/dev/pts/3" not in ET.tostring(root).decode()
    audio = root.find("devices/audio")
    assert audio is not None
    assert audio.get("path") == "/run/web-001.wav"
    assert OLD_UUID not in ET.tostring(root.find("devices") or root).decode()
    names = [each.get("name") for each in root.iter("parameter")]
    assert names == ["DHCPSERVER"]


def test_a_short_name_is_replaced_as_a_word_only() -> None:
    text = RICH.replace("golden", "r").replace("the r one", "r or rather r")
    root = made(text)
    assert root.findtext("title") == "web-001 or rather web-001"
    paths = [s.get("path") for s in root.iterfind("devices/channel/source")]
    assert paths == ["/run/web-001.agent", "/run/web-001-agent.sock"]


def test_a_clone_of_a_clone_keeps_one_seed_and_one_lineage() -> None:
    first = domain.serialize(made()).decode()
    root = made(first, "web-002")
    seeds = [s.get("file") for _, s in domain.disks(root) if "seed" in s.get("file", "")]
    assert seeds == ["/new/web-002/seed.iso"]
    found = root.findall(f"metadata/{{{domain.NAMESPACE}}}clone")
    assert [each.get("of") for each in found] == ["web-001"]


def test_a_thousand_identities_share_nothing() -> None:
    taken: set[str] = set()
    seen: dict[str, set[str]] = {}
    for n in range(1000):
        root, identity = domain.parse(RICH.encode()), Identity.new(f"web-{n}")
        taken |= set(customize(root, identity, place, "/seed.iso", taken))
        values = {field: getattr(identity, field) for field in Identity.__slots__}
        values |= {"serial": root.findtext("devices/disk/serial") or ""}
        values |= {"wwn": root.findtext("devices/disk/wwn") or ""}
        for field, value in values.items():
            seen.setdefault(field, set()).add(value)
    assert {field: len(values) for field, values in seen.items()} == dict.fromkeys(seen, 1000)
    assert len(taken) == 2000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("type='file' device='disk'", "type='block' device='disk'"),
        ("/old/golden/disk.raw", "/elsewhere/other.raw"),
        ("<vsock>", "<hostdev mode='subsystem' type='pci'/><vsock>"),
        ("<qemu:arg value='-d'/>", "<qemu:arg value='mac=52:54:00:12:34:56'/>"),
        ("type='unix'><source mode='bind' path='/run/agent.sock'/>",
         "type='tcp'><source mode='bind' host='0' service='4555'/>"),
        ("<name>golden</name>", ""),
        ("<qemu:arg value='-d'/>", "<qemu:arg value='guest=golden,debug=on'/>"),
        ("<qemu:arg value='-d'/>", "<qemu:arg value='file=/old/golden/disk.raw'/>"),
        ("<kernel>", "<cmdline>ro systemd.machine_id=0123</cmdline><kernel>"),
        ("<vsock>", "<tpm><backend type='passthrough'/></tpm><vsock>"),
        ("<vsock>", "<input type='evdev'><source dev='/dev/input/event1'/></input><vsock>"),
        ("<vsock>", "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface><vsock>"),
        ("<vsock>", "<interface type='server'><source port='5558'/></interface><vsock>"),
        ("<vsock>", "<interface type='ethernet'><target dev='tap0' managed='no'/></interface>"
         "<vsock>"),
        ("<vsock>", "<filesystem type='file'><source file='/x'/></filesystem><vsock>"),
        ("<vsock>", "<filesystem type='mount'><source socket='/x'/></filesystem><vsock>"),
        ("<vsock>", "<parallel type='dev'><source path='/dev/parport0'/></parallel><vsock>"),
        ("<vsock>", "<serial type='udp'><source mode='bind' host='0' service='4555'/></serial>"
         "<vsock>"),
        ("<vsock>", "<memory model='nvdimm'><source><path>/else/where</path></source></memory>"
         "<vsock>"),
        ("<vsock>", "<video><driver name='/old/golden/disk.raw'/></video><vsock>"),
    ],
)  # fmt: skip
def test_what_two_vms_cannot_share_is_refused(old: str, new: str) -> None:
    assert old in RICH
    with pytest.raises(errors.InvalidArgument):
        made(RICH.replace(old, new, 1))


@pytest.mark.parametrize(
    "text",
    [
        b"", b"<domain", b"<pool/>", b"\xff\xfe", b"<domain><name>&x;</name></domain>",
        b"<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain/>",
        b"<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><domain><name>&b;</name></domain>",
        b"<domain>" + b"<a>" * 100 + b"</a>" * 100 + b"</domain>",
        b"<domain>" + b" " * (2 << 20) + b"</domain>",
    ],
)  # fmt: skip
def test_hostile_xml_is_refused(text: bytes) -> None:
    with pytest.raises(errors.InvalidArgument):
        domain.parse(text)


@given(st.text(max_size=300))
def test_a_name_is_plain_or_refused(name: str) -> None:
    try:
        check_name(name)
    except errors.InvalidArgument:
        return
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", name)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", hostname_of(name))


def test_macs_avoid_those_taken() -> None:
    all_but_one = {f"52:54:00:{n >> 8:02x}:{n & 255:02x}:00" for n in range(65536)}
    mac = new_mac(all_but_one)
    assert mac not in all_but_one
    assert re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", mac)


def test_localize_moves_the_vms_own_files_only() -> None:
    root = domain.parse(RICH.encode())
    localize(root, place)
    text = domain.serialize(root).decode()
    assert "/new/web-001/disk.raw" in text
    assert "/new/web-001/console.log" in text
    assert "/isos/tools.iso" in text
    assert OLD_UUID in text


def test_the_seed_is_an_iso_that_tools_can_read(tmp_path: object) -> None:
    identity = Identity.new("Web_001")
    image = seed.build(identity, "#cloud-config\nusers: []\n")
    assert image[32808:32814] == b"cidata"
    text = image.decode("latin-1")
    assert f'local-hostname: "{identity.hostname}"' in text
    assert identity.instance_id in text
    assert "multipart/mixed" in text
    with pytest.raises(errors.InvalidArgument):
        seed.build(identity, "users: []")
    with pytest.raises(errors.TooLarge):
        seed.build(identity, "#" * (2 << 20))
