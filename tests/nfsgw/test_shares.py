"""``ramet share nfs``: what is exported is served, and what cannot be is not there afterwards."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nfs3_client as nfs3
import pytest
from command import Ramet
from loopback import own_address
from nfs3_client import Failed3, Nfs3Client
from presented import eventually
from rpc_client import RpcClient
from served import Served, serving

from nfsgw.server import listening


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("nfs")) as made:
        (made.lab / "hello").write_text("hello\n")
        yield made


@pytest.fixture
def address(served: Served) -> Iterator[str]:
    """To export at; nothing is afterwards."""
    yield own_address()
    for row in served.json("share", "nfs", "ls"):
        served.run("share", "nfs", "rm", row["address"])


def client(address: str, port: int = 2049) -> Nfs3Client:
    return Nfs3Client((address, port), uid=0)


def is_dead(mount: Path) -> bool:
    """Whether the process behind a mount is gone for good."""
    try:
        mount.stat()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def said(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def exported(served: Served, address: str, *more: object) -> dict[str, Any]:
    found: dict[str, Any] = served.json("share", "nfs", "add", "lab", "--listen", address, *more)
    return found


def test_an_export_as_others_see_it(served: Served, address: str) -> None:
    row = exported(served, address)
    assert row == {
        "kind": "nfs", "address": "lab", "url": f"nfs://{address}/lab",
        "access": "127.0.0.0/8:rw, ::1/128:rw", "read_only": False, "connected": None,
        "state": "up", "reason": None,
    }  # fmt: skip
    assert served.json("share", "nfs", "ls") == [row]
    assert row in served.json("share", "ls")
    assert served.json("volume", "map", "lab")["shares"] == [row["url"]]
    assert said("nfs-cat", f"{row['url']}/hello") == "hello\n"
    assert "/lab 127.0.0.0/8,::1" in said("showmount", "-e", address)
    programs = {tuple(line.split()[:4]) for line in said("rpcinfo", "-p", address).splitlines()}
    for program, version in (("100003", "3"), ("100003", "4"), ("100005", "3")):
        assert (program, version, "tcp", "2049") in programs
        with RpcClient((address, 2049)) as asking:
            asking.call(int(program), int(version), 0).end()


def test_an_export_at_ports_of_its_own(served: Served, address: str) -> None:
    """Its port mapper may be somebody else's: its clients are told the ports."""
    with listening(address, 111), listening(address, 111, socket.SOCK_DGRAM):
        row = exported(served, f"{address}:7049")
        assert row["url"] == f"nfs://{address}/lab?nfsport=7049&mountport=7049"
        url = row["url"].replace("/lab?", "/lab/hello?")
        assert said("nfs-cat", url) == "hello\n"


@pytest.mark.parametrize("port", [111, 2049])
def test_a_place_that_is_taken(served: Served, address: str, port: int) -> None:
    with listening(address, port):
        done = served.run("share", "nfs", "add", "lab", "--listen", address, code=1)
        assert f"port {port} of {address} is taken" in done.stderr
        assert "--listen" in done.stderr
    assert served.json("share", "nfs", "ls") == []
    for other in (111, 2049):  # nothing is left half open
        listening(address, other).close()
    assert exported(served, address)["state"] == "up"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--client", "10.0.0.1/8"], "write 10.0.0.0/24:rw"),
        (["--client", "10.0.0.0/8:all"], "write 10.0.0.0/24:rw"),
        (["--client", "::1:ro", "--client", "::1/128"], "told twice"),
        (["--listen", "nowhere"], "no place to listen"),
        (["--listen", "192.0.2.1"], "--client 10.0.0.0/24"),
        (["--listen", "192.0.2.1", "--client", "10.0.0.0/8"], "no address 192.0.2.1"),
    ],
)
def test_what_cannot_be_exported(served: Served, arguments: list[str], words: str) -> None:
    done = served.run("share", "nfs", "add", "lab", *arguments, code=1)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert served.json("share", "nfs", "ls") == []


def test_who_may_do_what(served: Served, address: str) -> None:
    """Looked at in each call: squashed root cannot write what is root's, a stranger mounts not."""
    rules = ["--client", "127.0.0.0/8:ro", "--client", "127.0.0.1:root", "--client", "::1:rw"]
    row = exported(served, address, *rules)
    assert row["access"] == "127.0.0.0/8:ro, 127.0.0.1/32:root, ::1/128:rw"
    with contextlib.closing(client(address)) as root:
        handle = root.mount(b"/lab")
        made = root.create(handle, b"by-root", mode=0o600).handle
        assert root.getattr(made).uid == 0
        reader = Nfs3Client((address, 2049), uid=0, source="127.1.2.3")
        with contextlib.closing(reader), pytest.raises(Failed3) as caught:
            reader.create(handle, b"by-reader")
        assert caught.value.status == nfs3.ROFS
    served.run("share", "nfs", "rm", "lab")
    exported(served, address, "--client", "10.0.0.0/8")
    with contextlib.closing(client(address)) as stranger:
        with pytest.raises(Failed3) as caught:
            stranger.mount(b"/lab")
        assert caught.value.status == nfs3.ACCES
        assert stranger.exports() == {}


def test_a_removed_export_is_stale_for_good(served: Served, address: str) -> None:
    exported(served, address)
    with contextlib.closing(client(address)) as old:
        handle = old.mount(b"/lab")
        assert served.json("share", "nfs", "rm", "lab", "--dry-run")["dry_run"]
        old.getattr(handle)
        assert served.json("share", "nfs", "rm", "lab")["state"] == "removed"
        for _ in range(2):
            with pytest.raises(Failed3) as caught:
                old.getattr(handle)
            assert caught.value.status == nfs3.STALE
            if not served.json("share", "nfs", "ls"):
                exported(served, address)
    served.run("share", "nfs", "add", "lab", code=13)
    served.run("share", "nfs", "rm", "nothing", code=12)


def test_names_follow_and_nothing_exported_is_removed(served: Served, address: str) -> None:
    served.run("volume", "create", "work")
    served.run("snapshot", "create", "work", "monday")
    for name in ("work", "work@monday"):
        rule = "--client", "127.0.0.0/8:root"
        served.run("share", "nfs", "add", name, "--listen", address, *rule)
    rows = {row["address"]: row for row in served.json("share", "nfs", "ls")}
    assert rows["work@monday"]["url"] == f"nfs://{address}/work@monday"
    with contextlib.closing(client(address)) as other:
        handle = other.mount(b"/work")
        served.run("volume", "rename", "work", "play")
        assert other.mount(b"/play") == handle
        other.getattr(handle)
        with pytest.raises(Failed3):
            other.mount(b"/work")
        with pytest.raises(Failed3) as caught:
            other.create(other.mount(b"/play@monday"), b"new")
        assert caught.value.status == nfs3.ROFS
    refused = served.run("snapshot", "rm", "play", "monday", code=1).stderr
    assert "`ramet share nfs rm play@monday` first" in refused
    served.run("volume", "rm", "play", code=1)
    served.run("share", "nfs", "rm", "play@monday")
    assert "`ramet share nfs rm play` first" in served.run("volume", "rm", "play", code=1).stderr
    served.run("share", "nfs", "rm", "play")
    served.run("volume", "rm", "play")


def test_clients_go_on_when_the_daemon_was_killed(tmp_path: Path) -> None:
    """Handles are good for the next one, which exports what this one did; and a store that is not
    served says so."""
    with serving(tmp_path) as made:
        address = own_address()
        made.run("share", "nfs", "add", "lab", "--listen", address, "--client", "127.0.0.0/8:root")
        with contextlib.closing(client(address)) as before:
            handle = before.create(before.mount(b"/lab"), b"file").handle
            before.write(handle, 0, b"durable", nfs3.FILE_SYNC)
            os.kill(made.json("status")["pid"], signal.SIGKILL)
            with pytest.raises((ConnectionError, OSError)):
                before.null()
        eventually(lambda: is_dead(made.root))
        made.run("mount", made.root)
        with contextlib.closing(client(address)) as after:
            assert after.read(handle, 0, 99) == (b"durable", True)
        made.run("umount")
        (row,) = made.json("share", "nfs", "ls")
        assert (row["state"], row["reason"]) == ("offline", "no daemon serves the store")
        done = made.run("share", "nfs", "add", "lab", code=1)
        assert "run `ramet serve`" in done.stderr
        assert made.json("share", "nfs", "rm", "lab")["state"] == "removed"
        assert made.json("share", "nfs", "ls") == []


def test_a_store_that_is_not_mounted_exports_too(tmp_path: Path) -> None:
    """And who is being answered when it is told to stop gets his answer."""
    ramet = Ramet(tmp_path / "store")
    ramet.run("init", ramet.store)
    ramet.run("volume", "create", "lab")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "cli", "--store", str(ramet.store), "serve"],
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert daemon.stdout is not None
    with daemon.stdout as output:
        assert output.readline() == b"ready\n"
    address = own_address()
    try:
        row = ramet.json(
            "share", "nfs", "add", "lab", "--listen", address, "--client", "127.0.0.0/8:root"
        )
        assert row["state"] == "up"
        with contextlib.closing(client(address)) as writer:
            handle = writer.create(writer.mount(b"/lab"), b"file").handle
            arguments = writer.write_arguments(handle, 0, b"last words", nfs3.FILE_SYNC)
            sent = [writer.rpc.send(nfs3.NFS, 3, 7, arguments) for _ in range(8)]
            writer.written(writer.result(writer.rpc.receive(sent[0])))
            daemon.send_signal(signal.SIGTERM)
            with contextlib.suppress(ConnectionError):  # those that were not read any more
                for xid in sent[1:]:
                    writer.written(writer.result(writer.rpc.receive(xid)))
        assert daemon.wait(60) == 0
    finally:
        daemon.kill()
        daemon.wait()
    assert ramet.run("export", "lab:/file", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"last words"
    assert json.loads(ramet.run("share", "ls").stdout)[0]["state"] == "offline"
