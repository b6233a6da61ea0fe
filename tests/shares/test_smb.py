"""SMB shares as smbclient sees them."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path

from presented import SECRET, Presented, eventually, smb_client

EVE = f"eve%{SECRET}"


def eve(shared: Presented, *more: object) -> list[object]:
    return ["--user", "eve", "--secret-file", shared.secret_file, *more]


def test_what_either_door_writes_the_other_reads(shared: Presented) -> None:
    data = os.urandom(3 << 20)
    (shared.root / "data").write_bytes(data)
    made = shared.share("lab", *eve(shared))
    assert (made["state"], made["url"]) == ("up", f"smb://{shared.smb}/lab")
    smb_client(shared, "lab", "mkdir vm", "cd vm", "put data disk", user=EVE)
    assert (shared.lab / "vm" / "disk").read_bytes() == data
    (shared.lab / "vm" / "disk").write_bytes(data[::-1])
    smb_client(shared, "lab", "cd vm", "get disk back", user=EVE)
    assert (shared.root / "back").read_bytes() == data[::-1]
    shared.run("clone", "lab:/vm/disk", "lab:/vm/clone")
    assert "clone" in smb_client(shared, "lab", "ls vm\\*", user=EVE)
    smb_client(shared, "lab", "del vm\\disk", user=EVE)
    assert os.listdir(shared.lab / "vm") == ["clone"]


def test_who_may_not_connect_is_refused(shared: Presented) -> None:
    shared.share("lab", *eve(shared))
    assert "LOGON_FAILURE" in smb_client(shared, "lab", "ls", user="eve%wrong-secret")
    assert "ACCESS_DENIED" in smb_client(shared, "lab", "ls", user=f"adam%{SECRET}")
    assert "ACCESS_DENIED" in smb_client(shared, "lab", "ls")
    shared.run("volume", "create", "den")
    other = shared.root / "other"
    other.write_text("another secret")
    shared.share("den", "--user", "adam", "--secret-file", other)
    assert "ACCESS_DENIED" in smb_client(shared, "den", "ls", user=EVE)
    assert "blocks" in smb_client(shared, "den", "ls", user="adam%another secret")
    said = shared.run(
        "share", "smb", "add", "den", "--name", "x", "--listen", shared.smb,
        "--user", "eve", "--secret-file", other, code=1,
    ).stderr  # fmt: skip
    assert "another secret" not in said.replace("has another secret", "")


def test_read_only_guests_and_snapshots(shared: Presented) -> None:
    (shared.lab / "a").write_bytes(b"one")
    shared.run("snapshot", "create", "lab", "monday")
    (shared.lab / "a").write_bytes(b"two")
    shared.share("lab", "--guest", "--read-only")
    shared.share("lab@monday", "--guest")
    for name, data in (("lab", b"two"), ("lab-monday", b"one")):
        smb_client(shared, name, "get a back")
        assert (shared.root / "back").read_bytes() == data
        assert "NT_STATUS" in smb_client(shared, name, "put secret a")
        assert "NT_STATUS" in smb_client(shared, name, "del a")
    assert (shared.lab / "a").read_bytes() == b"two"
    assert "SMB" in shared.run("snapshot", "rm", "lab", "monday", code=1).stderr
    shared.run("share", "smb", "rm", "lab-monday")
    assert "BAD_NETWORK_NAME" in smb_client(shared, "lab-monday", "ls")
    shared.run("snapshot", "rm", "lab", "monday")


def test_a_share_leads_nowhere_else(shared: Presented) -> None:
    shared.share("lab", "--guest")
    (shared.lab / "out").symlink_to(shared.root)
    (shared.lab / "up").symlink_to("../..")
    for path in ("out\\secret", "up\\store\\lock", "..\\..\\secret"):
        assert "NT_STATUS" in smb_client(shared, "lab", f"get {path} back")
    assert not (shared.root / "back").exists()


def test_files_belong_to_the_volume_s_owner(shared: Presented) -> None:
    os.chown(shared.lab, 1234, 1235)
    shared.share("lab", *eve(shared))
    smb_client(shared, "lab", "put secret a", user=EVE)
    found = (shared.lab / "a").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 1235, 0o644)


def test_an_smbd_that_dies_is_started_again(shared: Presented) -> None:
    shared.share("lab", *eve(shared))
    before = shared.processes()
    os.kill(shared.daemons()[0], signal.SIGKILL)
    eventually(lambda: "blocks" in smb_client(shared, "lab", "ls", user=EVE))
    eventually(lambda: not before & (shared.processes() - {shared.json("status")["pid"]}))
    assert shared.states() == ["up"]
    os.kill(shared.json("status")["pid"], signal.SIGKILL)  # and it goes with its daemon
    eventually(shared.ended)
    eventually(lambda: not shared.processes())
    shared.run("mount", shared.mount)
    assert "blocks" in smb_client(shared, "lab", "ls", user=EVE)


def test_a_share_follows_its_volume_and_keeps_it(shared: Presented) -> None:
    (shared.lab / "a").write_bytes(b"one")
    shared.share("lab", "--guest", "--name", "data")
    assert "SMB" in shared.run("volume", "rm", "lab", code=1).stderr
    shared.run("volume", "rename", "lab", "den")
    shared.run("volume", "create", "lab")
    eventually(lambda: " a " in smb_client(shared, "data", "ls"))
    shared.run("share", "smb", "rm", "DATA")
    assert (shared.json("share", "ls"), shared.processes() - {0}) == ([], set())
    shared.run("volume", "rm", "den")


def test_bad_input_is_refused_and_leaves_nothing(shared: Presented) -> None:
    for words in (
        ["lab"], ["none", "--guest"], ["lab", "--guest", "--name", "a]\n[b"],
        ["lab", "--guest", "--name", "homes"], ["lab", "--guest", *eve(shared)],
        ["lab", "--user", "eve"], ["lab", "--user", "root", "--secret-file", shared.secret_file],
        ["lab", "--user", "a b", "--secret-file", shared.secret_file],
    ):  # fmt: skip
        said = shared.run("share", "smb", "add", *words, "--listen", shared.smb, code=None)
        assert said.returncode in (1, 12), (words, said.stderr)
    with socket.socket() as taken:
        host, _, port = shared.smb.partition(":")
        taken.bind((host, int(port)))
        taken.listen()
        said = shared.run("share", "smb", "add", "lab", "--guest", "--listen", shared.smb, code=1)
    assert "--listen" in said.stderr
    assert (shared.json("share", "ls"), shared.processes()) == ([], set())
    shared.share("lab", "--guest")
    shared.run("share", "smb", "add", "lab", "--guest", "--name", "LAB", code=13)


class Watch:
    """Looks at the arguments and the environment of every process, as often as it can."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.is_set():
            self.looks += 1
            for each in Path("/proc").glob("[0-9]*"):
                for what in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        words = (each / what).read_bytes()
                        if SECRET.encode() in words:
                            self.seen.add(words.decode(errors="replace"))


def test_secrets_stay_secret(shared: Presented) -> None:
    """Not in arguments, environments, logs or answers; at rest in files of the owner only."""
    with Watch() as watch:
        shared.lun(
            "lab:/a", "--size", "1M", "--chap-user", "eve", "--chap-secret-file",
            shared.secret_file,
        )  # fmt: skip
        shared.share("lab", *eve(shared))
        shared.run("umount")
        shared.run("mount", shared.mount)
    assert watch.looks > 10
    assert watch.seen == set()
    with Watch() as control, subprocess.Popen(["cat", "-", SECRET], stdin=subprocess.PIPE):
        eventually(lambda: control.seen)  # it would have been seen
    for words in (["share", "ls"], ["share", "lun", "show", "lab:/a"], ["status"]):
        assert SECRET not in shared.run("-v", *words).stdout
    assert "blocks" in smb_client(shared, "lab", "ls", user=EVE)

    holders = []
    for path in shared.store.rglob("*"):
        if path.is_file() and not path.is_symlink() and "shares" not in path.parts:
            if SECRET.encode() in path.read_bytes():
                holders.append(path)
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
            if path.name == "passdb.tdb" or "log" in path.name:
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
                assert path not in holders
    assert holders  # it is kept somewhere, and that was looked at
    assert stat.S_IMODE(shared.store.stat().st_mode) == 0o700
    assert stat.S_IMODE((shared.store / "run").stat().st_mode) == 0o700
    shared.run("share", "lun", "rm", "lab:/a")
    shared.run("share", "smb", "rm", "lab")
    assert not list((shared.store / "run").glob("*-127.0.0.1-*"))
