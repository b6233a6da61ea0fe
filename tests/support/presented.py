"""A served store with shares, and what a host sees of them."""

import contextlib
import fcntl
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from command import Ramet

SECRET = "Tr0ub4dor-and-3"
DEADLINE_S = 60
GONE_S = 3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(true: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Wait until it is so; what it was then."""
    deadline = time.monotonic() + deadline_s
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found


class Presented(Ramet):
    """The store is at ROOT/store, mounted at ROOT/mnt; ``lab`` is its volume."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "store")
        self.root, self.mount = root, root / "mnt"
        self.mount.mkdir()
        self.secret_file = root / "secret"
        self.secret_file.write_text(SECRET + "\n")
        self.iscsi, self.smb = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.run("init", self.store)
        self.run("mount", self.mount)
        self.run("volume", "create", "lab")

    @property
    def lab(self) -> Path:
        return self.mount / "lab"

    def lun(self, *arguments: object) -> dict[str, Any]:
        """``share lun add``; what it says."""
        return self.json("share", "lun", "add", *arguments, "--listen", self.iscsi)

    def share(self, *arguments: object) -> dict[str, Any]:
        return self.json("share", "smb", "add", *arguments, "--listen", self.smb)

    def states(self) -> list[str]:
        return [row["state"] for row in self.json("share", "ls")]

    def ended(self) -> bool:
        """Whether nobody has the store open."""
        with (self.store / "lock").open("rb+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def daemons(self) -> list[int]:
        return list(self.json("status")["share_daemons"].values())

    def processes(self) -> set[int]:
        """Those that run for this store; not the ended ones that nobody has waited for."""
        found = set()
        for each in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (each / "cmdline").read_bytes().decode(errors="replace")
                inside = os.readlink(each / "cwd").startswith(str(self.store))
                if inside or f"{self.store}/run/" in words:
                    found.add(int(each.name))
        return found

    def close(self) -> None:
        if self.json("status")["serving"]:
            self.run("umount")
        assert not os.path.ismount(self.mount)
        assert self.processes() == set()


class Disk:
    """A LUN, opened by QEMU's initiator for as long as this lives; one command at a time."""

    PROMPT = b"qemu-io> "

    def __init__(self, url: str, *options: str) -> None:
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", "qemu-io", "-f", "raw", "-n", *options, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._until_prompt("open")

    def __enter__(self) -> "Disk":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"quit\n")
            self._process.stdin.close()
        try:
            self._process.wait(GONE_S)
        except subprocess.TimeoutExpired:  # its target is gone, and it goes on asking
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def do(self, command: str) -> str:
        """What it says of a command of qemu-io."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        return self._until_prompt(command)

    def _until_prompt(self, command: str) -> str:
        assert self._process.stdout is not None
        said, deadline = b"", time.monotonic() + DEADLINE_S
        while not said.endswith(self.PROMPT):
            readable, _, _ = select.select([self._process.stdout], [], [], 1)
            assert time.monotonic() < deadline, f"{command}: no answer but {said!r}"
            if readable:
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                assert part, f"qemu-io ended: {said!r}"
                said += part
        return said.decode(errors="replace")


def qemu_io(url: str, *commands: str) -> str:
    """Open a LUN, do, close; what was said."""
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "raw", "-n", *words, url], capture_output=True, text=True,
        check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    return done.stdout + done.stderr


def inquiry(url: str, page: int, initiator: str = "iqn.2026-01.test:me") -> str:
    done = subprocess.run(
        ["iscsi-inq", "-i", initiator, "-e", "1", "-c", str(page), url],
        capture_output=True, encoding="latin-1", check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    return done.stdout + done.stderr


def with_user(url: str, user: str, secret: str) -> str:
    return url.replace("iscsi://", f"iscsi://{user}%{secret}@")


def size_of(url: str) -> int:
    told = subprocess.run(
        ["qemu-img", "info", "--output", "json", url], capture_output=True, text=True, check=True
    ).stdout
    return int(json.loads(told)["virtual-size"])


def smb_client(shared: Presented, name: str, *commands: str, user: str | None = None) -> str:
    """smbclient's words; ``user`` NAME%SECRET, None: a guest."""
    host, _, port = shared.smb.partition(":")
    who = ["-N"] if user is None else ["-U", user]
    done = subprocess.run(
        ["smbclient", "-p", port, f"//{host}/{name}", *who, "-c", "; ".join(commands)],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S, cwd=shared.root,
    )  # fmt: skip
    return done.stdout + done.stderr


@contextlib.contextmanager
def presented(root: Path) -> Iterator[Presented]:
    made = Presented(root)
    try:
        yield made
    finally:
        made.close()
