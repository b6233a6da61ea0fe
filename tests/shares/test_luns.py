"""LUNs as initiators see them: libiscsi's tools, QEMU, and what happens to them meanwhile."""

import os
import signal
import socket
import subprocess

import pytest
from presented import (
    SECRET,
    Disk,
    Presented,
    eventually,
    inquiry,
    qemu_io,
    size_of,
    with_user,
)

MIB = 1 << 20


def test_a_lun_is_its_file_and_shows_at_once_what_either_door_writes(shared: Presented) -> None:
    image = os.urandom(4 * MIB)
    (shared.root / "image").write_bytes(image)
    shared.run("import", shared.root / "image", "lab:/disk")
    lun = shared.lun("lab:/disk")
    assert (lun["state"], lun["lun"], lun["size_bytes"]) == ("up", 1, 4 * MIB)
    compared = ["qemu-img", "compare", "-f", "raw", "-F", "raw", lun["url"], shared.root / "image"]
    subprocess.run(compared, check=True, capture_output=True)

    with Disk(lun["url"]) as disk:
        assert "wrote 65536/65536" in disk.do("write -P 0xab 1M 64k")
        with (shared.lab / "disk").open("r+b") as file:
            file.seek(MIB)
            assert file.read(65536) == b"\xab" * 65536
            file.seek(2 * MIB)
            file.write(b"\xcd" * 65536)
        assert "read 65536/65536" in disk.do("read -P 0xcd 2M 64k")
        assert "verification failed" in disk.do("read -P 0xcc 2M 64k")
    shared.run("clone", "lab:/disk", "lab:/clone")
    assert (shared.lab / "clone").read_bytes() == (shared.lab / "disk").read_bytes()


def test_a_made_lun_takes_no_space_and_unmap_gives_it_back(shared: Presented) -> None:
    def referenced() -> int:
        return shared.json("du", "lab:/")[0]["referenced_bytes"]

    def physical() -> int:
        return shared.json("df")["physical_bytes"]

    lun = shared.lun("lab:/disk", "--size", "1G")
    assert (size_of(lun["url"]), referenced(), physical()) == (1 << 30, 0, 0)
    image = shared.root / "image"
    image.write_bytes(os.urandom(32 * MIB))
    copy = ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, lun["url"]]
    subprocess.run(copy, check=True)
    assert referenced() == physical() == 32 * MIB
    with Disk(lun["url"], "-d", "unmap") as disk:
        assert "discard 16777216/16777216" in disk.do("discard 0 16M")
        assert referenced() == 16 * MIB
        assert "read 16777216" in disk.do("read -P 0 0 16M")
        assert "wrote" in disk.do("write -z -u 16M 16M")  # WRITE SAME with UNMAP
    assert referenced() == 0
    eventually(lambda: physical() == 0)


def test_each_file_is_a_disk_of_its_own_for_good(shared: Presented) -> None:
    """A clone of a disk is another disk, by serial number and by NAA; a restart changes neither."""
    first = shared.lun("lab:/a", "--size", "1M")
    shared.run("clone", "lab:/a", "lab:/b-{n}", "--count", 3)
    luns = [first, *(shared.lun(f"lab:/b-{n}") for n in (1, 2, 3))]
    assert [lun["lun"] for lun in luns] == [1, 2, 3, 4]
    assert len({lun["iqn"] for lun in luns}) == 1
    for lun in luns:
        assert lun["serial"] in inquiry(lun["url"], 0x80)
        assert lun["naa"] in inquiry(lun["url"], 0x83).replace(" ", "").lower()
    assert len({lun["serial"] for lun in luns}) == len({lun["naa"] for lun in luns}) == 4
    shared.run("umount")
    shared.run("mount", shared.mount)
    again = [shared.json("share", "lun", "show", lun["address"]) for lun in luns]
    assert again == luns


def test_who_may_not_log_in_is_refused(shared: Presented) -> None:
    named = shared.lun("lab:/a", "--size", "1M", "--initiator", "iqn.2026-01.test:friend")
    assert named["serial"] in inquiry(named["url"], 0x80, "iqn.2026-01.test:friend")
    assert named["serial"] not in inquiry(named["url"], 0x80, "iqn.2026-01.test:stranger")
    shared.run("share", "lun", "set", "lab:/a", "--initiator", "10.0.0.0/8")
    assert named["serial"] not in inquiry(named["url"], 0x80, "iqn.2026-01.test:friend")
    shared.run("share", "lun", "set", "lab:/a", "--initiator", "127.0.0.1")
    assert named["serial"] in inquiry(named["url"], 0x80, "iqn.2026-01.test:stranger")
    assert (shared.states(), shared.json("share", "ls")[0]["access"]) == (["up"], "127.0.0.1/32")


def test_chap(shared: Presented) -> None:
    lun = shared.lun(
        "lab:/a", "--size", "1M", "--chap-user", "eve", "--chap-secret-file", shared.secret_file
    )
    right = with_user(lun["url"], "eve", SECRET)
    assert "read 4096/4096" in qemu_io(right, "read 0 4k")
    for user, secret in (("eve", "Tr0ub4dor-and-4"), ("adam", SECRET)):
        assert "read 4096" not in qemu_io(with_user(lun["url"], user, secret), "read 0 4k")
    assert "read 4096" not in qemu_io(lun["url"], "read 0 4k")
    other = shared.root / "other"
    other.write_text("another secret")
    shared.run("share", "lun", "set", "lab:/a", "--chap-user", "eve", "--chap-secret-file", other)
    assert "read 4096" not in qemu_io(right, "read 0 4k")
    shared.run("share", "lun", "set", "lab:/a", "--no-chap")
    assert "read 4096/4096" in qemu_io(lun["url"], "read 0 4k")


def test_a_lun_does_not_change_who_may_use_the_others(shared: Presented) -> None:
    shared.lun("lab:/a", "--size", "1M", "--initiator", "iqn.2026-01.test:friend")
    said = shared.run(
        "share", "lun", "add", "lab:/b", "--size", "1M", "--initiator", "ALL", code=1
    ).stderr
    assert "--target" in said
    assert os.listdir(shared.lab) == ["a"]  # what was made for it is gone
    joined = shared.json("share", "lun", "add", "lab:/b", "--size", "1M")
    assert joined["access"] == "iqn.2026-01.test:friend"
    apart = shared.lun("lab:/c", "--size", "1M", "--target", "open", "--initiator", "ALL")
    assert (apart["lun"], apart["iqn"]) == (1, joined["iqn"] + ".open")
    assert apart["serial"] in inquiry(apart["url"], 0x80)


def test_bad_input_is_refused_and_leaves_nothing(shared: Presented) -> None:
    (shared.lab / "odd").write_bytes(b"x" * 1000)
    (shared.lab / "good").write_bytes(bytes(MIB))
    short = shared.root / "short"
    short.write_text("short")
    for words in (
        ["lab:/odd"], ["lab:/none"], ["lab:/"], ["lab:/good", "--size", "1M"],
        ["lab:/new", "--size", "1000"], ["lab:/good", "--initiator", "Robert'); --"],
        ["lab:/good", "--initiator", "iqn.x:a,b=c"], ["lab:/good", "--initiator", "10.0.0.1/8"],
        ["lab:/good", "--initiator", "fe80::/64"], ["lab:/good", "--listen", "0.0.0.0:3290"],
        ["lab:/good", "--listen", "nowhere"], ["lab:/good", "--listen", "127.0.0.1:99999"],
        ["lab:/good", "--chap-user", "eve"], ["lab:/good", "--target", "A,b"],
        ["lab:/good", "--chap-user", "eve", "--chap-secret-file", short],
        ["lab:/good", "--chap-user", "e,ve", "--chap-secret-file", shared.secret_file],
    ):  # fmt: skip
        said = shared.run("share", "lun", "add", *words, code=None)
        assert said.returncode in (1, 12, 13), (words, said.stderr)
        assert said.stderr.count("\n") == 1
    assert shared.json("share", "ls") == []
    assert sorted(os.listdir(shared.lab)) == ["good", "odd"]
    shared.run("share", "lun", "rm", "lab:/good", code=12)
    shared.lun("lab:/good")
    shared.run("share", "lun", "add", "lab:/good", code=13)


def test_hostile_file_names_are_only_names(shared: Presented) -> None:
    """tgt's requests have no escapes: such a name must not reach it."""
    names = ["a,readonly=1", "b\nc", "%s$(id)", "d=e,path=x", "o'\"h", "ü☃", "x" * 255]
    for name in names:
        first = name.encode()[0]
        (shared.lab / name).write_bytes(bytes([first]) * MIB)
        lun = shared.lun(shared.lab / name)
        assert "read 1048576/1048576" in qemu_io(lun["url"], f"read -P {first} 0 1M")
        assert "wrote" in qemu_io(lun["url"], "write 0 4k")
    assert shared.states() == ["up"] * len(names)


@pytest.mark.parametrize("command", ["write -P 7 0 64k\nflush", "write -f -P 7 0 64k"])
def test_a_flush_of_an_initiator_is_on_disk(shared: Presented, command: str) -> None:
    """The daemon is killed at once: what was flushed is there, what was not need not be."""
    lun = shared.lun("lab:/a", "--size", "1M")
    with Disk(lun["url"]) as disk:
        for each in command.split("\n"):
            disk.do(each)
        os.kill(shared.json("status")["pid"], signal.SIGKILL)
    eventually(shared.ended)
    eventually(lambda: not shared.processes())  # tgtd goes with its daemon
    shared.run("mount", shared.mount)
    assert (shared.lab / "a").read_bytes()[:65536] == b"\7" * 65536
    assert shared.states() == ["up"]


def test_a_tgtd_that_dies_is_started_again(shared: Presented) -> None:
    lun = shared.lun("lab:/a", "--size", "1M", "--initiator", "127.0.0.0/8")
    with Disk(lun["url"]) as disk:
        disk.do("write -P 1 0 64k")
        (pid,) = shared.daemons()
        os.kill(pid, signal.SIGKILL)
        assert "read 65536/65536" in disk.do("read -P 1 0 64k")  # the initiator logs in again
        assert "wrote 65536/65536" in disk.do("write -P 2 0 64k")
    assert shared.daemons() != [pid]
    assert "died" in (shared.store / "run" / "daemon.log").read_text()
    assert lun["serial"] in inquiry(lun["url"], 0x80)


def test_a_lun_grows_in_use(shared: Presented) -> None:
    lun = shared.lun("lab:/a", "--size", "1M")
    with Disk(lun["url"]) as disk:
        disk.do("write -P 1 0 64k")
        grown = shared.json("share", "lun", "resize", "lab:/a", "8M")
        assert (grown["size_bytes"], grown["serial"]) == (8 * MIB, lun["serial"])
        assert "read 65536/65536" in disk.do("read -P 1 0 64k")
    assert size_of(lun["url"]) == 8 * MIB
    assert "wrote" in qemu_io(lun["url"], "write 7M 1M")
    assert "does not shrink" in shared.run("share", "lun", "resize", "lab:/a", "4M", code=1).stderr
    assert (shared.lab / "a").stat().st_size == 8 * MIB


def test_offline_and_online_keep_number_and_identity(shared: Presented) -> None:
    first, second = shared.lun("lab:/a", "--size", "1M"), shared.lun("lab:/b", "--size", "1M")
    with Disk(second["url"]) as disk:
        said = shared.run("share", "lun", "offline", "lab:/a", code=1).stderr
        assert "logged in" in said
        shared.run("share", "lun", "offline", "lab:/a", "--force")
        assert "read 4096/4096" in disk.do("read 0 4k")  # the other does not mind
    assert shared.states() == ["offline", "up"]
    assert "read" not in qemu_io(first["url"], "read 0 4k").replace("read/write", "")
    shared.run("umount")
    shared.run("mount", shared.mount)
    assert shared.states() == ["offline", "up"]
    assert shared.json("share", "lun", "online", "lab:/a") == first
    assert first["serial"] in inquiry(first["url"], 0x80)


def test_what_is_a_disk_keeps_a_name_and_follows_renames(shared: Presented) -> None:
    lun = shared.lun("lab:/disk", "--size", "1M")
    (shared.lab / "vm").mkdir()
    (shared.lab / "disk").rename(shared.lab / "vm" / "root")
    (shared.lab / "else").write_bytes(b"x")
    for words in (
        ["rm", "lab:/vm/root"], ["rm", "-r", "lab:/vm"], ["volume", "rm", "lab"],
        ["clone", "lab:/else", "lab:/vm/root", "--replace"],
    ):  # fmt: skip
        assert "LUN" in shared.run(*words, code=1).stderr
    for attempt in (
        (shared.lab / "vm" / "root").unlink,
        lambda: (shared.lab / "else").rename(shared.lab / "vm" / "root"),
    ):
        with pytest.raises(OSError, match="busy"):
            attempt()
    shared.run("volume", "rename", "lab", "den")
    (row,) = eventually(lambda: [r for r in shared.json("share", "ls") if r["state"] == "up"])
    assert (row["address"], row["url"]) == ("den:/vm/root", lun["url"])
    os.kill(shared.daemons()[0], signal.SIGKILL)  # found again under its new name
    eventually(lambda: lun["serial"] in inquiry(lun["url"], 0x80))
    shared.run("umount")
    assert "LUN" in shared.run("rm", "den:/vm/root", code=1).stderr  # without a daemon as well
    shared.run("share", "lun", "rm", "den:/vm/root")
    shared.run("rm", "-r", "den:/vm")


def test_a_restored_volume_is_presented_again(shared: Presented) -> None:
    lun = shared.lun("lab:/a", "--size", "1M")
    qemu_io(lun["url"], "write -P 1 0 64k")
    shared.run("snapshot", "create", "lab", "one")
    with Disk(lun["url"]) as disk:
        disk.do("write -P 2 0 64k")
        assert "open" in shared.run("snapshot", "restore", "lab", "one", code=1).stderr
        shared.run("snapshot", "restore", "lab", "one", "--force")
    eventually(lambda: "read 65536/65536" in qemu_io(lun["url"], "read -P 1 0 64k"))


def test_read_only_luns_and_snapshots(shared: Presented) -> None:
    (shared.lab / "a").write_bytes(b"\1" * MIB)
    shared.run("snapshot", "create", "lab", "one")
    (shared.lab / "a").write_bytes(b"\2" * MIB)
    now = shared.lun("lab:/a", "--read-only")
    then = shared.lun("lab@one:/a")
    for lun, byte in ((now, 2), (then, 1)):
        assert lun["read_only"]
        done = subprocess.run(
            ["qemu-io", "-r", "-f", "raw", "-c", f"read -P {byte} 0 1M", lun["url"]],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "read 1048576/1048576" in done.stdout
        assert "wrote" not in qemu_io(lun["url"], "write 0 4k")
    assert (shared.lab / "a").read_bytes() == b"\2" * MIB
    assert "LUN" in shared.run("snapshot", "rm", "lab", "one", code=1).stderr


def test_a_port_that_is_taken_is_an_error_and_nothing_is_left(shared: Presented) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(shared.iscsi.partition(":")[2])))
        taken.listen()
        said = shared.run(
            "share", "lun", "add", "lab:/a", "--size", "1M", "--listen", shared.iscsi, code=1
        ).stderr
    assert "--listen" in said
    assert shared.json("share", "ls") == []
    assert os.listdir(shared.lab) == []
    assert shared.processes() == set()
    assert shared.lun("lab:/a", "--size", "1M")["state"] == "up"


def test_the_last_lun_takes_its_target_and_its_daemon_with_it(shared: Presented) -> None:
    lun = shared.lun("lab:/a", "--size", "1M")
    shared.lun("lab:/b", "--size", "1M")
    assert shared.run("share", "lun", "rm", "lab:/b", "--dry-run")
    assert shared.states() == ["up", "up"]
    shared.run("share", "lun", "rm", "lab:/b")
    assert lun["serial"] in inquiry(lun["url"], 0x80)
    with Disk(lun["url"]) as disk:
        disk.do("read 0 4k")
        assert "logged in" in shared.run("share", "lun", "rm", "lab:/a", code=1).stderr
    eventually(lambda: not shared.json("share", "lun", "show", "lab:/a")["connected"])
    shared.run("share", "lun", "rm", "lab:/a")
    assert (shared.json("share", "ls"), shared.processes()) == ([], set())
    assert sorted(os.listdir(shared.lab)) == ["a", "b"]
    run = shared.store / "run"
    assert sorted(os.listdir(run)) == ["daemon.log", "ramet.sock"]


def test_umount_takes_all_down_and_mount_brings_all_back(shared: Presented) -> None:
    lun = shared.lun("lab:/a", "--size", "1M")
    shared.share("lab", "--guest")
    assert len(shared.processes()) >= 2
    with Disk(lun["url"]) as disk:
        disk.do("write -P 1 0 64k")
        shared.run("umount")
        assert shared.processes() == set()
        (row, other) = shared.json("share", "ls")
        assert (row["state"], row["reason"]) == ("offline", "the store is not mounted")
        assert other["kind"] == "smb"
        said = shared.run("share", "lun", "add", "lab:/b", "--size", "1M", code=1).stderr
        assert "ramet mount" in said
        shared.run("mount", shared.mount)
        assert "read 65536/65536" in disk.do("read -P 1 0 64k")  # it has logged in again
    assert shared.states() == ["up", "up"]


def test_a_daemon_that_is_told_to_end_takes_all_down(shared: Presented) -> None:
    lun = shared.lun("lab:/a", "--size", "1M")
    shared.share("lab", "--guest")
    for end in (
        lambda: os.kill(shared.json("status")["pid"], signal.SIGTERM),
        lambda: subprocess.run(["umount", "-l", shared.mount], check=True),
    ):
        with Disk(lun["url"]) as disk:
            disk.do("write -P 1 0 64k")
            end()
            eventually(shared.ended)
            eventually(lambda: not shared.processes())
            assert not os.path.ismount(shared.mount)
        shared.run("mount", shared.mount)
        assert shared.states() == ["up", "up"]


def test_a_share_that_cannot_be_presented_says_why_and_comes_up_later(shared: Presented) -> None:
    lun = shared.lun("lab:/a", "--size", "1M")
    shared.share("lab", "--guest")
    shared.run("umount")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(shared.iscsi.partition(":")[2])))
        taken.listen()
        shared.run("mount", shared.mount)
        failed, up = shared.json("share", "ls")
        assert (failed["state"], up["state"]) == ("failed", "up")
        assert "cannot listen" in failed["reason"]
        assert shared.json("status")["shares"] == {"failed": 1, "up": 1}
    eventually(lambda: shared.states() == ["up", "up"])
    assert lun["serial"] in inquiry(lun["url"], 0x80)


def test_ipv6(shared: Presented) -> None:
    at = "[::1]:" + shared.iscsi.partition(":")[2]
    lun = shared.json("share", "lun", "add", "lab:/a", "--size", "1M", "--listen", at)
    assert (lun["state"], lun["url"].startswith(f"iscsi://{at}/")) == ("up", True)
    assert "read 4096/4096" in qemu_io(lun["url"], "read 0 4k")
    shared.run("share", "lun", "set", "lab:/a", "--initiator", "fe80::/64")
    assert "read 4096" not in qemu_io(lun["url"], "read 0 4k")
    shared.run("share", "lun", "set", "lab:/a", "--initiator", "::1")
    assert "read 4096/4096" in qemu_io(lun["url"], "read 0 4k")
    at = "[::1]:" + shared.smb.partition(":")[2]
    share = shared.json("share", "smb", "add", "lab", "--guest", "--listen", at)
    assert share["state"] == "up"


def test_many_luns(shared: Presented) -> None:
    shared.lun("lab:/a", "--size", "1M")
    shared.run("clone", "lab:/a", "lab:/c-{n}", "--count", 19)
    for n in range(1, 20):
        shared.json("share", "lun", "add", f"lab:/c-{n}")
    rows = shared.json("share", "ls")
    assert {row["state"] for row in rows} == {"up"}
    assert [row["url"].rpartition("/")[2] for row in rows] == [str(n) for n in range(1, 21)]
    os.kill(shared.daemons()[0], signal.SIGKILL)
    last = shared.json("share", "lun", "show", "lab:/c-19")
    eventually(lambda: last["serial"] in inquiry(last["url"], 0x80))
