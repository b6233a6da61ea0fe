"""A daemon of the host that we run as our own: private directory, private ports, our child.

Ramet does not touch the system's tgtd or smbd and their files; it runs its own.  Such a child must
not outlive us: what it serves lies on our mount, and a second one would present the same disks
twice.  So the kernel kills it when we die (``setpriv --pdeathsig``), it has a process group of its
own, and whoever starts it again looks for one that is left over first.

The signal comes when the *thread* that started it ends: ``spawn`` is for a thread that lives as
long as the program.  Everything else here may block and is for any other.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from engine import errors

POLL_S = 0.02
STOP_S = 5.0
LOG_TAIL_BYTES = 4096


class Listen(NamedTuple):
    """Where a service listens: an IP address as it is written, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HostDaemon:
    """One child in a directory of its own.  Subclasses say what to run and when it is ready."""

    name = ""

    def __init__(self, directory: Path, listen: Listen) -> None:
        self.directory = directory
        self.listen = listen
        self._process: subprocess.Popen[bytes] | None = None

    # --- what a kind of daemon has to say

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    # --- life

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def check_free(self) -> None:
        """Busy when somebody else listens there already."""
        family = socket.AF_INET6 if ":" in self.listen.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.listen.host, self.listen.port))
                probe.listen(1)
            except OSError as error:
                raise errors.Busy(
                    f"{self.name} cannot listen at {self.listen} ({error.strerror}); "
                    "choose another with --listen ADDRESS:PORT"
                ) from None

    def spawn(self) -> None:
        """Start the child.  Only on a thread that lives as long as the program."""
        assert not self.alive
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.arguments()],
                cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **self.environment()}, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise errors.Unsupported(
                f"{self.name}: setpriv is missing; install util-linux"
            ) from None
        finally:
            os.close(log)

    def kill(self) -> None:
        """End the child and all of its group, at once.  Returns when it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def clear(self) -> None:
        """Take its directory away: what it knew of accounts, its locks, its log."""
        assert not self.alive
        shutil.rmtree(self.directory, ignore_errors=True)

    def wait_ended(self, limit_s: float = STOP_S) -> bool:
        """Whether the child ends by itself within the time."""
        if self._process is None:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)
        return not self.alive

    def complaint(self) -> str:
        """The last line of its log: why it ended, in its own words."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, self.log_path.stat().st_size - LOG_TAIL_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return "it left no log"
        return lines[-1].strip() if lines else "it said nothing"


class Deadline:
    """A moment in the future, and short naps until then."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.monotonic() + limit_s

    def nap(self) -> bool:
        """Sleep a little; False when the time is over."""
        if time.monotonic() >= self._end:
            return False
        time.sleep(POLL_S)
        return True


def point(link: Path, target: Path) -> None:
    """Make ``link`` a symbolic link to ``target``, replacing an older one in one step."""
    if os.path.islink(link) and os.readlink(link) == str(target):
        return
    scratch = link.with_name(link.name + ".new")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    os.replace(scratch, link)


def kill_lock_holder(path: Path) -> None:
    """End the process that holds a POSIX lock on the file, if there is one: a daemon left over.

    Busy when the kernel does not say which, for a lock of another kind or of another PID namespace:
    to kill(2) its answers then, -1 and 0, mean all processes, and our own group.
    """
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        deadline = Deadline(STOP_S)
        while (holder := _lock_holder(file.fileno())) is not None:
            if holder <= 0:
                raise errors.Busy(
                    f"somebody holds {path}, and the kernel does not say which process "
                    f"(`lslocks`, `fuser {path}`); end it first"
                )
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGKILL)
            if not deadline.nap():
                raise errors.Busy(f"process {holder} holds {path} and does not end; end it first")


def _lock_holder(fd: int) -> int | None:
    """fcntl(2) F_GETLK: its process id as it is told; None when nobody holds one."""
    form = "hhqqi4x"
    asked = struct.pack(form, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(form, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)
