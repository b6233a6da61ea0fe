"""A tgtd of our own: iSCSI targets on a port that is free, gone at the end."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

DEADLINE_S = 20


class Tgtd:
    """``tgtd`` in the foreground; its control socket has this process's number in its name."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.control = str(os.getpid() % 30_000 + 1)
        Path("/run/tgtd").mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            ["tgtd", "-f", "-C", self.control, "--iscsi", f"portal=127.0.0.1:{self.port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + DEADLINE_S
        while self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, "tgtd is not up"
            time.sleep(0.05)

    def _answers(self) -> int:
        return self._admin("--op", "show", "--mode", "sys", check=False).returncode

    def _admin(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["tgtadm", "-C", self.control, "--lld", "iscsi", *words],
            check=check, capture_output=True,
        )  # fmt: skip

    def add_target(self, iqn: str) -> None:
        self._admin("--op", "new", "--mode", "target", "--tid", "1", "-T", iqn)
        self._admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")

    def add_user(self, user: str, password: str) -> None:
        self._admin("--op", "new", "--mode", "account", "--user", user, "--password", password)
        self._admin("--op", "bind", "--mode", "account", "--tid", "1", "--user", user)

    def add_lun(self, number: int, path: Path) -> None:
        self._admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", str(number),
                    "-b", str(path))  # fmt: skip

    def remove_lun(self, number: int) -> None:
        self._admin("--op", "delete", "--mode", "logicalunit", "--tid", "1", "--lun", str(number))

    def stop(self) -> None:
        self._admin("--op", "delete", "--mode", "system", "--force", check=False)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait(DEADLINE_S)


@contextlib.contextmanager
def running() -> Iterator[Tgtd]:
    made = Tgtd()
    try:
        yield made
    finally:
        made.stop()
