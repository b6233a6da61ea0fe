"""A real Debian with cloud-init beside two small guests: who they are, and quiesced copies of one.

The Debian boots once; all that needs a running guest with an agent is asked of it then.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import debian
import pytest
from guests import Guest

from hypervisor.driver import connect
from hypervisor.quiesce import start_guard
from service import moments

if TYPE_CHECKING:
    from conftest import Lab

XML = Path(__file__).parents[1] / "guest" / "debian.xml"
ROOT_AT = 64 << 20  # build.py: the boot partition ends there
BOOT_S = 540.0
VARIABLES = 'site,address,note\nfra,10.11.12.13/24,"it\'s: a # note"\n'
NETWORK = """\
version: 2
ethernets:
  eth0:
    match: {macaddress: {{ mac | tojson }}}
    addresses: [{{ address | tojson }}]
"""
USER_DATA = """\
#cloud-config
bootcmd:
  - [sh, -c, "echo theirs > /run/their-bootcmd"]
write_files:
  - path: /etc/note
    content: {{ note | tojson }}
runcmd:
  - - sh
    - -c
    - |
      echo "RAMET-GUEST hostname=$(hostname) machine-id=$(cat /etc/machine-id)" \\
        "mac=$(cat /sys/class/net/eth0/address) uuid=$(cat /sys/class/dmi/id/product_uuid)" \\
        "hostkey=$(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f2)" \\
        "instance-id=$(cloud-init query instance_id) site={{ site }} n={{ n }}" \\
        "bootcmd=$(cat /run/their-bootcmd) cpus=$(nproc)" \\
        "memory=$(sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo)" \\
        "disk=$(cat /sys/class/block/vda/size)" \\
        "root=$(df -k --output=size / | tail -n1 | tr -d ' ')" \\
        "address=$(ip -4 -o addr show eth0 | awk '/10.11/{print $4}')" > /dev/ttyS1
"""


pytestmark = pytest.mark.deep


@pytest.fixture(scope="session")
def golden_debian() -> Path:
    return debian.image(Path(".cache/guest"))


def prepare(lab: "Lab", image: Path, small: Path, tmp_path: Path) -> None:
    lab.ramet.run("rm", "lab:/golden/golden.raw")
    lab.ramet.run("import", small, "lab:/golden/golden.raw")
    lab.ramet.run("import", "-p", image, "lab:/debian/root.raw")
    lab.ramet.run("vm", "add", "lab:/debian", "--xml", XML)
    for name, text in (("v.csv", VARIABLES), ("n.yaml", NETWORK), ("u.yaml", USER_DATA)):
        (tmp_path / name).write_text(text)


def test_three_guests_side_by_side_and_one_is_quiesced(
    lab: "Lab", golden_debian: Path, golden: Path, tmp_path: Path
) -> None:
    prepare(lab, golden_debian, golden, tmp_path)
    small = lab.ramet.json("vm", "clone", "lab:/golden", "lab:/vms-small-{n}", "--count", 2,
                           "--power-on")  # fmt: skip
    made = lab.ramet.json(
        "vm", "clone", "lab:/debian", "lab:/vms-{site}-{n:02d}", "--start", 7,
        "--var", tmp_path / "v.csv", "--network", tmp_path / "n.yaml",
        "--user-data", tmp_path / "u.yaml", "--memory", "640M", "--vcpus", 2,
        "--disk-size", "2G", "--power-on",
    )  # fmt: skip
    vms = [*small["vms"], *made["vms"]]
    logs = ["console.log", "console.log", "told.log"]
    guests = [
        Guest(lab.libvirt, vm["name"], lab.mount / "lab" / vm["name"] / log)
        for vm, log in zip(vms, logs, strict=True)
    ]
    told = [guest.identity(BOOT_S) for guest in guests]
    assert all(guest.domain.isActive() for guest in guests)  # side by side
    for key in ("hostname", "machine-id", "mac", "uuid", "hostkey", "instance-id"):
        assert len({each[key] for each in told}) == 3, key
    for vm, each in zip(vms, told, strict=True):
        assert each["uuid"].lower() == vm["uuid"]
        assert each["mac"] == vm["macs"][0]
        assert each["hostname"] == vm["name"]
    for guest in guests[:2]:
        guest.shut_down()

    said = told[2]
    assert said["hostname"] == "vms-fra-07"
    assert said["machine-id"] != debian.MACHINE_ID
    assert said["hostkey"] != golden_debian.with_suffix(".key").read_text()
    assert (said["site"], said["n"], said["bootcmd"]) == ("fra", "7", "theirs")
    assert said["address"] == "10.11.12.13/24"
    assert said["cpus"] == "2"
    assert 560 << 10 < int(said["memory"]) <= 640 << 10
    assert int(said["disk"]) * 512 == 2 << 30
    assert int(said["root"]) << 10 > 1500 << 20  # grown by the guest's own cloud-init
    guests[2].wait_for_agent()
    quiesced_copies_are_clean(lab, guests[2])
    nothing_keeps_a_guest_frozen(lab, guests[2], made["vms"][0]["uuid"])
    guests[2].shut_down()


def quiesced_copies_are_clean(lab: "Lab", guest: Guest) -> None:
    base = f"lab:/{guest.domain.name()}"
    crash = lab.ramet.json("vm", "clone", base, "lab:/vms-crash")
    still = lab.ramet.json("vm", "clone", base, "lab:/vms-still-{n}", "--count", 3, "--quiesce")
    assert (crash["consistency"], still["consistency"]) == ("crash", "quiesced")
    assert not guest.frozen()
    assert lab.ramet.json("snapshot", "ls", "lab") == []
    disks = [lab.mount / "lab" / f"vms-{name}" / "root.raw" for name in
             ("crash", "still-1", "still-2", "still-3")]  # fmt: skip
    assert [needs_recovery(disk) for disk in disks] == [True, False, False, False]
    first = disks[1].read_bytes()
    assert all(disk.read_bytes() == first for disk in disks[2:])  # of one instant
    note = subprocess.run(
        ["debugfs", "-R", "cat /etc/note", f"{disks[1]}?offset={ROOT_AT}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert note == "it's: a # note"


def needs_recovery(disk: Path) -> bool:
    """Whether the ext4 journal has to be replayed: its file system was in use.

    Source: Linux, ext4/super.rst: s_feature_incompat at 0x60, INCOMPAT_RECOVER 0x4.
    """
    with disk.open("rb") as file:
        file.seek(ROOT_AT + 1024)
        superblock = file.read(1024)
    assert superblock[0x38:0x3A] == b"\x53\xef"
    return bool(int.from_bytes(superblock[0x60:0x64], "little") & 4)


FREEZE_AND_HANG = """
import sys, signal
from hypervisor.driver import connect
from hypervisor.quiesce import freeze
held = freeze(connect(sys.argv[1]), sys.argv[2], "guest")
print("frozen", flush=True)
signal.pause()
"""


def nothing_keeps_a_guest_frozen(lab: "Lab", guest: Guest, uuid: str) -> None:
    # not a daemon that is killed
    with subprocess.Popen(
        [sys.executable, "-c", FREEZE_AND_HANG, lab.uri, uuid], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "frozen\n"
        assert guest.frozen()
        process.send_signal(signal.SIGKILL)
    guest.wait_until_thawed()

    # not one that hangs
    hypervisor = connect(lab.uri)
    guard = start_guard(lab.uri, uuid, 1)
    assert hypervisor.freeze(uuid, 10) > 0
    assert guard.wait(60) == 0
    assert not guest.frozen()
    assert hypervisor.thaw(uuid, 10) == 0  # which is how a copy is known not to be of a still guest
    assert guard.stdin is not None
    guard.stdin.close()

    # and what a daemon has noted it lets go when it starts again
    assert hypervisor.freeze(uuid, 10) > 0
    hypervisor.close()
    moments._thaw(moments.Record(uri=lab.uri, uuid=uuid))
    assert not guest.frozen()
