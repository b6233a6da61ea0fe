"""A Linux kernel mounts an export by NFSv3 and NFSv4.2: one boot, whose script does all of it.

The guest runs the checks of ``linux/``, and gives a sign by a file on the share where the host has
to look at the store, or to change something, in between.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import client
import nfs_client
import pytest
from nfs_client import DIR, checks, mount, told
from presented import Presented, eventually, free_port, presented

MIB = 1 << 20
ENTRIES, FEW = 2000, 200
NAMES = ("names", "contents", "opens", "locks", "fsx", "many")
CHECKS = [f"{dir}/{name}" for dir in DIR.values() for name in NAMES]
CHECKS += ["/m3/m3", "/m4/m4", "/m4/space"]

GUEST = """
for name in names contents opens locks; do
    for dir in /m3 /m4; do mkdir $dir/$name && check $name $dir/$name && rmdir $dir/$name; done
done
check fsx /m3/fsx 11 300 3
check fsx /m4/fsx 12 300 4.2
mkdir /m4/space && check space /m4/space && rmdir /m4/space
for dir in /m3 /m4; do
    check list $dir/many ENTRIES
    check list $dir$dir FEW && check empty $dir$dir
done

tell() { echo "TOLD $1 $(digest /m3/$2) $(digest /m4/$2)"; }
tell fromhost fromhost
dd if=/dev/urandom of=/m3/from3 bs=30001 count=20 conv=fsync 2> /dev/null
dd if=/dev/urandom of=/m4/from4 bs=30001 count=20 conv=fsync 2> /dev/null
tell from3 from3
tell from4 from4
tell past .snapshots/past/fromhost
sign doors
tell changed fromhost
tell cloned cloned
linux_client clone /m4/.snapshots/past/fromhost /m4/back || exit 1
tell back back

dd if=/dev/urandom of=/m4/big bs=64k count=128 conv=fsync 2> /dev/null
sign filled
writes=$(operations /m4 WRITE) clones=$(operations /m4 CLONE)
linux_client clone /m4/big /m4/reflink || exit 1
echo TOLD operations $(($(operations /m4 WRITE) - writes)) $(($(operations /m4 CLONE) - clones))
sign reflinked
tell big big
tell reflink reflink
dd if=/dev/urandom of=/m4/sparse bs=64k count=128 conv=fsync 2> /dev/null
sign refilled
linux_client punch /m4/sparse 2097152 4194304 || exit 1
sign punched
tell sparse sparse

mkdir /root4
linux_client mount HOST:/ /root4 addr=HOST,vers=4.2,proto=tcp,port=PORT,clientaddr=10.0.2.15
echo TOLD root $(ls /root4)
echo TOLD through $(digest /root4/lab/from3)
umount /root4/lab /root4 /m3 /m4
dmesg | grep -iE 'nfs|rpc|oops|bug' | grep -viE 'registered|registering'
exit 0
"""


@dataclass
class Ran:
    """What the guest said, and the store's physical bytes when it gave a sign."""

    lab: dict[str, bytes] = field(default_factory=dict)
    said: str = ""
    physical_bytes: dict[str, int] = field(default_factory=dict)

    def digests(self, name: str) -> set[str]:
        """Of a file as both mounts saw it."""
        return set(told(self.said)[name].split())


def digest(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def ran() -> Iterator[Ran]:
    with tempfile.TemporaryDirectory(prefix="ramet-nfs-", dir="/var/tmp") as name:
        root = Path(name)
        guest = nfs_client.make(root / "client", Path(".venv/guest-cache"))
        with presented(root) as shared:
            yield _run(shared, guest)


def _fill(lab: Path) -> None:
    for name, count in (("many", ENTRIES), ("m3", FEW), ("m4", FEW)):
        (lab / name).mkdir()
        for number in range(count):
            os.close(os.open(lab / name / str(number), os.O_CREAT | os.O_WRONLY))


def _run(shared: Presented, guest: client.Client) -> Ran:
    ran = Ran()
    _fill(shared.lab)
    ran.lab["fromhost"] = os.urandom(MIB + 123)
    (shared.lab / "fromhost").write_bytes(ran.lab["fromhost"])
    shared.run("snapshot", "create", "lab", "past")
    port = free_port()
    shared.run(
        "share", "nfs", "add", "lab", "--client", "127.0.0.1/32:root", "--listen",
        f"127.0.0.1:{port}",
    )  # fmt: skip
    script = GUEST.replace("ENTRIES", str(ENTRIES)).replace("FEW", str(FEW))
    script = script.replace("HOST", client.HOST).replace("PORT", str(port))
    mounts = "".join(mount(version, port, "/lab") for version in DIR)
    log = shared.root / "console"
    process = guest.start(nfs_client.SCRIPT + mounts + script, log)
    try:
        for sign in ("doors", "filled", "reflinked", "refilled", "punched"):
            path = shared.lab / sign
            eventually(lambda path=path: process.poll() is not None or path.exists(), client.BOOT_S)
            if process.poll() is None:
                _at_sign(shared, ran, sign)
                (shared.lab / f"{sign}-seen").touch()
    except BaseException:
        process.kill()
        process.wait()
        print(log.read_text(errors="replace"))
        raise
    ran.said = client.finish(process, log)
    for name in ("fromhost", "from3", "from4", "big", "sparse"):
        ran.lab[f"{name} at last"] = (shared.lab / name).read_bytes()
    return ran


def _at_sign(shared: Presented, ran: Ran, sign: str) -> None:
    if sign == "doors":
        with (shared.lab / "fromhost").open("rb+") as file:
            file.seek(5000)
            file.write(b"changed by the mount")
        shared.run("clone", "lab:/fromhost", "lab:/cloned")

    def physical_bytes() -> int:
        return int(shared.json("df")["physical_bytes"])

    if sign == "punched":  # what was cut off is given back in short steps
        wanted = ran.physical_bytes["refilled"] - 4 * MIB
        with contextlib.suppress(AssertionError):
            eventually(lambda: physical_bytes() == wanted)
    ran.physical_bytes[sign] = physical_bytes()


@pytest.mark.parametrize("path", CHECKS)
def test_a_check_of_the_kernel_client_passes(ran: Ran, path: str) -> None:
    assert checks(ran.said).get(path, "it was not run") == ""


def test_what_one_door_changes_the_others_see(ran: Ran) -> None:
    assert ran.digests("fromhost") == ran.digests("past") == {digest(ran.lab["fromhost"])}
    assert ran.digests("from3") == {digest(ran.lab["from3 at last"])}
    assert ran.digests("from4") == {digest(ran.lab["from4 at last"])}
    assert len(ran.lab["from3 at last"]) == len(ran.lab["from4 at last"]) == 20 * 30001


def test_a_file_changed_and_cloned_by_others_is_seen(ran: Ran) -> None:
    assert ran.lab["fromhost at last"] != ran.lab["fromhost"]
    assert ran.digests("changed") == {digest(ran.lab["fromhost at last"])}
    assert ran.digests("cloned") == ran.digests("changed")


def test_a_file_comes_back_from_a_snapshot_by_reflink(ran: Ran) -> None:
    assert ran.digests("back") == {digest(ran.lab["fromhost"])}


def test_a_reflink_copies_nothing(ran: Ran) -> None:
    """No WRITE, one CLONE, not a slot more."""
    assert told(ran.said)["operations"] == "0 1"
    assert ran.physical_bytes["reflinked"] == ran.physical_bytes["filled"]
    assert ran.digests("reflink") == ran.digests("big") == {digest(ran.lab["big at last"])}


def test_a_punched_hole_gives_its_space_back(ran: Ran) -> None:
    assert ran.physical_bytes["refilled"] - ran.physical_bytes["punched"] == 4 * MIB
    assert ran.lab["sparse at last"][2 * MIB : 6 * MIB] == bytes(4 * MIB)
    assert ran.digests("sparse") == {digest(ran.lab["sparse at last"])}


def test_the_pseudo_root_leads_to_the_exports(ran: Ran) -> None:
    assert told(ran.said)["root"] == "lab"
    assert told(ran.said)["through"] == digest(ran.lab["from3 at last"])
