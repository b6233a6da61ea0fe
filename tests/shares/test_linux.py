"""A Linux kernel as client: its cifs mounts the share, its iscsi_tcp logs in to the LUNs."""

import hashlib
import os
import re
import subprocess
from pathlib import Path

import client
from client import Client
from presented import SECRET, Presented, eventually

MIB = 1 << 20

SMB = """
set -e
mount_smb() {
    mkdir -p /smb
    mount -t cifs //{host}/lab /smb -o ip={host},port={port},vers=3.0,$1
}
"""

ISCSI = """
modprobe iscsi_tcp
mkdir -p /etc/iscsi
echo InitiatorName=iqn.2026-01.test:guest > /etc/iscsi/initiatorname.iscsi
iscsid -f > /iscsid.log 2>&1 &
said=0
while [ $said != 21 ]; do  # "no sessions": it answers
    said=0
    iscsiadm -m session > /dev/null 2>&1 || said=$?
    sleep 0.1
done
node() { iscsiadm -m node -T {iqn} -p {host}:{port} "$@"; }
node -o new > /dev/null
node -o update -n node.session.auth.authmethod -v CHAP
node -o update -n node.session.auth.username -v eve
login() {
    node -o update -n node.session.auth.password -v $1
    node --login > /login.log 2>&1
}
"""


def filled(text: str, **values: str) -> str:
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def smb(shared: Presented) -> str:
    return filled(SMB, host=client.HOST, port=shared.smb.partition(":")[2])


def iscsi(shared: Presented, iqn: str) -> str:
    return filled(ISCSI, host=client.HOST, port=shared.iscsi.partition(":")[2], iqn=iqn)


def lines(text: str) -> dict[str, str]:
    """What the script told, by its first word."""
    return dict(re.findall(r"^TOLD (\S+) (.*)$", text, re.MULTILINE))


def test_cifs_reads_writes_and_is_refused(shared: Presented, linux: Client) -> None:
    data = os.urandom(2 * MIB)
    (shared.lab / "fromhost").write_bytes(data)
    shared.share("lab", "--user", "eve", "--secret-file", shared.secret_file)
    shared.share("lab", "--name", "lab-ro", "--guest", "--read-only")
    script = (
        smb(shared)
        + f"""
        mount_smb user=eve,pass=wrong-secret && exit 1
        mount_smb user=eve,pass={SECRET}
        echo TOLD host $(md5sum < /smb/fromhost)
        dd if=/dev/urandom of=/smb/fromguest bs=64k count=16 2> /dev/null
        echo TOLD guest $(md5sum < /smb/fromguest)
        mkdir /smb/dir && mv /smb/fromguest /smb/dir/moved
        dd if=/dev/zero of=/smb/dir/moved bs=4k count=1 seek=3 conv=notrunc,fsync 2> /dev/null
        echo TOLD changed $(md5sum < /smb/dir/moved)
        umount /smb
        mount -t cifs //{client.HOST}/lab-ro /smb -o \
            ip={client.HOST},port={shared.smb.partition(":")[2]},vers=3.0,guest,sec=none
        echo TOLD again $(md5sum < /smb/fromhost)
        touch /smb/no 2> /dev/null && exit 1
        exit 0
    """
    )
    told = lines(linux.run(script))
    assert told["host"].split()[0] == told["again"].split()[0] == _md5(data)
    moved = (shared.lab / "dir" / "moved").read_bytes()
    assert told["changed"].split()[0] == _md5(moved)
    assert moved[12288:16384] == bytes(4096)
    assert told["guest"] != told["changed"]
    assert sorted(os.listdir(shared.lab)) == ["dir", "fromhost"]


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_iscsi_tcp_uses_a_lun_and_gives_space_back(shared: Presented, linux: Client) -> None:
    """An ext4 made here, used there, read here again; a disk filled and discarded."""
    tree = shared.root / "tree"
    tree.mkdir()
    (tree / "fromhost").write_text("made on the host\n")
    image = shared.root / "ext4"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image, "64M"], check=True)
    shared.run("import", image, "lab:/ext4")
    chap = ["--chap-user", "eve", "--chap-secret-file", shared.secret_file]
    lun = shared.lun("lab:/ext4", *chap)
    other = shared.json("share", "lun", "add", "lab:/raw", "--size", "64M")
    script = (
        "set -e\n"
        + iscsi(shared, lun["iqn"])
        + f"""
        login wrong-secret && exit 1
        login {SECRET}
        while [ ! -b /dev/sda ] || [ ! -b /dev/sdb ]; do sleep 0.1; done
        lun() {{ for each in /sys/block/sd?; do
            case $(readlink -f $each/device) in *:$1) basename $each;; esac; done; }}
        ext4=$(lun {lun["lun"]}) raw=$(lun {other["lun"]})
        for each in ext4 raw; do
            sys=/sys/block/$ext4
            if [ $each = raw ]; then sys=/sys/block/$raw; fi
            echo TOLD $each-wwid $(cat $sys/device/wwid)
            echo TOLD $each-serial $(tail -c 32 $sys/device/vpd_pg80)
            echo TOLD $each-blocks $(cat $sys/queue/logical_block_size \
                $sys/queue/physical_block_size $sys/size) $(cat $sys/queue/write_cache)
        done
        mount /dev/$ext4 /mnt
        cat /mnt/fromhost
        dd if=/dev/urandom of=/mnt/fromguest bs=1M count=8 conv=fsync 2> /dev/null
        echo TOLD file $(md5sum < /mnt/fromguest)
        umount /mnt
        dd if=/dev/urandom of=/dev/$raw bs=1M count=64 conv=fsync 2> /dev/null
        blkdiscard -o 16777216 -l 33554432 /dev/$raw
        echo TOLD left $(md5sum < /dev/$raw)
        node --logout > /dev/null
    """
    )
    said = linux.run(script)
    told = lines(said)
    assert "made on the host" in said, said
    for name, each in (("ext4", lun), ("raw", other)):
        assert told[f"{name}-wwid"] == "naa." + each["naa"]
        assert told[f"{name}-serial"] == each["serial"]
        assert told[f"{name}-blocks"] == "512 4096 131072 write back"
    read = subprocess.run(
        ["debugfs", "-R", "cat /fromguest", shared.lab / "ext4"], capture_output=True, check=True
    ).stdout
    assert told["file"].split()[0] == _md5(read)
    assert len(read) == 8 * MIB
    left = (shared.lab / "raw").read_bytes()
    assert told["left"].split()[0] == _md5(left)
    assert left[16 * MIB : 48 * MIB] == bytes(32 * MIB)
    row = next(r for r in shared.json("du", "lab:/") if r["name"] == "raw")
    assert row["referenced_bytes"] == 32 * MIB


def test_a_disk_grows_and_its_tgtd_dies_under_load(shared: Presented, linux: Client) -> None:
    """The guest writes and reads all the while and sees no error."""
    chap = ["--chap-user", "eve", "--chap-secret-file", shared.secret_file]
    lun = shared.lun("lab:/disk", "--size", "64M", *chap)
    shared.share("lab", "--guest")
    script = (
        smb(shared)
        + iscsi(shared, lun["iqn"])
        + f"""
        mount_smb guest,sec=none
        login {SECRET}
        while [ ! -b /dev/sda ]; do sleep 0.1; done
        dd if=/dev/urandom of=/pattern bs=64k count=16 2> /dev/null
        echo 0 > /rounds
        (
            n=0
            while [ ! -e /over ]; do
                dd if=/pattern of=/dev/sda bs=64k count=16 seek=$((n % 60 * 16)) \
                    oflag=direct conv=notrunc 2> /dev/null || exit 1
                dd if=/dev/sda bs=64k count=16 skip=$((n % 60 * 16)) iflag=direct 2> /dev/null |
                    cmp -s - /pattern || exit 1
                n=$((n + 1))
                echo $n > /rounds.new; mv /rounds.new /rounds
            done
            echo TOLD rounds $n
            sync
        ) &
        load=$!
        seen() {{ while [ ! -e /smb/$1 ]; do sleep 0.1; done; }}
        touch /smb/loaded
        seen grown
        rescans=0  # the session may still be on its way back: then a rescan finds what it knew
        while [ $(cat /sys/block/sda/size) = 131072 ] && [ $rescans -lt 100 ]; do
            echo 1 > /sys/block/sda/device/rescan
            rescans=$((rescans + 1))
            sleep 0.1
        done
        echo TOLD size $(cat /sys/block/sda/size)
        seen killed
        while kill -0 $load && [ $(cat /rounds) -lt 2 ]; do sleep 0.1; done
        before=$(cat /rounds)
        while kill -0 $load && [ $(cat /rounds) -lt $((before + 2)) ]; do sleep 0.1; done
        touch /over
        wait $load
        dmesg | grep -i 'i/o error' && exit 1
        exit 0
    """
    )
    log = shared.root / "console"
    guest = linux.start(script, log)
    try:
        eventually((shared.lab / "loaded").exists)
        _after_more_writes(shared)
        shared.run("share", "lun", "resize", "lab:/disk", "128M")
        _after_more_writes(shared)
        (shared.lab / "grown").touch()
        pids = shared.json("status")["share_daemons"]
        os.kill(pids[f"iscsi {shared.iscsi}"], 9)
        _after_more_writes(shared)
        (shared.lab / "killed").touch()
    finally:
        said = client.finish(guest, log)
    told = lines(said)
    assert told["size"] == str(128 * MIB // 512)
    assert int(told["rounds"]) > 3
    pattern = (shared.lab / "disk").read_bytes()[:MIB]
    assert (shared.lab / "disk").read_bytes()[MIB : 2 * MIB] == pattern != bytes(MIB)


def _after_more_writes(shared: Presented) -> None:
    """The initiator is at work (again)."""
    path: Path = shared.lab / "disk"
    before = path.stat().st_mtime_ns
    eventually(lambda: path.stat().st_mtime_ns > before)
