"""What only time shows, by Linux kernel clients: two machines' locks, a daemon that is killed under
load, long random walks, a directory of 100,000 (``make deep``)."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import client
import nfs_client
import pytest
from client import Client
from nfs_client import DIR, checks, mount
from presented import Presented, eventually, free_port, presented

pytestmark = pytest.mark.deep
DEADLINE_S = 1200
ROUNDS, KILLS, OPERATIONS, ENTRIES, EMPTIED = 300, 4, 3000, 100_000, 5000


class Guests:
    """Machines that mount the export of one store."""

    def __init__(self, shared: Presented, machine: Client, program: Path) -> None:
        self.shared, self.program = shared, program
        self._machine = machine
        self._port = free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        shared.run(
            "share", "nfs", "add", "lab", "--client", "127.0.0.1/32:root", "--listen",
            f"127.0.0.1:{self._port}",
        )  # fmt: skip

    def start(self, name: str, *versions: str, script: str, options: str = "") -> None:
        mounts = "".join(mount(version, self._port, "/lab", options) for version in versions)
        whole = f"hostname {name}\n{nfs_client.SCRIPT}{mounts}{script}\nexit 0\n"
        self._running[name] = self._machine.start(whole, self._log(name))

    def said(self, name: str) -> str:
        return self._log(name).read_text(errors="replace")

    def ended(self, name: str) -> dict[str, str]:
        """What came of its checks."""
        process = self._running.pop(name)
        return checks(client.finish(process, self._log(name), DEADLINE_S))

    def check(self, *words: object) -> None:
        """A check on this machine."""
        subprocess.run([self.program, *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def _log(self, name: str) -> Path:
        return self.shared.root / f"{name}.console"

    def kill_daemon(self) -> None:
        """kill -9, and a new one; its mount is at the same place."""
        os.kill(self.shared.json("status")["pid"], signal.SIGKILL)
        eventually(self.shared.ended)
        subprocess.run(["umount", "-l", self.shared.mount], check=True)
        self.shared.run("mount", self.shared.mount)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Client, Path]:
    out = tmp_path_factory.mktemp("client")
    return nfs_client.make(out, Path(".venv/guest-cache")), out / nfs_client.PROGRAM


@pytest.fixture
def guests(machine: tuple[Client, Path]) -> Iterator[Guests]:
    with (
        tempfile.TemporaryDirectory(prefix="ramet-nfs-", dir="/var/tmp") as name,
        presented(Path(name)) as shared,
        contextlib.closing(Guests(shared, *machine)) as made,
    ):
        yield made


def waited(guests: Guests, name: str, true: Callable[[], object]) -> None:
    """Until it is so; what the guest said if it never is."""
    try:
        eventually(true, DEADLINE_S)
    except AssertionError:
        raise AssertionError(guests.said(name)[-3000:]) from None


def test_two_machines_lock_each_other_out(guests: Guests) -> None:
    """A counter that both increase, and a half that one of them holds."""
    counting = f"check counter /m4/counter {ROUNDS}\n"
    guests.start("one", "4.2", script=counting + "check hold /m4/half /m4/half-seen")
    guests.start("two", "4.2", script=counting + "check held /m4/half")
    for name in ("one", "two"):
        found = guests.ended(name)
        assert found["/m4/counter"] == found["/m4/half"] == ""
    counter = (guests.shared.lab / "counter").read_bytes()
    assert int.from_bytes(counter, "little") == 2 * ROUNDS


def after_more_syncs(guests: Guests, name: str) -> None:
    synced = guests.said(name).count("SYNCED")
    waited(guests, name, lambda: guests.said(name).count("SYNCED") > synced + 5)


@pytest.mark.parametrize("version", DIR)
def test_a_killed_daemon_loses_no_synced_byte(guests: Guests, version: str) -> None:
    """The client goes on by itself each time; what it wrote is all there in the end."""
    file = f"{DIR[version]}/load"
    script = f"linux_client load {file} {DIR[version]}/stop"
    guests.start("one", version, script=script, options=",wsize=32768")
    for _ in range(KILLS):
        after_more_syncs(guests, "one")
        guests.kill_daemon()
    after_more_syncs(guests, "one")
    (guests.shared.lab / "stop").touch()
    assert file in guests.ended("one"), guests.said("one")[-3000:]
    last = int(guests.said("one").rpartition("SYNCED ")[2].split()[0])
    assert (guests.shared.lab / "load").stat().st_size == last * 4096
    guests.check("verify", guests.shared.lab / "load")


def test_a_lock_outlives_the_daemon(guests: Guests) -> None:
    """Reclaimed in the grace period: the other machine, which waits for it, does not get it."""
    later = "until [ -e /m4/killed{0} ]; do sleep 0.2; done; check locked /m4/half; touch /m4/go{0}"
    kills = range(2)
    guests.start("one", "4.2", script="check hold /m4/half /m4/let-go")
    others = "\n".join(later.format(each) for each in kills)
    guests.start("two", "4.2", script=f"check held /m4/half &\n{others}\nwait")
    waited(guests, "two", (guests.shared.lab / "half-seen").exists)
    for each in kills:
        guests.kill_daemon()
        (guests.shared.lab / f"killed{each}").touch()
        waited(guests, "two", (guests.shared.lab / f"go{each}").exists)
    (guests.shared.lab / "let-go").touch()
    for name in ("one", "two"):
        assert guests.ended(name)["/m4/half"] == "", guests.said(name)[-3000:]


def test_long_random_walks_side_by_side(guests: Guests) -> None:
    """Both versions in two machines, and the mount; each with files of its own."""
    walks = "check fsx /m3/{0}3 {1} {2} 3 & check fsx /m4/{0}4 {1} {2} 4.2; wait"
    for name, seed in (("one", 101), ("two", 202)):
        guests.start(name, *DIR, script=walks.format(name, seed, OPERATIONS))
    guests.check("fsx", guests.shared.lab / "here", 303, OPERATIONS, 3)
    for name in ("one", "two"):
        found = guests.ended(name)
        assert found[f"/m3/{name}3"] == found[f"/m4/{name}4"] == ""


def test_a_directory_of_many(guests: Guests) -> None:
    """Listed by both versions; a smaller one is emptied while it is listed."""
    for name, count in (("many", ENTRIES), ("fewer", EMPTIED)):
        (guests.shared.lab / name).mkdir()
        for number in range(count):
            os.close(os.open(guests.shared.lab / name / str(number), os.O_CREAT | os.O_WRONLY))
    lists = f"check list /m3/many {ENTRIES}; check list /m4/many {ENTRIES}"
    guests.start("one", *DIR, script=f"{lists}; check empty /m4/fewer")
    found = guests.ended("one")
    assert found["/m3/many"] == found["/m4/many"] == found["/m4/fewer"] == ""
    assert os.listdir(guests.shared.lab / "fewer") == []
