"""The daemon behind the command: one owner, no leftovers, the same answers."""

import os
import signal
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command import Ramet

from service import background
from service.rpc import Client, Request, decode_answer, pack


class Served(Ramet):
    def __init__(self, store: Path, root: Path) -> None:
        super().__init__(store)
        self.root = root

    def ask(self, method: str, *arguments: object) -> Any:
        """The daemon itself, without a command in between."""
        client = Client.connect(self.store)
        assert client is not None
        return client.call(method, *arguments)


@pytest.fixture()
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "store", tmp_path / "mnt")
    made.root.mkdir()
    made.run("init", made.store)
    made.run("volume", "create", "lab")
    made.run("mount", made.root)
    yield made
    if made.json("status")["serving"]:
        made.run("umount")
    assert not os.path.ismount(made.root)


def test_what_the_command_changes_the_mount_shows_at_once(served: Served) -> None:
    lab = served.root / "lab"
    (lab / "golden").write_bytes(b"g" * 300_000)
    assert os.listdir(lab) == ["golden"]
    served.run("clone", "lab:/golden", "lab:/web-{n}", "--count", 3)
    assert sorted(os.listdir(lab)) == ["golden", "web-1", "web-2", "web-3"]
    assert (lab / "web-2").read_bytes() == b"g" * 300_000
    served.run("snapshot", "create", "lab", "one")
    (lab / "golden").write_bytes(b"h")
    served.run("clone", "lab@one:/golden", "lab:/web-1", "--replace")
    served.run("rm", "lab:/web-2")
    assert not (lab / "web-2").exists()
    assert served.json("fsck", "--data")["clean"]
    served.json("gc")
    assert (lab / "web-1").read_bytes() == b"g" * 300_000


def test_a_second_daemon_is_refused(served: Served) -> None:
    served.run("serve", code=11)
    served.run("mount", served.root, code=11)


def test_only_the_owner_may_use_the_socket(served: Served) -> None:
    run = served.store / "run"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "ramet.sock").stat().st_mode) == 0o600


def test_a_crashed_daemon_blocks_nothing(served: Served) -> None:
    path = served.root / "lab" / "a"
    with path.open("wb") as file:
        file.write(b"kept")
        file.flush()
        os.fsync(file.fileno())
    pid = served.json("status")["pid"]
    os.kill(pid, signal.SIGKILL)
    while served.json("status")["serving"]:
        pass
    served.run("mount", served.root)
    assert path.read_bytes() == b"kept"


def test_umount_returns_when_the_store_is_closed(served: Served) -> None:
    (served.root / "lab" / "a").write_bytes(b"last")
    served.run("umount")
    assert not os.path.ismount(served.root)
    assert [e["size_bytes"] for e in served.json("ls", "lab:/")] == [4]


def test_a_path_on_the_mount_is_an_address(served: Served, tmp_path: Path) -> None:
    (served.root / "lab" / "a").write_bytes(b"one")
    served.run("snapshot", "create", "lab", "monday")
    served.run("clone", served.root / "lab" / "a", "lab:/b")
    served.run("clone", served.root / "lab/.snapshots/monday/a", "lab:/c")
    assert (served.root / "lab" / "c").read_bytes() == b"one"
    assert "not under" in served.run("ls", tmp_path, code=1).stderr


def test_an_import_does_not_hold_up_the_mount(served: Served, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(64 << 20))
    with ThreadPoolExecutor() as pool:
        done = pool.submit(served.run, "import", image, "lab:/image")
        seen = 0
        while not done.done():
            (served.root / "lab" / f"n{seen}").write_bytes(b"x")
            assert not (served.root / "lab" / "image").exists() or done.done() or seen
            seen += 1
        done.result()
    assert seen > 10
    assert (served.root / "lab" / "image").read_bytes() == image.read_bytes()


def test_stopping_in_the_middle_leaves_a_clean_store(served: Served, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(512 << 20))  # seconds of work
    with ThreadPoolExecutor() as pool:
        done = pool.submit(served.run, "import", image, "lab:/image", code=1)
        while served.ask("df")["physical_bytes"] < 1 << 20:
            pass
        background.stop(str(served.store))
        done.result()
    served.run("mount", served.root)
    assert served.json("ls", "lab:/") == []
    assert served.json("gc")["freed_bytes"] >= 0
    assert served.json("fsck", "--data")["clean"]
    assert served.json("df")["physical_bytes"] == 0


def test_nonsense_on_the_socket_harms_nobody(served: Served) -> None:
    for frame in (b"", b"\xff\xff\xff\xff", b"\0\0\0\4junk", b"\0\0\0\1\x93", b"\0\0"):
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(str(served.store / "run" / "ramet.sock"))
            door.sendall(frame)
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(str(served.store / "run" / "ramet.sock"))
        door.sendall(pack(Request("__class__", [])))
        assert b"Unsupported" in door.recv(1000)
    assert served.json("status")["serving"]


def test_hostile_requests_are_answered_and_the_mount_stays(served: Served) -> None:
    head = b"\x82\xa6method\xa2ls\xa9arguments"
    bodies = [
        head + b"\x91" * 100_000,  # deeper than the interpreter recurses
        head + b"\x91\xd9\x02\xff\xff",  # no UTF-8
        head + b"\xdd\xff\xff\xff\xff",  # more elements than there are bytes
        head + b"\x91\x05",  # a number where an address is due
        head + b"\x90",
        head + b"\x91\xa3a:b",
    ]
    for body in bodies:
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(str(served.store / "run" / "ramet.sock"))
            door.sendall(len(body).to_bytes(4, "big") + body)
            answer = decode_answer(door.recv(1 << 16)[4:])
            assert answer.kind, body
    assert os.listdir(served.root) == ["lab"]
    assert served.json("status")["serving"]
